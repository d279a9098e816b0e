"""A recording goes through every stage, becomes champion, and predicts, as an image does."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import wfdb

import waves
from medloop import params, signals
from medloop.errors import Refused
from medloop.stages.evaluate import evaluate
from medloop.stages.ingest import ingest
from medloop.stages.preprocess import preprocess
from medloop.stages.register import register
from medloop.stages.train import train
from medloop.stages.validate import validate
from medloop.training import data

BASE = params.Base(task="regression", kind="sequence", dataset="waves")
PREPROCESS = waves.section(window=10, horizon=1, block=25)
TRAIN = params.Train(architectures=("lstm",), epochs=2, batch_size=64, learning_rate=0.01, normalisation="train")
RULE = params.Promote(floor=0.0, min_samples=10, resamples=200)


def ingested(folder, **options):
    section = params.Ingest(
        source="wfdb",
        root=str(folder / "records"),
        options={"wfdb": {"records": ["a"], "leads": ["I"], "gap": 20, **options}},
    )
    return ingest(BASE, section, samples=folder / "samples")


def prepared(folder, base=BASE, section=PREPROCESS):
    return preprocess(
        base,
        section,
        samples=folder / "samples",
        validation=folder / "validation",
        arrays=folder / "arrays",
        holdout=folder / "holdout",
    )


def validated(folder):
    return validate(
        BASE, params.Validate(suite="sequence"), samples=folder / "samples", validation=folder / "validation"
    )


@pytest.fixture(scope="module")
def loop(store):
    """The folder of a whole loop, up to the evaluation."""
    waves.record(store / "records", "a")
    report = ingested(store)
    checks = validated(store)
    about = prepared(store)
    train(BASE, TRAIN, arrays=store / "arrays", model=store / "models/lstm")
    metrics = evaluate(
        BASE,
        params.Evaluate(resamples=200),
        models={"lstm": store / "models/lstm"},
        holdout=store / "holdout",
        validation=store / "validation",
        evaluation=store / "evaluation",
    )
    return SimpleNamespace(folder=store, report=report, checks=checks, about=about, metrics=metrics)


@pytest.fixture
def champion(loop, at_store):
    """The loop's version, registered and promoted in the store of the loop."""
    from medloop.operations.promote import promote

    found = register(
        BASE,
        params.Register(),
        models={"lstm": loop.folder / "models/lstm"},
        validation=loop.folder / "validation",
        evaluation=loop.folder / "evaluation",
    )
    decision = promote(BASE, RULE, version=found["version"], samples=loop.folder / "samples")
    assert decision.ok, decision.reason
    return found


def test_the_record_is_cut_in_time_and_its_checks_pass(loop):
    assert loop.about["facts"]["split_in_time"] is True
    assert loop.about["facts"]["kind"] == "sequence"
    assert loop.about["input_shape"] == [10, 1]
    assert loop.about["preprocessing"]["unit"] == "mV"
    assert loop.checks["success"]
    stretches = [check for check in loop.checks["checks"] if check["name"] == "stretches apart"]
    assert [check["success"] for check in stretches] == [True]


def test_metrics_stand_beside_those_of_simple_rivals_on_the_same_windows(loop):
    assert set(loop.metrics["floors"]) == {"persistence", "ridge"}
    for found in (loop.metrics["test"], *loop.metrics["floors"].values()):
        assert all(entry["low"] <= entry["value"] <= entry["high"] for entry in found.values())
    for name, found in loop.metrics["beyond"].items():
        gap = loop.metrics["test"]["r2"]["value"] - loop.metrics["floors"][name]["r2"]["value"]
        assert found["r2"]["value"] == pytest.approx(gap)
    table = pd.read_parquet(loop.folder / "evaluation/predictions.parquet")
    error = table["prediction"] - table["label"]
    assert loop.metrics["test"]["rmse"]["value"] == pytest.approx(np.sqrt((error**2).mean()))
    inputs = np.load(loop.folder / "holdout/test/inputs.npy")
    still = np.sqrt(((inputs[:, -1, 0] - table["label"]) ** 2).mean())
    assert loop.metrics["floors"]["persistence"]["rmse"]["value"] == pytest.approx(still)


def test_the_report_says_what_a_sequence_is_and_in_which_unit(loop):
    page = (loop.folder / "evaluation/report.html").read_text()
    assert "10 moments at 50 Hz (0.2 s) of 1 lead (I), in mV; to predict: the value 1 ahead" in page
    assert "ridge regression on the same inputs errs by" in page.replace("Ridge", "ridge")
    assert "in time: recordings are cut" in page
    assert "later moments of the same patients" in page
    assert page.count("data:image/svg+xml") == 5 + 12
    assert "image" not in page.lower().replace("data:image", "").replace("image-rendering", "").replace("as images", "")


def test_it_becomes_champion_and_is_scored_again_on_the_same_windows(loop, champion):
    from medloop.operations import scoring
    from medloop.tasks import regression
    from medloop.tracking import registry
    from medloop.tracking.connection import server

    with server() as client:
        version = registry.get(client, BASE.model_name, "champion")
    test = scoring.today(loop.folder / "samples", "waves")
    card = scoring.card(version)
    table = pd.read_parquet(loop.folder / "evaluation/predictions.parquet")
    np.testing.assert_allclose(scoring.score(version, test, regression)[:, 0], table["prediction"], rtol=1e-6)
    np.testing.assert_array_equal(test.labels(regression, card), table["label"])
    assert version.tags["medloop.classes"] == "[]"
    assert len(test.without(registry.development(version)).table) == len(test.table), "time is split, not patients"


def test_every_link_of_its_chain_holds(loop, champion):
    from medloop.operations.verify import verify

    lines = list(verify(BASE, "champion", artifacts=loop.folder))
    assert any("test rmse from predictions.parquet" in line for line in lines)


def test_a_longer_signal_is_predicted_window_by_window(loop, champion, tmp_path):
    from medloop.operations.predict import predict

    signal = np.sin(np.arange(14) / 5).astype(np.float32)
    (tmp_path / "signal.csv").write_text("I\n" + "\n".join(map(str, signal)))
    (tmp_path / "window.npy").write_bytes(signals.encode(signal[:10]))
    (tmp_path / "short.csv").write_text("1\n2\n")
    with pytest.raises(Refused, match=r"1 of 7 sequences could not be predicted: the model takes 10 moments, got 2"):
        predict(BASE, source=tmp_path, output=tmp_path / "out.parquet", paths=True)
    found = pd.read_parquet(tmp_path / "out.parquet").set_index("path")
    assert list(found) == ["sample_id", "prediction", "error"]
    windows = [f"signal.csv#{begin}" for begin in range(5)]
    assert set(found.index) == {*windows, "window.npy", "short.csv"}
    assert found.loc["window.npy", "prediction"] == pytest.approx(found.loc["signal.csv#0", "prediction"])
    assert found.loc[windows, "prediction"].notna().all()


def test_a_record_is_predicted_as_what_it_holds(loop, champion, tmp_path):
    from medloop.operations.predict import predict

    waves.record(tmp_path / "records", "b", moments=10, leads=("V5", "I"), beats=False)
    values = wfdb.rdrecord(str(tmp_path / "records/b")).p_signal
    (tmp_path / "records/c.csv").write_text("V5,I\n" + "\n".join(f"{v5},{i}" for v5, i in values))
    waves.record(tmp_path / "records", "d", moments=10, leads=("V5",), beats=False)
    with pytest.raises(Refused, match=r"1 of 3 sequences could not be predicted: the record must have each .*once: I"):
        predict(BASE, source=tmp_path / "records", output=tmp_path / "out.parquet", paths=True)
    found = pd.read_parquet(tmp_path / "out.parquet").set_index("path")["prediction"]
    assert found["b.hea"] == pytest.approx(found["c.csv"], rel=1e-5)


def test_the_model_is_served_by_one_column_of_encoded_signals(loop, champion):
    from medloop.tracking import registry

    model = registry.load(f"models:/{champion['model']}/{champion['version']}")
    assert model.metadata.signature.inputs.input_names() == ["sequence"]
    assert model.metadata.signature.outputs.input_names() == ["prediction"]
    assert list(model.predict(model.input_example)) == ["prediction"]
    requirements = registry.download_artifacts(
        artifact_uri=f"models:/{champion['model']}/{champion['version']}/requirements.txt"
    )
    with open(requirements) as file:  # noqa: PTH123
        assert not {"opencv", "pydicom", "tensorflow"} & set(file.read().replace("-", "=").split("="))


@pytest.mark.parametrize(
    ("base", "section", "said"),
    [
        (BASE.model_copy(update={"task": "classification"}), PREPROCESS, "task classification takes none: set it to 0"),
        (BASE, waves.section(window=10), "a number for every sample, 3 of 3 have none|1 of 1 have none"),
        (
            BASE.model_copy(update={"task": "classification"}),
            waves.section(window=10),
            "needs a label for every sample",
        ),
    ],
)
def test_a_task_that_the_samples_do_not_fit_is_refused_before_anything_is_made(loop, base, section, said, tmp_path):
    for name in ("samples", "validation"):
        (tmp_path / name).symlink_to(loop.folder / name)
    with pytest.raises(Refused, match=said):
        prepared(tmp_path, base, section)
    assert not (tmp_path / "arrays").exists()


def test_a_forecast_does_not_ask_what_recordings_are_labelled_with(tmp_path):
    for seed, name in enumerate("abc"):
        waves.record(tmp_path / "records", name, moments=300, seed=seed)
    (tmp_path / "records/labels.csv").write_text("path,label,split\na,x,train\nb,y,val\nc,x,test\n")
    ingested(tmp_path, records=[], labels="labels.csv")
    section = params.Validate(suite="sequence", min_samples_per_class=0)
    validate(BASE, section, samples=tmp_path / "samples", validation=tmp_path / "validation")
    assert prepared(tmp_path)["classes"] == []
    assert data.read(tmp_path / "arrays").train.labels.dtype == np.float32


def test_nothing_that_is_no_number_gets_into_samples(tmp_path):
    waves.record(tmp_path / "records", "a")
    path = tmp_path / "records/a.dat"
    values = np.frombuffer(path.read_bytes(), "<i2").copy()
    values[100] = -32768  # what the format has for no value
    path.write_bytes(values.tobytes())
    with pytest.raises(Refused, match=r"1 x a signal must be finite numbers, 1 of 1776 moments are not"):
        ingested(tmp_path)
    assert not (tmp_path / "samples").exists()


def test_cards_name_task_kind_and_target(loop):
    card = json.loads((loop.folder / "evaluation/card.json").read_text())
    assert (card["task"], card["kind"], card["classes"], card["parameters"]) == ("regression", "sequence", [], 10_451)
    assert card["target"]["std"] > 0
