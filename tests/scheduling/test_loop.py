"""The whole loop on a schedule, from decoding to promotion. Takes about half a minute."""

import signal
import subprocess
import time

import pytest
import yaml

import support
from medloop import params
from support import Project

SETTINGS = {
    "base": {"dataset": "wards"},
    "ingest": {"source": "dicom", "root": "data/wards", "split": {"val": 0.25, "test": 0.35}},
    "validate": {"min_samples_per_class": 2},
    "preprocess": {"size_px": [16, 16]},
    "train": {"architectures": ["cnn"], "epochs": 1, "hyper": {"cnn": {"filters": [8, 16]}}},
    "evaluate": {"resamples": 100},
    "promote": {"min_samples": 10, "min_per_class": 3, "floor": 0.0, "automatic": True},
}
PATIENCE_SECONDS = 300


@pytest.fixture
def project(tmp_path) -> Project:
    project = Project(tmp_path)
    support.dicom_tree(project.folder / "data/wards", 80)
    content = params.merge(params.mapping(support.ROOT / "params.yaml"), SETTINGS)
    content["schedule"] = [{"name": "often", "interval_s": 5}]
    (project.folder / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return project


def test_a_scheduled_run_trains_registers_and_promotes_and_the_next_finds_nothing_new(project):
    with subprocess.Popen(["medloop", "schedule", "serve"], cwd=project.folder, env=project.env) as server:
        try:
            end = time.monotonic() + PATIENCE_SECONDS
            while "nothing new" not in (said := project.run("medloop", "schedule", "history", "--last", "200")):
                assert server.poll() is None
                assert "failed" not in said
                assert time.monotonic() < end, said
                time.sleep(2)
            server.send_signal(signal.SIGTERM)
            assert server.wait(60) == 0
        finally:
            server.kill()
    assert "version 1 became champion" in said
    assert "nothing new: medloop-classification-wards version 1 stands" in said
    assert said.count("became champion") == 1
    assert "champion" in project.run("medloop", "models")
