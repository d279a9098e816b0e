"""The whole loop through `dvc repro`, on DICOM files that carry a patient's name wherever one can stand."""

import json
import os
import random
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

import support
from medloop import params
from support import CANARY, Project

SETTINGS = {
    "base": {"dataset": "wards"},
    "ingest": {"source": "dicom", "root": "data/wards", "max_rejected": 0.1, "split": {"val": 0.25, "test": 0.35}},
    "validate": {"min_samples_per_class": 2},
    "preprocess": {"size_px": [20, 20]},
    "train": {"architectures": ["cnn", "lstm"], "epochs": 2, "hyper": {"cnn": {"filters": [8, 16]}}},
    "evaluate": {"resamples": 200},
    "promote": {"min_samples": 10, "min_per_class": 3, "floor": 0.0},
}
STAGES = ("ingest", "validate", "preprocess", "train@cnn", "evaluate", "register")
NOT_OURS = {".git", "home", "data", ".medloop"}


def write_params(project: Project, **changes) -> None:
    content = params.merge(params.mapping(support.ROOT / "params.yaml"), SETTINGS)
    (project.folder / "params.yaml").write_text(yaml.safe_dump(params.merge(content, changes), sort_keys=False))


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    """A project after one `dvc repro`; two of its 90 files cannot be read."""
    project = Project(tmp_path_factory.mktemp("loop"))
    tree = support.dicom_tree(project.folder / "data/wards", 88, name=CANARY)
    support.truncated(support.dicom(900, True, name=CANARY), tree / f"{CANARY}-torn.dcm")
    (tree / f"{CANARY}-letter.dcm").write_text(f"Dear Mrs {CANARY}")
    with (tree / "labels.csv").open("a") as file:
        file.write(f"{CANARY}-torn.dcm,finding\n{CANARY}-letter.dcm,normal\n")
    write_params(project)
    project.run("dvc", "repro")
    return project


@pytest.fixture
def untouched(project):
    """Whatever the test does, the last good outputs are the same bytes afterwards."""
    before = project.contents()
    yield
    write_params(project)
    assert project.contents() == before


def test_every_stage_left_its_output(project):
    metrics = json.loads((project.folder / "artifacts/evaluation/metrics.json").read_text())
    assert metrics["test"]["auc"]["low"] <= metrics["test"]["auc"]["value"] <= metrics["test"]["auc"]["high"]
    for name in ("samples", "validation", "arrays", "holdout", "models/cnn", "models/lstm", "evaluation"):
        assert (project.folder / "artifacts" / name / "lineage.json").exists(), name


def test_unreadable_files_are_listed_by_pseudonym_and_named_in_private(project):
    listed = json.loads((project.folder / "artifacts/samples/ingest.json").read_text())["rejected"]
    private = project.folder / ".medloop/private/rejects.csv"
    assert len(listed) == 2
    assert private.stat().st_mode & 0o777 == 0o600
    assert all(entry["pseudonym"] in private.read_text() for entry in listed)


def test_no_patient_is_named_anywhere(project):
    project.run("medloop", "promote")
    project.run("medloop", "predict", "--model", "champion", "data/wards", "artifacts/runs/predicted.csv", fails=True)
    project.run("medloop", "models")
    found = [
        str(path)
        for path in project.folder.parent.rglob("*")
        if path.is_file() and not NOT_OURS & set(path.relative_to(project.folder.parent).parts)
        if CANARY.lower().encode() in path.read_bytes().lower() or CANARY.lower() in path.name.lower()
    ]
    found += [str(path) for path in project.home.rglob("*") if CANARY.lower() in str(path).lower()]
    assert (project.folder / ".medloop/private/dvc").is_dir(), "DVC keeps file names in a folder that others can read"
    assert (project.folder / ".medloop/private").stat().st_mode & 0o777 == 0o700
    found += [
        str(path)
        for path in (project.folder / ".medloop").rglob("*")
        if path.is_file() and "private" not in path.parts and CANARY.encode() in path.read_bytes()
    ]
    assert found == []
    assert CANARY.lower() not in project.output.lower()


def test_another_root_and_a_new_file_leave_no_name_behind(tmp_path):
    project = Project(tmp_path)
    write_params(project, ingest={"source": "phantom", "root": "data/none", "options": {"phantom": {"patients": 30}}})
    project.run("dvc", "repro", "ingest")
    support.dicom_tree(project.folder / "data/wards", 40, name=CANARY)
    write_params(project)
    project.run("dvc", "repro", "ingest")
    new = project.folder / f"data/wards/{CANARY}-new.dcm"
    support.dicom(50, True, name=CANARY).save_as(new, enforce_file_format=True)
    with (new.parent / "labels.csv").open("a") as file:
        file.write(f"{new.name},finding\n")
    project.run("dvc", "repro", "ingest")
    named = [
        path.relative_to(project.folder)
        for path in project.folder.rglob("*")
        if path.is_file() and not {".git", "data"} & set(path.relative_to(project.folder).parts)
        if CANARY.lower().encode() in path.read_bytes().lower()
    ]
    private = project.folder / ".medloop/private"
    assert {path.parts[:2] for path in named} == {(".medloop", "private")}
    assert {path.parts[2] for path in named} == {"cache", "dvc", "samples.csv"}
    assert private.stat().st_mode & 0o777 == 0o700
    assert not (project.folder / ".dvc/cache").exists()


def test_an_unforeseen_error_shows_no_text_that_may_hold_a_name(project, untouched, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        f"import csv\ndef broken(*a, **k): raise RuntimeError('{CANARY}')\ncsv.DictReader = csv.reader = broken\n"
        "import pandas\npandas.read_csv = broken\n"
    )
    path = f"{tmp_path}:{project.env['PYTHONPATH']}"
    said = project.run("medloop", "ingest", fails=True, PYTHONPATH=path)
    assert CANARY not in said
    assert "Traceback" not in said


def test_nothing_but_loopback_is_ever_asked(project):
    assert not project.socket_log.exists(), project.socket_log.read_text()
    project.run("python", "-c", "import socket; socket.create_connection(('203.0.113.1', 80))", fails=True)
    assert project.socket_log.exists(), "the guard itself does not work"
    project.socket_log.unlink()


def test_a_second_run_does_nothing_but_the_registry_check(project):
    said = project.run("dvc", "repro")
    assert [line for line in said.splitlines() if line.startswith("Running stage")] == ["Running stage 'register':"]


def test_a_new_architecture_trains_alone(project):
    folder = project.folder / "components/medloop/models"
    (folder / "tiny.py").write_text(
        '"""One dense layer."""\n\nfrom keras import Model, layers\n\nKIND = "convolution"\n\n\n'
        "def build(input_shape, outputs):\n    image = layers.Input(input_shape)\n"
        "    return Model(image, layers.Dense(outputs)(layers.Flatten()(image)))\n"
    )
    hyper = {"tiny": {}}
    write_params(project, train={"architectures": ["cnn", "lstm", "tiny"], "hyper": hyper})
    said = project.run("dvc", "repro")
    ran = [line.split("'")[1] for line in said.splitlines() if line.startswith("Running stage")]
    assert ran == ["train@tiny", "evaluate", "register"]
    (folder / "tiny.py").unlink()
    write_params(project)
    project.run("dvc", "repro", "evaluate")


def test_a_new_source_is_one_new_file(tmp_path):
    project = Project(tmp_path)
    (project.folder / "components/medloop/sources/squares.py").write_text(
        "from functools import partial\n\nimport numpy as np\n\nfrom medloop.params import Section\n"
        "from medloop.sources import Item, Sample\n\n\nclass Options(Section):\n    count: int = 3\n\n\n"
        "def items(root, options, *, seed):\n    for i in range(options.count):\n"
        "        yield Item(str(i), partial(read, i, seed))\n\n\ndef read(i, seed):\n"
        "    pixels = np.random.default_rng((seed, i)).integers(0, 255, (20, 20)).astype('uint8')\n"
        "    yield Sample(str(i), pixels, 8, label='ab'[i % 2], patient_id=str(i))\n"
    )
    content = params.mapping(support.ROOT / "params.yaml")
    ingest = {"source": "squares", "options": {"squares": {"count": 40}}}
    (project.folder / "params.yaml").write_text(yaml.safe_dump(params.merge(content, {"ingest": ingest})))
    project.run("medloop", "ingest")
    report = json.loads((project.folder / "artifacts/samples/ingest.json").read_text())
    assert sum(sum(split.values()) for split in report["counts"].values()) == 40


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": {"epocs": 3}}, "unknown parameter train.epocs; did you mean 'epochs'?"),
        ({"train": {"epochs": 0}}, "train.epochs: Input should be greater than or equal to 1, got 0"),
        (
            {"ingest": {"source": "nix"}},
            "unknown source 'nix'; known: coco, dicom, dicom_seg, folder, masks, medmnist, medmnist3d, nifti, phantom",
        ),
        ({"base": {"task": "nix"}}, "unknown task 'nix'; known: classification"),
        ({"validate": {"suite": "nix"}}, "unknown expectation 'nix'; known: image"),
        (
            {"train": {"architectures": ["nix"], "hyper": {"nix": {}}}},
            "unknown architecture train.hyper.nix; known: attention, attention_unet, cnn, cnn3d, convnext, densenet",
        ),
        ({"ingest": {"source": "medmnist", "options": {"medmnist": {"name": "nixmnist"}}}}, "breastmnist"),
        ({"ingest": {"root": "data/nowhere"}}, "data/nowhere"),
        ({"ingest": {"max_rejected": 0.001}}, "ingest.max_rejected"),
        ({"ingest": {"split": {"test": 1e-9}}}, "no sample stands in test"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_parameters_are_refused_in_one_message(project, untouched, changes, message):
    write_params(project, **changes)
    said = project.run("medloop", "repro", fails=True)
    assert message in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",finding\n", ",\n", "label"),
        ("\n", "\nnobody/nothing.dcm,finding\n", "file"),
        (",finding", ",normal", "class"),
    ],
    ids=["label missing", "row without file", "one class"],
)
def test_a_bad_label_table_is_refused(project, untouched, old, new, message):
    table = project.folder / "data/wards/labels.csv"
    content = table.read_bytes()
    table.write_text(table.read_text().replace(old, new, -1 if message == "class" else 1))
    try:
        said = project.run("medloop", "repro", fails=True)
    finally:
        table.write_bytes(content)
    assert message in said
    assert "Traceback" not in said
    assert CANARY not in said


def test_another_key_is_refused(project, untouched, tmp_path):
    said = project.run("dvc", "repro", "--force", "ingest", fails=True, MEDLOOP_KEY_FILE=str(tmp_path / "other.key"))
    assert "key" in said
    assert "Traceback" not in said


def test_a_full_disk_is_refused(project, untouched):
    said = project.run("bash", "-c", "ulimit -f 20; medloop ingest", fails=True)
    assert "no room on disk" in said
    assert "Traceback" not in said


def test_an_unreachable_server_keeps_the_results(project, untouched):
    said = project.run("medloop", "register", fails=True, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert project.returncode == 4
    assert "http://127.0.0.1:9" in said
    assert "medloop register" in said
    assert "Traceback" not in said


def test_a_changed_model_file_is_refused(project, untouched):
    path = project.folder / "artifacts/models/cnn/model.onnx"
    content = path.read_bytes()
    path.unlink()  # it may be linked to DVC's cache
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        said = project.run("medloop", "evaluate", fails=True)
    finally:
        path.write_bytes(content)
    assert "model.onnx does not match its digest" in said


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_is_killed_runs_again(project, stage):
    before = project.contents()
    command = ["dvc", "repro", "--single-item", "--force", stage]
    log = project.folder.parent / "killed.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            command, cwd=project.folder, env=project.env, stdout=file, stderr=file, start_new_session=True
        )
        deadline = time.monotonic() + 60
        while "> medloop" not in log.read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(random.Random(stage).uniform(0.4, 2))  # sooner than DVC writes dvc.lock, which it does in place
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert project.contents() == before
    project.run(*command)
    project.run("dvc", "repro", "evaluate")  # all but the registry check, which asks a server and changes no file
    changed = {name for name, content in project.contents().items() if before.get(name) != content}
    assert changed == set()
    assert not list((project.folder / "artifacts").glob(".*.partial")), "a half-written output was left behind"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_ends_the_training_and_all_around_it(project, untouched, number):
    before = (project.folder / "params.yaml").read_bytes()
    command = ["medloop", "repro", "--set", "train.epochs=1000", "--set", "train.patience=1000"]
    log = project.folder.parent / f"{number.name}.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            command,
            cwd=project.folder,
            env=project.env,
            stdout=file,
            stderr=file,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
        )
        deadline = time.monotonic() + 60
        while "listen" not in (training := at_work(project)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert training.keys() >= {"repro", "train", "listen"}, log.read_text()
        assert (project.folder / "params.yaml").read_bytes() != before
        process.send_signal(number)
        process.wait(timeout=60)
    left = at_work(project)
    for each in left.values():
        os.kill(each, signal.SIGKILL)
    assert left == {}
    assert process.returncode != 0
    assert (project.folder / "params.yaml").read_bytes() == before


def at_work(project: Project) -> dict[str, int]:
    """Return which of repro, train and listen run in the project's folder, with their process ids."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == project.folder:
                words = re.split(r"[\0.]", (process / "cmdline").read_text())
                found |= {name: int(process.name) for name in ("repro", "train", "listen") if name in words}
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def test_an_experiment_runs_twice_and_the_default_again(project):
    """They evaluate alone: what DVC and git keep of an experiment does not hang on the stage that it changes."""
    identity = ("-c", "user.name=a", "-c", "user.email=a@localhost")
    project.run("git", "add", ".")
    project.run("git", *identity, "commit", "-qm", "start")
    (project.folder / ".venv").mkdir()
    (project.folder / ".venv/bin").symlink_to(Path(os.environ.get("VIRTUAL_ENV", support.ROOT / ".venv")) / "bin")
    (project.folder / ".venv/installed-default").touch()
    for resamples in (120, 150):
        project.run("make", "experiment", f"SET=evaluate.resamples={resamples}")
        assert f"resamples: {resamples}\n" in (project.folder / "params.yaml").read_text()
    project.run("git", "checkout", "params.yaml")
    said = project.run("make", "repro")
    assert "version" in said
