"""What several tests share: where the real data is, and a state of its own for each test."""

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import medloop  # noqa: F401  # before what is heavy: see there what it sets

ROOT = Path(__file__).resolve().parents[1]
LONG = [  # files that take minutes: they begin first, so that at the end no core waits for one of them
    "pipelines/test_containers.py",
    "test_accuracy.py",
    "operations/test_promote.py",
    "stack/test_stack.py",
    "test_loop.py",
    "stages/test_train.py",
    "models/test_architectures.py",
    "scheduling/test_loop.py",
    "pipelines/test_training.py",
    "backup/test_registry.py",
    "training/test_team.py",
    "test_teaching_loop.py",
    "test_box_loop.py",
    "test_mask_loop.py",
    "test_table_loop.py",
    "test_volume_loop.py",
    "test_sequence_loop.py",
    "test_label_loops.py",
    "pipelines/test_pushing.py",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long files first; the rest stay in their order."""
    places = {ROOT / "tests" / name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path, len(LONG)))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real data, or a skip."""
    folder = Path(os.environ.get("MEDLOOP_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is absent, and $MEDLOOP_DATA names no other folder")
    return folder


def _at_home(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Keep keys, checkpoints, the ledger and the tracking store in a folder."""
    patch.setenv("MEDLOOP_KEY_FILE", str(folder / "pseudonym.key"))
    patch.setenv("MEDLOOP_STATE", str(folder / "state"))
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")


@pytest.fixture(autouse=True)
def own_state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep what each test leaves apart from the user's."""
    folder = tmp_path_factory.mktemp("state")
    _at_home(monkeypatch, folder)
    if "mlflow" in sys.modules:  # it remembers the address of the last test; to forget it also unsets the variable
        sys.modules["mlflow"].set_tracking_uri(None)
        _at_home(monkeypatch, folder)
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for the loop of a module, whose fixtures keep there what `own_state` keeps for a test."""
    folder = tmp_path_factory.mktemp("loop")
    with pytest.MonkeyPatch.context() as patch:
        _at_home(patch, folder)
        yield folder


@pytest.fixture
def at_store(store: Path, own_state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test go on where the loop of its module is kept."""
    _at_home(monkeypatch, store)


@pytest.fixture(autouse=True)
def own_log() -> Iterator[None]:
    """Remove the log handlers that a test's libraries added, which write to a stderr that is closed by then."""
    before, loud = set(logging.root.handlers), logging.raiseExceptions
    yield
    logging.raiseExceptions = loud
    for handler in set(logging.root.handlers) - before:
        logging.root.removeHandler(handler)
