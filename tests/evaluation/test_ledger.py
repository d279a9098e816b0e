import fcntl
from concurrent.futures import ThreadPoolExecutor

import pytest

from medloop.errors import Refused
from medloop.evaluation import ledger


def test_a_pair_counts_once_and_models_are_counted_by_test_set():
    assert ledger.opened(["a", "b"], "m1") == (ledger.name(["b", "a"]), 1)
    assert ledger.opened(["b", "a"], "m1").openings == 1
    assert ledger.opened(["a", "b"], "m2").openings == 2
    assert ledger.opened(["c"], "m1").openings == 1
    assert ledger.opened(["a", "b"], "m1").openings == 2, "what others saw since counts too"
    assert len(ledger.path().read_text().splitlines()) == 3


def test_a_test_set_that_has_grown_is_not_a_fresh_one():
    ledger.opened(["a", "b"], "m1")
    ledger.opened(["x"], "m2")
    assert ledger.opened(["a", "b", "c"], "m3").openings == 2
    assert ledger.opened(["c", "x"], "m4").openings == 3
    assert ledger.opened(["a", "b", "c"], "m1").openings == 3, "m1 saw it twice and counts once"


def test_many_at_once_lose_nothing():
    with ThreadPoolExecutor(8) as pool:
        counts = list(pool.map(lambda number: ledger.opened("t", f"m{number % 10}").openings, range(40)))
    assert len(ledger.path().read_text().splitlines()) == max(counts) == 10


def test_an_entry_waits_for_the_one_before_it():
    test, _ = ledger.opened("t", "m")
    with ThreadPoolExecutor(1) as pool:
        with ledger.path().open("a") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            waiting = pool.submit(ledger.opened, "t", "m2")
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.3)
            other.write(f'{{"test_sha256": "{test}", "model_sha256": "m3"}}\n')
        assert waiting.result(timeout=10).openings == 3


def test_a_line_that_is_none_is_refused_and_left_as_it_is():
    ledger.opened("t", "m")
    before = ledger.path().read_text() + '{"test_sha256": "t"\n'
    ledger.path().write_text(before)
    with pytest.raises(Refused, match="line 2"):
        ledger.opened("t", "m2")
    assert ledger.path().read_text() == before


def test_images_that_went_missing_are_named():
    test, _ = ledger.opened("t", "m")
    (ledger.path().parent / "test_sets" / f"{test}.txt").unlink()
    with pytest.raises(Refused, match=f"{test}.txt: put it back"):
        ledger.opened("u", "m")
