"""Training of networks that give a map, from arrays to a model folder."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

import maps
from medloop import params, provenance
from medloop.errors import Refused
from medloop.inference import Network
from medloop.stages.train import train
from medloop.tasks import segmentation as task
from medloop.training import data, live

AUGMENT = params.Augment(flip_horizontal=True, rotate_deg=10, shift=0.05, contrast=0.1, noise=0.05)
SMALL = {"unet": {"filters": [4, 8], "dropout": 0.2}, "attention_unet": {"filters": [4, 8]}}


class Silent:
    stop_at: int | None = None  # the epoch at which the run is cut off

    def __init__(self, *_):
        pass

    def log(self, metrics, step):
        if Silent.stop_at == step:
            raise KeyboardInterrupt

    def tag(self, *_):
        pass

    close = tag


@pytest.fixture(autouse=True)
def silent(monkeypatch):
    monkeypatch.setattr(live, "Live", Silent)
    monkeypatch.setattr(Silent, "stop_at", None)


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    return maps.write(tmp_path_factory.mktemp("made")) / "arrays"


def section(architecture="unet", **changed):
    given = {"epochs": 3, "batch_size": 8, "learning_rate": 0.01, "augment": AUGMENT, "hyper": SMALL, **changed}
    return params.Train(architectures=(architecture,), **given)


def read(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("architecture", ["unet", "attention_unet"])
def test_it_learns_and_keeps_what_maps_say_of_validation_images(arrays, tmp_path, architecture):
    made = section(architecture, epochs=25, schedule="cosine", patience=25)
    scores = train(maps.BASE, made, arrays=arrays, model=tmp_path / "model")
    assert scores["dice"] > 0.7
    card = json.loads((tmp_path / "model/card.json").read_text())
    assert (card["task"], card["classes"], card["validation"]) == ("segmentation", ["disc"], scores)
    found, network = data.read(arrays), Network(tmp_path / "model/model.onnx")
    logits = network.outputs(found.val.inputs, 5)
    assert logits.shape == (12, 24, 24, 2)
    table = pq.read_table(tmp_path / "model/validation.parquet").to_pandas()
    assert table["label_0"].tolist() == (np.asarray(found.val.labels) == 1).sum(axis=(1, 2)).tolist()
    kept = table[[name for name in table if name.startswith("output_")]].to_numpy()
    np.testing.assert_allclose(kept, task.reduced(logits, found.val.labels), rtol=1e-3, atol=1)
    assert task.score(table[["label_0"]].to_numpy(), task.said(kept, card)) == pytest.approx(scores["dice"])
    history = pq.read_table(tmp_path / "model/history.parquet").to_pydict()
    assert set(history) == {"epoch", "loss", "val_loss", "val_dice", "learning_rate"}
    assert max(history["val_dice"]) == pytest.approx(scores["dice"], abs=2e-3)
    provenance.verify(tmp_path / "model")


def test_twice_gives_the_same_bytes_and_so_does_a_run_that_was_cut_off(arrays, tmp_path, monkeypatch):
    made = section(ema=0.9, loss="focal", label_smoothing=0.1, tta=params.Views(flip_horizontal=True))
    for name in ("one", "two"):
        train(maps.BASE, made, arrays=arrays, model=tmp_path / name)
    assert read(tmp_path / "one") == read(tmp_path / "two")
    monkeypatch.setattr(Silent, "stop_at", 2)
    with pytest.raises(KeyboardInterrupt):
        train(maps.BASE, made, arrays=arrays, model=tmp_path / "three")
    monkeypatch.setattr(Silent, "stop_at", None)
    train(maps.BASE, made, arrays=arrays, model=tmp_path / "three")
    assert read(tmp_path / "one") == read(tmp_path / "three")


def test_folds_make_one_model_and_judge_every_image_by_a_network_that_never_saw_it(arrays, tmp_path):
    scores = train(maps.BASE, section(folds=2), arrays=arrays, model=tmp_path / "folds")
    table = pq.read_table(tmp_path / "folds/validation.parquet").to_pandas()
    assert table["sample_id"].tolist() == [f"train{i:04}" for i in range(24)] + [f"val{i:04}" for i in range(12)]
    card = json.loads((tmp_path / "folds/card.json").read_text())
    assert len(card["members"]) == 2
    kept = table[[name for name in table if name.startswith("output_")]].to_numpy()
    assert task.score(table[["label_0"]].to_numpy(), task.said(kept, card)) == pytest.approx(scores["dice"])


def test_members_are_averaged_pixel_by_pixel(arrays, tmp_path):
    for seed in (0, 1):
        base = maps.BASE.model_copy(update={"seed": seed})
        train(base, section(), arrays=arrays, model=tmp_path / str(seed))
    train(maps.BASE, section(members=2), arrays=arrays, model=tmp_path / "both")
    images = data.read(arrays).val.inputs
    maps_of = [Network(tmp_path / name / "model.onnx").outputs(images) for name in ("0", "1", "both")]
    np.testing.assert_allclose(maps_of[2], (maps_of[0] + maps_of[1]) / 2, atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixup": 0.2}, r"a class for every pixel, not for an image: set train\.mixup: 0"),
        ({"sampling": "balanced"}, r"set train\.sampling: natural"),
        ({"tta": params.Views(shift_px=2)}, r"train\.tta\.shift_px must be 0 where maps are predicted, got 2"),
    ],
)
def test_what_maps_do_not_know_is_refused_by_name(arrays, tmp_path, changes, message):
    with pytest.raises(Refused, match=message):
        train(maps.BASE, section(**changes), arrays=arrays, model=tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_network_that_gives_no_map_and_a_task_that_takes_none_are_refused(arrays, tmp_path):
    with pytest.raises(
        Refused, match=r"segmentation needs networks that give a map .*cnn does not.*attention_unet, un"
    ):
        train(maps.BASE, section("cnn"), arrays=arrays, model=tmp_path / "model")
    with pytest.raises(Refused, match=r"classification needs networks that give a few numbers .*unet does not"):
        train(params.Base(), section(), arrays=arrays, model=tmp_path / "model")
