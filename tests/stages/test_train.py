import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from medloop import params, provenance
from medloop.errors import Refused
from medloop.inference import Network
from medloop.stages.train import train
from medloop.training import live
from synthetic import write_arrays

FILES = {
    "card.json",
    "development.parquet",
    "history.parquet",
    "lineage.json",
    "model.keras",
    "model.onnx",
    "validation.parquet",
}
AUGMENT = params.Augment(flip_horizontal=True, rotate_deg=5, shift=0.05, contrast=0.1, noise=0.05)
SMALL = {"cnn": {"filters": [4, 8], "units": 8, "dropout": 0.3}}


class Silent:
    """Stands in for the tracking store, which has a test of its own."""

    sent: list = []  # noqa: RUF012

    def __init__(self, run_name, content, tags):
        Silent.sent = [(run_name, tags)]

    def log(self, metrics, step):
        Silent.sent.append((step, metrics))

    def tag(self, tags):
        Silent.sent.append(tags)

    def close(self, status):
        Silent.sent.append(status)


@pytest.fixture
def silent(monkeypatch):
    monkeypatch.setattr(live, "Live", Silent)
    return Silent


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    return write_arrays(tmp_path_factory.mktemp("made") / "arrays")


def section(architecture="cnn", **changed):
    given = {"epochs": 2, "batch_size": 16, "augment": AUGMENT, "hyper": SMALL, **changed}
    return params.Train(architectures=(architecture,), **given)


def read(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def trained(arrays, tmp_path_factory):
    """A model folder, what `train` returned, and what it logged."""
    parent = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDLOOP_STATE", str(parent / "state"))
        patch.setattr(live, "Live", Silent)
        scores = train(params.Base(), section(epochs=4), arrays=arrays, model=parent / "cnn")
        return SimpleNamespace(folder=parent / "cnn", scores=scores, logged=Silent.sent)


def test_a_model_folder_holds_what_the_next_stages_read(trained, arrays):
    folder, scores = trained.folder, trained.scores
    assert {path.name for path in folder.iterdir()} == FILES
    card = json.loads((folder / "card.json").read_text())
    about = json.loads((arrays / "about.json").read_text())
    assert {key: card[key] for key in ("classes", "input_shape", "preprocessing")} == {
        key: about[key] for key in ("classes", "input_shape", "preprocessing")
    }
    assert (card["schema_version"], card["architecture"], card["backend"], card["simulated"]) == (
        2,
        "cnn",
        "tensorflow",
        True,
    )
    assert (card["task"], card["dataset"]) == ("classification", "phantom")
    assert card["hyper"] == SMALL["cnn"]
    assert card["parameters"] == 3 * 3 * 4 + 4 + 3 * 3 * 4 * 8 + 8 + 8 * 8 + 8 + 8 * 2 + 2
    history = pq.read_table(folder / "history.parquet").to_pydict()
    assert history["epoch"] == list(range(1, card["epochs_trained"] + 1))
    assert set(history) == {"epoch", "loss", "val_loss", "val_auc", "learning_rate"}
    assert card["best_epoch"] == 1 + int(np.argmax(history["val_auc"]))
    assert scores == card["validation"]
    assert scores["auc"] == pytest.approx(max(history["val_auc"]), abs=1e-6)
    lineage = provenance.verify(folder)
    assert lineage["inputs"] == {"arrays": provenance.digest(arrays)}


def test_validation_predictions_are_those_of_the_exported_network(trained, arrays):
    folder = trained.folder
    table = pq.read_table(folder / "validation.parquet").to_pydict()
    assert list(table) == ["sample_id", "patient_id", "label", "output_0", "output_1"]
    assert table["sample_id"] == [f"val{i:04}" for i in range(40)]
    assert table["label"] == np.load(arrays / "val/labels.npy").tolist()
    logits = Network(folder / "model.onnx").outputs(np.load(arrays / "val/inputs.npy"))
    np.testing.assert_array_equal(np.stack([table["output_0"], table["output_1"]], axis=1).astype(np.float32), logits)
    one = Network(folder / "model.onnx").outputs(np.load(arrays / "val/inputs.npy")[7:8])
    np.testing.assert_allclose(one, logits[7:8], atol=1e-5)


def test_the_keras_file_gives_the_same_logits(trained, arrays):
    import keras

    folder = trained.folder
    images = np.load(arrays / "val/inputs.npy")
    logits = keras.ops.convert_to_numpy(keras.saving.load_model(folder / "model.keras")(images))
    np.testing.assert_allclose(logits, Network(folder / "model.onnx").outputs(images), atol=1e-4)


def test_two_runs_write_the_same_bytes(trained, arrays, tmp_path, silent):
    folder = trained.folder
    train(params.Base(), section(epochs=4), arrays=arrays, model=tmp_path / "cnn")
    first, second = read(folder), read(tmp_path / "cnn")
    assert {name for name in FILES if first[name] != second[name]} == set()
    other = tmp_path / "other"
    train(params.Base(seed=1), section(epochs=4), arrays=arrays, model=other)
    assert {name for name in FILES if first[name] == read(other)[name]} == {"development.parquet"}


def test_every_epoch_is_logged_with_the_digest_of_the_weights(trained):
    begin, *epochs, digest, status = trained.logged
    assert begin[0] == "train-cnn"
    assert begin[1]["medloop.architecture"] == "cnn"
    assert [step for step, _ in epochs] == [1, 2, 3, 4]
    assert set(epochs[0][1]) == {"epoch", "loss", "val_loss", "val_auc", "learning_rate"}
    card = json.loads((trained.folder / "card.json").read_text())
    assert (digest, status) == ({"medloop.weights_sha256": card["weights_sha256"]}, "FINISHED")


def test_nothing_but_the_model_remains_of_a_finished_run(trained):
    parent = trained.folder.parent
    assert sorted(path.relative_to(parent).as_posix() for path in parent.rglob("*") if path.is_dir()) == [
        "cnn",
        "state",
        "state/checkpoints",
    ]


def test_a_loss_that_is_no_number_is_refused_and_the_last_good_output_stays(trained, tmp_path, silent):
    shutil.copytree(trained.folder, tmp_path / "out/lstm")
    long = write_arrays(tmp_path / "arrays", size=(80, 4, 1), train=30, val=12)
    bursting = section("lstm", learning_rate=1.0, epochs=20, hyper={"lstm": {"activation": "relu"}})
    with pytest.raises(Refused) as refusal:
        train(params.Base(), bursting, arrays=long, model=tmp_path / "out/lstm")
    said = r"training lstm broke down: (val_)?loss is not a number in epoch \d+ at learning rate 1; lower train"
    assert re.match(said, str(refusal.value))
    assert silent.sent[-1] == "FAILED"
    assert read(tmp_path / "out/lstm") == read(trained.folder)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["lstm"]


def test_files_that_disagree_are_refused(arrays, tmp_path, silent, monkeypatch):
    from medloop.training import export

    train(params.Base(), section(), arrays=arrays, model=tmp_path / "good")
    wrong = (tmp_path / "good/model.onnx").read_bytes()
    monkeypatch.setattr(export, "save_onnx", lambda source, target: target.write_bytes(wrong))
    with pytest.raises(Refused, match=r"must agree to 0.0001 on the validation data, they differ by"):
        train(params.Base(seed=5), section(), arrays=arrays, model=tmp_path / "cnn")
    assert not (tmp_path / "cnn").exists()


def test_mixed_precision_ends_in_a_network_of_float32(arrays, tmp_path, silent):
    import keras

    try:
        train(params.Base(), section(mixed_precision=True), arrays=arrays, model=tmp_path / "cnn")
        model = keras.saving.load_model(tmp_path / "cnn/model.keras")
        assert {layer.compute_dtype for layer in model._flatten_layers()} == {"float32"}
    finally:
        keras.config.set_dtype_policy("float32")


TINY = {
    "convnext": {"filters": [4, 8], "blocks": [1, 1], "dropout": 0.3},
    "densenet": {"growth": 4, "blocks": [1, 1], "dropout": 0.3},
    "resnet": {"filters": [4, 8], "blocks": 1, "dropout": 0.3},
    "vit": {"width": 8, "depth": 1, "heads": 2, "dropout": 0.3},
}


@pytest.mark.parametrize("architecture", sorted(TINY))
def test_image_networks_train_and_export_to_the_same_bytes_twice(architecture, arrays, tmp_path, silent):
    wanted = section(architecture, hyper=TINY)
    for name in "ab":
        scores = train(params.Base(), wanted, arrays=arrays, model=tmp_path / name)
        assert 0 <= scores["auc"] <= 1
    first, second = read(tmp_path / "a"), read(tmp_path / "b")
    assert {name for name in FILES if first[name] != second[name]} == set()


def test_the_views_are_in_the_model_that_is_validated_and_served(trained, arrays, tmp_path, silent):
    views = params.Views(flip_horizontal=True)
    train(params.Base(), section(epochs=4, tta=views), arrays=arrays, model=tmp_path / "cnn")
    card, plain = (json.loads((folder / "card.json").read_text()) for folder in (tmp_path / "cnn", trained.folder))
    assert card["weights_sha256"] == plain["weights_sha256"]
    assert card["tta"] == views.model_dump()
    images = np.load(arrays / "val/inputs.npy")
    one = Network(trained.folder / "model.onnx")
    wanted = (one.outputs(images) + one.outputs(np.ascontiguousarray(images[:, :, ::-1]))) / 2
    np.testing.assert_allclose(Network(tmp_path / "cnn/model.onnx").outputs(images), wanted, atol=1e-5)
    table = pq.read_table(tmp_path / "cnn/validation.parquet").to_pydict()
    np.testing.assert_allclose(np.stack([table["output_0"], table["output_1"]], axis=1), wanted, atol=1e-5)


def test_a_shift_beyond_the_image_is_refused_before_training(arrays, tmp_path):
    wide = section(tta=params.Views(shift_px=12))
    with pytest.raises(Refused, match=r"shift_px must be less than the sides of the images, 12x12, got 12"):
        train(params.Base(), wide, arrays=arrays, model=tmp_path / "cnn")


@pytest.mark.parametrize("architecture", ["lstm", "attention"])
def test_sequence_networks_train_and_export_on_tensorflow(architecture, arrays, tmp_path, silent):
    scores = train(params.Base(), section(architecture, hyper={}), arrays=arrays, model=tmp_path / "model")
    assert 0 <= scores["auc"] <= 1


@pytest.mark.parametrize(
    ("asked", "used"),
    [
        ("auto", "jax"),
        pytest.param(
            "torch", "torch", marks=pytest.mark.skipif(not find_spec("torch"), reason="torch is not in the lock")
        ),
    ],
)
def test_another_backend_trains_a_recurrent_network_and_logs_it_live(asked, used, arrays, tmp_path):
    """In a process of its own: keras keeps its backend. The tracking store is a real one."""
    code = (
        "import sys; from pathlib import Path; from medloop import params; from medloop.stages.train import train;"
        "train(params.Base(), params.Train.model_validate_json(sys.argv[1]),"
        " arrays=Path(sys.argv[2]), model=Path(sys.argv[3]));"
        "assert 'tensorflow' not in sys.modules and 'mlflow' not in sys.modules"
    )
    wanted = section("lstm", backend=asked, hyper={"lstm": {"units": 8, "dropout": 0.3}}).model_dump_json()
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, wanted, str(arrays)]
    run = subprocess.run([*command, str(tmp_path / "model")], env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert re.search(r"lstm 2/2 epochs, loss \d\.\d+, val_auc \d\.\d+, best", run.stderr)
    card = json.loads((tmp_path / "model/card.json").read_text())
    assert card["backend"] == used

    import keras
    from mlflow import MlflowClient

    images = np.load(arrays / "val/inputs.npy")
    logits = keras.ops.convert_to_numpy(keras.saving.load_model(tmp_path / "model/model.keras")(images))
    np.testing.assert_allclose(logits, Network(tmp_path / "model/model.onnx").outputs(images), atol=1e-4)
    client = MlflowClient(tracking_uri=os.environ["MLFLOW_TRACKING_URI"])
    [run] = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert (run.info.status, run.info.run_name) == ("FINISHED", "train-lstm")
    assert run.data.tags["medloop.weights_sha256"] == card["weights_sha256"]
    assert run.data.params["train.epochs"] == "2"
    assert [point.step for point in client.get_metric_history(run.info.run_id, "val_auc")] == [1, 2]


def test_an_unreachable_tracking_server_costs_one_warning(monkeypatch, capfd):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    run = live.Live("train-cnn", {"train": {"epochs": 2}}, {"medloop.stage": "train"})
    for epoch in (1, 2):
        run.log({"loss": 1.0}, step=epoch)
    run.close("FINISHED")
    assert capfd.readouterr().err.count("http://127.0.0.1:9") == 1
