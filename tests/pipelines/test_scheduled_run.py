"""What a schedule's run does on a cluster, here as processes: it looks, trains, compares, and next time does nothing.

Takes about a minute and a half.
"""

import json
import shutil

import pytest
import yaml

import support
import wards
from medloop import params
from support import CANARY, Project

RUN = ("medloop", "pipeline", "run", "--scheduled")
SETTINGS = {
    "train": {"architectures": ["cnn"]},
    "promote": {"min_samples": 10, "min_per_class": 3, "floor": 0.0, "margin": 0.9},
}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    project = wards.project(tmp_path_factory.mktemp("scheduled"))
    content = params.merge(params.mapping(project.folder / "params.yaml"), SETTINGS)
    (project.folder / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return project


def ran(project: Project, root: str, *options: str) -> dict[str, dict]:
    """Run the pipeline, and return what each step put out, by its name."""
    project.run(*RUN, "--root", root, *options)
    [folder] = [path for path in (project.folder / root).iterdir() if path.is_dir()]
    found = sorted(folder.rglob("executor_output.json"))
    said = {path.parent.name: json.loads(path.read_text()).get("parameterValues", {}) for path in found}
    said["look"]["reason"] = (folder / "look/finding").read_text()
    return said


def splits(project: Project, root: str) -> dict[str, str]:
    """Return the side of each patient's pseudonym."""
    import pandas as pd

    [path] = (project.folder / root).rglob("manifest.parquet")
    return dict(pd.read_parquet(path)[["patient_id", "split"]].itertuples(index=False))


def test_runs_over_growing_data(project):
    first = ran(project, "artifacts/first")
    assert set(first) == {"look", "ingest", "validate", "preprocess", "train", "evaluate", "register", "promote"}
    assert first["look"]["reason"].startswith("there is no version yet (81 files, the newest of 20")
    assert first["promote"]["Output"].startswith("version 1 may become champion")
    assert "champion" not in project.run("medloop", "models").partition("\n")[2].split()

    second = ran(project, "artifacts/second")
    assert set(second) == {"look"}
    assert second["look"]["reason"].startswith("nothing new: version 1 came of the same data (81 files")

    shutil.rmtree(project.folder / "data/wards")
    support.dicom_tree(project.folder / "data/wards", 90, name=CANARY)
    third = ran(project, "artifacts/third", "--set", "promote.automatic=true")
    assert third["look"]["reason"].startswith("no version came of this data yet (91 files")
    assert "90 items: 10 read, 80 taken over from earlier samples" in project.output
    assert third["register"]["Output"].endswith("/2")
    assert third["promote"]["Output"].startswith("version 2 became champion")
    before, after = splits(project, "artifacts/first"), splits(project, "artifacts/third")
    assert len(before) == 80
    assert {patient: after[patient] for patient in before} == before

    assert set(ran(project, "artifacts/fourth")) == {"look"}
    assert CANARY not in project.output
