"""The contract server as a fixture, and no settings but the test's own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from kfp_contract.server import Server, serving
from medloop_pipelines import settings


@pytest.fixture
def description(shared_data: Path) -> Path:
    """The description of the Kubeflow Pipelines API, or a skip."""
    path = shared_data.parent / "kfp-api/kfp_api_single_file.swagger.json"
    if not path.is_file():
        pytest.skip(f"no description of the Kubeflow Pipelines API: {path} is absent")
    return path


@pytest.fixture
def kubeflow(description: Path) -> Iterator[Server]:
    """A single-user stand-in for the Kubeflow Pipelines API, open to all."""
    with serving(description) as server:
        yield server


@pytest.fixture(autouse=True)
def own_settings(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the user's settings of Kubeflow out; return where a test may put its own."""
    folder = tmp_path_factory.mktemp("config")
    monkeypatch.setattr("kfp.Client._LOCAL_KFP_CONTEXT", str(folder / "context.json"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    for name in ("CONFIG", *settings.KNOWN):
        monkeypatch.delenv(f"MEDLOOP_KFP_{name.upper()}", raising=False)
    (folder / "medloop").mkdir()
    return folder / "medloop/kubeflow.yaml"
