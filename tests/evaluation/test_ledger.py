import fcntl
from concurrent.futures import ThreadPoolExecutor

import pytest

from medloop.errors import Refused
from medloop.evaluation import ledger


def test_a_pair_counts_once_and_models_are_counted_by_test_set():
    assert ledger.opened("t1", "m1") == 1
    assert ledger.opened("t1", "m1") == 1
    assert ledger.opened("t1", "m2") == 2
    assert ledger.opened("t2", "m1") == 1
    assert ledger.opened("t1", "m1") == 2, "what others saw since counts too"
    assert len(ledger.path().read_text().splitlines()) == 3


def test_many_at_once_lose_nothing():
    with ThreadPoolExecutor(8) as pool:
        counts = list(pool.map(lambda number: ledger.opened("t", f"m{number % 10}"), range(40)))
    assert len(ledger.path().read_text().splitlines()) == max(counts) == 10


def test_an_entry_waits_for_the_one_before_it():
    ledger.opened("t", "m")
    with ThreadPoolExecutor(1) as pool:
        with ledger.path().open("a") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            waiting = pool.submit(ledger.opened, "t", "m2")
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.3)
            other.write('{"test_sha256": "t", "model_sha256": "m3"}\n')
        assert waiting.result(timeout=10) == 3


def test_a_line_that_is_none_is_refused_and_left_as_it_is():
    ledger.opened("t", "m")
    before = ledger.path().read_text() + '{"test_sha256": "t"\n'
    ledger.path().write_text(before)
    with pytest.raises(Refused, match="line 2"):
        ledger.opened("t", "m2")
    assert ledger.path().read_text() == before
