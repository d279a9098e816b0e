"""Kills each part of the loop without a word, several times, and counts how often nothing was lost.

    python tests/benchmarks/bench_kills.py [TIMES]

Each kill is that of a test, which says what must hold afterwards; here it is done TIMES times over (default 5).
"""

import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
KILLS = {
    "MLflow server amid a run": "stack/test_stack.py::test_the_mlflow_server_is_killed_amid_a_run_and_nothing_is_lost",
    "PostgreSQL amid a run": "stack/test_stack.py::test_what_was_logged_survives_the_database_being_killed",
    "S3 amid an upload": "stack/test_stack.py::test_an_upload_goes_on_after_s3_was_killed_in_its_midst",
    "holder of the lease": "test_lease.py::test_a_holder_that_is_killed_blocks_until_its_lease_expires",
    "training, thrice each": "stages/test_train_resume.py::"
    "test_killed_at_three_random_moments_it_ends_with_the_bytes_of_an_undisturbed_run",
    "`schedule serve`": "scheduling/test_service.py::"
    "test_two_copies_fire_once_and_the_second_takes_over_from_a_killed_one",
}


class Repeated:
    """A plugin of pytest that runs each test several times, and counts how it went."""

    def __init__(self, times: int) -> None:
        self.times, self.passed, self.ran = times, Counter[str](), Counter[str]()

    @pytest.fixture
    def repetition(self, request: pytest.FixtureRequest) -> int:
        return int(request.param)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        metafunc.fixturenames.append("repetition")
        metafunc.parametrize("repetition", range(self.times), indirect=True)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            name = report.nodeid.rpartition("::")[2].partition("[")[0]
            self.ran[name] += 1
            self.passed[name] += report.passed


def main(times: int) -> int:
    repeated = Repeated(times)
    with tempfile.TemporaryDirectory() as folder:
        options = ["-q", "-n", "0", "-p", "no:cacheprovider", "--basetemp", f"{folder}/tests"]
        code = pytest.main([*options, *(str(TESTS / test) for test in KILLS.values())], plugins=[repeated])
    for what, test in KILLS.items():
        name = test.rpartition("::")[2]
        print(f"{what:26} killed {repeated.ran[name]} times, survived {repeated.passed[name]} of {times}")
    return int(code)


if __name__ == "__main__":
    sys.exit(main(int((*sys.argv, 5)[1])))
