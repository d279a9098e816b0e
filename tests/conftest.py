"""What several tests share: where the real data is, and a state of its own for each test."""

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real data, or a skip."""
    folder = Path(os.environ.get("MEDLOOP_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is absent, and $MEDLOOP_DATA names no other folder")
    return folder


@pytest.fixture(autouse=True)
def own_state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep keys, checkpoints, the ledger and the tracking store of each test apart from the user's."""
    folder = tmp_path_factory.mktemp("state")
    monkeypatch.setenv("MEDLOOP_KEY_FILE", str(folder / "pseudonym.key"))
    monkeypatch.setenv("MEDLOOP_STATE", str(folder / "state"))
    if "mlflow" in sys.modules:  # it remembers the address that the last test used
        sys.modules["mlflow"].set_tracking_uri(None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    return folder
