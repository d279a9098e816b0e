"""A training that is killed goes on where it was, and ends as if nothing had happened."""

import json
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from medloop import params
from medloop.stages import train as stage
from medloop.stages.train import train
from medloop.training import live
from synthetic import write_arrays

SCRIPT = Path(__file__).with_name("resume.py")
AUGMENT = params.Augment(flip_horizontal=True, rotate_deg=5, shift=0.05, contrast=0.1, noise=0.05)


RECIPE = {
    "sampling": "balanced",
    "loss": "focal",
    "label_smoothing": 0.1,
    "mixup": 0.3,
    "ema": 0.9,
    "tta": params.Views(flip_horizontal=True),
}


def test_killed_at_three_random_moments_it_ends_with_the_bytes_of_an_undisturbed_run(tmp_path, monkeypatch):
    arrays = write_arrays(tmp_path / "arrays", signal=5)
    section = params.Train(
        architectures=("resnet",),
        epochs=12,
        batch_size=16,
        patience=5,
        schedule="cosine",
        weight_decay=0.01,
        augment=AUGMENT,
        hyper={"resnet": {"filters": [4], "blocks": 1, "dropout": 0.3}},
        **RECIPE,
    )
    (tmp_path / "disturbed").mkdir()
    command = [sys.executable, str(SCRIPT), str(arrays), str(tmp_path / "disturbed")]
    env = {**os.environ, "SECTION": section.model_dump_json(), "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    kills = json.loads(run.stdout.splitlines()[-1])
    print("killed in epoch, segment:", kills)
    assert len(kills) == 3

    monkeypatch.setenv("MEDLOOP_STATE", str(tmp_path / "other"))
    monkeypatch.setattr(live, "Live", MagicMock())
    train(params.Base(), section, arrays=arrays, model=tmp_path / "undisturbed")
    for path in (tmp_path / "undisturbed").iterdir():
        if path.name != "lineage.json":  # names the code that was loaded, the test's own process among it
            assert path.read_bytes() == (tmp_path / "disturbed/model" / path.name).read_bytes(), path.name
    assert list((Path(os.environ["MEDLOOP_STATE"]) / "checkpoints").iterdir()) == []


@pytest.mark.parametrize(
    ("task", "architecture", "built_of"),
    [("classification", "cnn", set()), ("segmentation", "unet", {"blocks"}), ("detection", "fcos", {"pyramid"})],
)
def test_a_checkpoint_belongs_to_what_its_own_network_is_built_of(task, architecture, built_of):
    code = stage._code(params.Base(task=task), params.Train(architectures=(architecture,)))
    assert {name for name in ("blocks", "pyramid") if f"networks/{name}.py" in code} == built_of
    assert f"models/{architecture}.py" in code


def test_a_checkpoint_of_a_network_that_makes_images_belongs_to_what_judges_them_too():
    code = stage._code(params.Base(task="generation"), params.Train(architectures=("vae",)))
    assert {name for name in code if name.startswith("models/")} == {
        "models/__init__.py",
        "models/vae.py",
        "models/cnn.py",
    }
