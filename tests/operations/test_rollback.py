"""Rollback gives the place back, to the very same predictions."""

from pathlib import Path

import pytest

import toy_registry
from medloop import params
from medloop.errors import Refused
from medloop.operations.predict import predict
from medloop.operations.promote import promote
from medloop.operations.rollback import rollback
from medloop.tracking import registry
from medloop.tracking.connection import server
from toy_registry import Toy, registered

NAME = "medloop-classification-toy"
BASE = Toy().base
RULE = params.Promote(resamples=200, floor=0.5, margin=0.5)


@pytest.fixture(autouse=True)
def _store(own_state: Path) -> None:
    toy_registry.empty_store(own_state)


def champions(folder: Path, *noises: float) -> None:
    for noise in noises:
        registered(folder, noise=noise)
        assert promote(BASE, RULE, samples=folder / "samples").ok


def predictions(folder: Path) -> bytes:
    output = folder / "out.csv"
    predict(BASE, source=folder / "samples", output=output)
    return output.read_bytes()


def test_the_previous_champion_predicts_the_same_bytes_again(tmp_path):
    champions(tmp_path, 0.0)
    first = predictions(tmp_path)
    champions(tmp_path, 0.3)
    second = predictions(tmp_path)
    assert first != second
    assert rollback(BASE).startswith("version 1 is champion again, version 2 is now previous")
    assert predictions(tmp_path) == first
    assert rollback(BASE).startswith("version 2 is champion again")
    assert predictions(tmp_path) == second


def test_without_a_champion_or_one_before_it_there_is_nothing_to_roll_back(tmp_path):
    with pytest.raises(Refused, match="no champion to roll back from"):
        rollback(BASE)
    champions(tmp_path, 0.0)
    with pytest.raises(Refused, match="no champion before version 1"):
        rollback(BASE)


def test_a_previous_champion_whose_file_was_changed_is_refused(tmp_path, own_state):
    champions(tmp_path, 0.0, 0.3)
    for path in own_state.rglob("model.onnx"):
        path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(Refused, match=r"model.onnx does not match its digest"):
        rollback(BASE)
    with server() as client:
        assert registry.get(client, NAME, "champion").number == "2"


def test_a_rollback_counts_against_promotions_under_way(tmp_path, monkeypatch):
    from medloop import turn

    champions(tmp_path, 0.0, 0.3)
    before = turn.seen(NAME)
    rollback(BASE)
    assert turn.seen(NAME) != before
