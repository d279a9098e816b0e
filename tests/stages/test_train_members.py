"""Models that are made of several networks."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from medloop import params, provenance
from medloop.inference import Network
from medloop.stages.train import train
from medloop.training import data, live, members
from synthetic import write_arrays


class Silent:
    stop_at: tuple[str, int] | None = None  # the name of a metric and the epoch at which the run is cut off
    names: set[str] = set()  # noqa: RUF012

    def __init__(self, *_):
        Silent.names = set()

    def log(self, metrics, step):
        Silent.names |= set(metrics)
        if Silent.stop_at and Silent.stop_at[0] in metrics and Silent.stop_at[1] == step:
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
    return write_arrays(tmp_path_factory.mktemp("made") / "arrays", train=60, val=30)


def section(**changed):
    hyper = {"cnn": {"filters": [4], "units": 8, "dropout": 0.3}}
    return params.Train(architectures=("cnn",), epochs=2, batch_size=16, hyper=hyper, **changed)


def logits(folder, images):
    return Network(folder / "model.onnx").outputs(images)


def test_seeds_make_one_model_that_says_their_mean(arrays, tmp_path):
    for seed in (4, 5):
        train(params.Base(seed=seed), section(), arrays=arrays, model=tmp_path / str(seed))
    scores = train(params.Base(seed=4), section(members=2), arrays=arrays, model=tmp_path / "both")
    images = np.load(arrays / "val/inputs.npy")
    wanted = np.mean([logits(tmp_path / str(seed), images) for seed in (4, 5)], axis=0)
    np.testing.assert_allclose(logits(tmp_path / "both", images), wanted, atol=1e-5)
    card, one = (json.loads((tmp_path / name / "card.json").read_text()) for name in ("both", "4"))
    assert [member["seed"] for member in card["members"]] == [4, 5]
    assert card["members"][0] == one["members"][0]
    assert card["parameters"] == 2 * one["parameters"]
    assert card["validation"] == scores
    assert "val_auc_1" in Silent.names
    histories = [pq.read_table(tmp_path / name / "history.parquet").to_pydict() for name in ("both", "4", "5")]
    assert histories[0]["epoch"] == [1, 2]
    np.testing.assert_allclose(histories[0]["loss"], np.mean([each["loss"] for each in histories[1:]], axis=0))
    provenance.verify(tmp_path / "both")


def test_folds_predict_every_sample_of_development_by_the_network_that_never_saw_it(arrays, tmp_path):
    wanted = section(folds=2, tta=params.Views(flip_horizontal=True))
    scores = train(params.Base(), wanted, arrays=arrays, model=tmp_path / "cnn")
    table = pq.read_table(tmp_path / "cnn/validation.parquet").to_pandas()
    assert table["sample_id"].tolist() == [f"train{i:04}" for i in range(60)] + [f"val{i:04}" for i in range(30)]
    found = data.read(arrays)
    plan = members.plan(found, wanted, 0)
    images = members.whole(found).inputs[:]
    networks = []
    for member in plan:  # each by itself, on arrays of its own
        alone = data.Arrays(
            found.about, *(data.Split(part.inputs[:], part.labels, part.index, part.kind) for part in each(member))
        )
        networks.append(fitted(alone, wanted, member.seed))
    flipped = np.ascontiguousarray(images[:, :, ::-1])
    said = [(network(images) + network(flipped)).numpy() / 2 for network in networks]
    for i, member in enumerate(plan):
        columns = table.loc[member.rows, ["output_0", "output_1"]]
        np.testing.assert_allclose(columns, said[i][member.rows], atol=1e-5)
    np.testing.assert_allclose(logits(tmp_path / "cnn", images), np.mean(said, axis=0), atol=1e-5)
    assert json.loads((tmp_path / "cnn/card.json").read_text())["validation"] == scores


def each(member):
    return member.arrays.train, member.arrays.val


def fitted(arrays, wanted, seed):
    from medloop.tasks import classification
    from medloop.training import backend, checkpoint, fitting, network

    backend.start("tensorflow", seed)
    spec = network.Spec("cnn", arrays.shape, 2, wanted.hyper["cnn"], {"kind": "sample"})
    kept = checkpoint.Checkpoint(f"by-hand-{seed}")
    return fitting.fit(spec, arrays, classification, wanted, seed=seed, checkpoint=kept, log=Silent())[0]


def test_a_member_that_was_through_is_not_trained_again(arrays, tmp_path, monkeypatch):
    wanted = section(folds=3)
    Silent.stop_at = ("val_auc_1", 1)
    with pytest.raises(KeyboardInterrupt):
        train(params.Base(), wanted, arrays=arrays, model=tmp_path / "model")
    assert not (tmp_path / "model").exists()
    Silent.stop_at = None
    trained, segments = [], data.epoch_segments

    def noted(*args, seed, epoch, **kwargs):
        trained.append((seed, epoch))
        return segments(*args, seed=seed, epoch=epoch, **kwargs)

    monkeypatch.setattr(data, "epoch_segments", noted)
    train(params.Base(), wanted, arrays=arrays, model=tmp_path / "model")
    assert trained == [(1, 2), (2, 1), (2, 2)]
    train(params.Base(), wanted, arrays=arrays, model=tmp_path / "again")
    assert len(trained) == 3 + 6
    for path in (tmp_path / "again").iterdir():
        assert path.read_bytes() == (tmp_path / "model" / path.name).read_bytes(), path.name
