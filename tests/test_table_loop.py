"""A table goes through every stage, becomes champion, and predicts, as images do."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.preprocessing import StandardScaler

import sheets
from loops import Loop
from medloop import manifest, params, plugins, tabular, tasks
from medloop.errors import Refused
from medloop.kinds import table as kind
from medloop.stages.evaluate import evaluate
from medloop.stages.ingest import ingest
from medloop.stages.preprocess import preprocess
from medloop.stages.register import register
from medloop.stages.train import train
from medloop.stages.validate import validate

BASE = params.Base(task="classification", kind="table", dataset="sheets")
PREPROCESS = params.Preprocess(table=params.Tables(missing="indicator", categorical=("pain",), resamples=20))
TRAIN = params.Train(
    architectures=("mlp",),
    epochs=8,
    learning_rate=0.05,
    patience=8,
    normalisation="none",
    augment=params.Augment(noise=0.1),
    folds=2,
    hyper={"mlp": {"units": [8], "dropout": 0.2}},
)
RULE = params.Promote(floor=0.5, min_samples=5, min_per_class=2, resamples=200)


def ingested(folder, samples="samples", options=None, **changes):
    section = params.Ingest(
        source="table",
        root=str(folder / "data"),
        options={"table": options or sheets.options()},
        question="is the patient ill?",
        workers=1,
        **changes,
    )
    return ingest(BASE, section, samples=folder / samples)


def validated(folder):
    section = params.Validate(suite="table", min_samples_per_class=2)
    return validate(BASE, section, samples=folder / "samples", validation=folder / "validation")


def prepared(folder, section=PREPROCESS):
    return preprocess(BASE, section, **{name: folder / name for name in ("samples", "validation", "arrays", "holdout")})


@pytest.fixture(scope="module")
def loop(store):
    """The folder of a whole loop, up to the evaluation."""
    sheets.write(store / "data/ward.csv", sheets.rows())
    report = ingested(store)
    checks = validated(store)
    about = prepared(store)
    train(BASE, TRAIN, arrays=store / "arrays", model=store / "models/mlp")
    metrics = evaluate(
        BASE,
        params.Evaluate(resamples=200, target_sensitivity=None),
        models={"mlp": store / "models/mlp"},
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
        models={"mlp": loop.folder / "models/mlp"},
        validation=loop.folder / "validation",
        evaluation=loop.folder / "evaluation",
    )
    decision = promote(BASE, RULE, version=found["version"], samples=loop.folder / "samples")
    assert decision.ok, decision.reason
    return found


def test_records_keep_their_variables_and_gaps_and_nobody_s_name(loop):
    table, facts = manifest.read(loop.folder / "samples")
    assert facts.variables == sheets.NAMES
    assert (facts.kind, facts.has_patients, facts.question) == ("table", True, "is the patient ill?")
    values = np.stack(list(manifest.Values(loop.folder / "samples").each(table)))
    assert values.shape == (90, 6)
    assert np.isnan(values).sum(axis=0).tolist() == [0, 0, 0, 0, 0, 13]
    assert set(table["sex"]) == {"F", "M"}
    assert table["age_years"].tolist() == values[:, 0].tolist()
    held = b"".join(path.read_bytes() for path in (loop.folder / "samples").rglob("*") if path.is_file())
    assert b"Canarybird" not in held
    assert loop.checks["success"]


def test_all_that_is_fitted_is_fitted_on_train(loop):
    what = loop.about["preprocessing"]
    assert what["features"] == [
        *("age", "sex", "marker", "noise", "gap"),
        *("pain = 1", "pain = 2", "pain = 3", "gap missing"),
    ]
    table, _ = manifest.read(loop.folder / "samples")
    ours = table[table["split"] == "train"]
    values = np.stack(list(manifest.Values(loop.folder / "samples").each(ours)))
    inputs = np.load(loop.folder / "arrays/train/inputs.npy")
    np.testing.assert_allclose(inputs[:, 2], (values[:, 2] - values[:, 2].mean()) / values[:, 2].std(), atol=1e-5)
    gone = np.isnan(values[:, 5])
    assert np.array_equal(inputs[:, 8] == 1, gone)
    filled = np.where(gone, np.nanmedian(values[:, 5]), values[:, 5])
    np.testing.assert_allclose(inputs[:, 4], (filled - filled.mean()) / filled.std(), atol=1e-5)


def test_it_learns_what_the_findings_say_and_the_report_asks_the_question(loop):
    assert loop.metrics["test"]["auc"]["value"] > 0.75
    page = (loop.folder / "evaluation/report.html").read_text()
    assert "is the patient ill?" in page
    assert "9 numbers of 6 variables, medians of train for missing ones, 1 indicators" in page
    assert "the likeliest class" in page
    assert "Which variables tell the classes apart" in page
    ranking = json.loads((loop.folder / "evaluation/ranking.json").read_text())
    assert ranking["top"][0]["name"] == "marker"
    assert ranking["stability"]["elastic_net"]["value"] > 0
    card = json.loads((loop.folder / "evaluation/card.json").read_text())
    assert (card["kind"], card["threshold"], card["question"]) == ("table", None, "is the patient ill?")


def test_an_elastic_net_stands_beside_it_with_the_difference_by_patient(loop):
    from medloop import elastic_net

    entry = loop.about["floors"]["elastic_net"]
    inputs = np.load(loop.folder / "holdout/test/inputs.npy")
    labels = np.load(loop.folder / "holdout/test/labels.npy")
    decided = elastic_net.kept(entry).outputs(inputs).argmax(axis=1)
    floor, ours = loop.metrics["floors"]["elastic_net"], loop.metrics["test"]
    assert floor["accuracy"]["value"] == pytest.approx((decided == labels).mean())
    assert floor["auc"]["value"] > 0.75
    assert len(entry["labels"]) == 90 - len(labels)
    for name in ("auc", "accuracy"):
        found = loop.metrics["beyond"]["elastic_net"][name]
        assert found["value"] == pytest.approx(ours[name]["value"] - floor[name]["value"])
        assert found["low"] <= found["value"] <= found["high"]
    page = (loop.folder / "evaluation/report.html").read_text()
    assert "Less an elastic net on the same inputs, each resample on the same patients: AUC" in page


@pytest.mark.parametrize("task", ["multilabel", "ordinal"])
def test_elastic_nets_stand_beside_grades_and_several_labels_too(task, tmp_path):
    rows = sheets.rows()
    for row in rows:
        high, hurts = row["marker"] > 3, row["pain"] == 3
        several = "|".join(name for name, yes in (("high", high), ("hurts", hurts)) if yes)
        row["ill"] = several if task == "multilabel" else ("none", "mild", "severe")[high + hurts]
    sheets.write(tmp_path / "data/ward.csv", rows)
    base = params.Base(task=task, kind="table", dataset="sheets")
    loop = Loop(tmp_path, base)
    order = {"order": ("none", "mild", "severe")} if task == "ordinal" else {}
    options = {"table": sheets.options(several=task == "multilabel")}
    source = params.Ingest(source="table", root=str(tmp_path / "data"), options=options, workers=1, **order)
    loop.checked(source, params.Validate(suite="table", min_samples_per_class=2))
    about = loop.prepared("way", PREPROCESS)
    loop.trained("way", TRAIN.model_copy(update={"folds": 0, "epochs": 2}))
    section = params.Evaluate(resamples=200, target_sensitivity=None)
    metrics, _ = loop.judged("way", section, "mlp")
    entry, found = about["floors"]["elastic_net"], metrics["floors"]["elastic_net"]
    assert len(entry["intercept"]) == 2
    gate = plugins.load(tasks, task).GATE
    assert found[gate]["value"] > 0.5
    differs = metrics["beyond"]["elastic_net"][gate]
    assert differs["value"] == pytest.approx(metrics["test"][gate]["value"] - found[gate]["value"])
    assert differs["low"] <= differs["value"] <= differs["high"]
    assert "elastic net" in (tmp_path / "way/evaluation/report.html").read_text()


def test_several_labels_that_nobody_has_are_refused(tmp_path):
    sheets.write(tmp_path / "data/ward.csv", [row | {"ill": ""} for row in sheets.rows()])
    base = params.Base(task="multilabel", kind="table", dataset="sheets")
    options = {"table": sheets.options(several=True)}
    source = params.Ingest(source="table", root=str(tmp_path / "data"), options=options, workers=1)
    with pytest.raises(Refused, match="at least one label that a sample has, none has any"):
        ingest(base, source, samples=tmp_path / "samples")


def test_two_trainings_give_the_same_bytes(loop, tmp_path):
    train(BASE, TRAIN, arrays=loop.folder / "arrays", model=tmp_path / "mlp")
    for name in ("model.onnx", "card.json", "validation.parquet", "history.parquet"):
        assert (tmp_path / "mlp" / name).read_bytes() == (loop.folder / "models/mlp" / name).read_bytes(), name


def test_what_is_served_is_what_was_evaluated(loop, champion):
    from medloop.operations import scoring
    from medloop.tasks import classification
    from medloop.tracking import registry
    from medloop.tracking.connection import server

    with server() as client:
        version = registry.get(client, BASE.model_name, "champion")
    test = scoring.today(loop.folder / "samples", "sheets")
    table = pd.read_parquet(loop.folder / "evaluation/predictions.parquet")
    np.testing.assert_allclose(scoring.score(version, test, classification), table[["p_0", "p_1"]], rtol=1e-6)
    model = registry.load(f"models:/{champion['model']}/{champion['version']}")
    assert model.metadata.signature.inputs.input_names() == ["table"]
    assert list(model.predict(model.input_example)) == ["p_no", "p_yes", "decision"]


def test_a_file_of_records_is_predicted_line_by_line(loop, champion, tmp_path):
    from medloop.operations.predict import predict

    found = sheets.rows()[:4]
    found[1] |= {"marker": "high"}
    found[2] |= {"pain": 9}
    sheets.write(tmp_path / "ward.csv", found)
    said = (
        r"2 of 4 records could not be predicted: variable marker is no number, nor a text that has a code .1.; "
        "variable pain must be one of 1, 2, 3"
    )
    with pytest.raises(Refused, match=said):
        predict(BASE, source=tmp_path / "ward.csv", output=tmp_path / "out.parquet", paths=True)
    out = pd.read_parquet(tmp_path / "out.parquet").set_index("path")
    assert out["decision"].notna().tolist() == [True, False, False, True]
    one = {name: value or None for name, value in found[3].items() if name in sheets.NAMES}
    (tmp_path / "one.json").write_text(json.dumps([one, 5]))
    with pytest.raises(Refused, match="1 of 2 records could not be predicted: a record must be an object"):
        predict(BASE, source=tmp_path / "one.json", output=tmp_path / "one.parquet")
    assert pd.read_parquet(tmp_path / "one.parquet")["p_yes"][0] == out["p_yes"].iloc[3]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda row: {name: value for name, value in row.items() if name != "marker"}, "variable marker is missing"),
        (lambda row: row | {"Canarybird": 1}, "1 variables that the model does not know, the first is number 9"),
    ],
)
def test_a_file_with_other_variables_is_refused_in_one_line(loop, champion, change, said, tmp_path):
    from medloop.operations.predict import predict

    sheets.write(tmp_path / "ward.csv", [change(row) for row in sheets.rows()[:2]])
    with pytest.raises(Refused, match=f"none of 1 records could be predicted: {said}"):
        predict(BASE, source=tmp_path / "ward.csv", output=tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_a_value_that_is_missing_is_refused_unless_a_parameter_says_what_takes_its_place(loop, tmp_path):
    for name in ("samples", "validation"):
        (tmp_path / name).symlink_to(loop.folder / name)
    with pytest.raises(Refused, match=r"1 of 6 variables have records without a value, most gap \(13 of 90\)"):
        prepared(tmp_path, params.Preprocess())
    assert not (tmp_path / "arrays").exists()


def test_text_for_a_number_is_a_record_that_is_listed(tmp_path):
    rows = sheets.rows()
    rows[5]["noise"] = "much"
    sheets.write(tmp_path / "data/ward.csv", rows)
    with pytest.raises(Refused, match=r"1 of 90 items could not be read .*\n  1 x variable noise is no number"):
        ingested(tmp_path)
    assert len(ingested(tmp_path, max_rejected=0.05)["rejected"]) == 1


def test_a_constant_variable_and_a_logarithm_are_numbers():
    values = np.array([[1, 5, np.nan], [3, 5, 2]], np.float32)
    what = {"variables": ["a", "b", "c"], "missing": "median", "clip": [0, 2], "log1p": True, "levels": [], "flags": []}
    what |= {"numeric": [0, 1, 2], "plain": [0, 1, 2], "standardise": "none"}
    what |= {"middle": [0, 0, 0.5], "mean": [0, np.log(3), 0], "std": [1, 1, 1]}
    wanted = [[np.log(2), 0, 0.5], [np.log(3), 0, np.log(3)]]
    np.testing.assert_allclose(tabular.features(values, what), wanted, atol=1e-6)


def test_a_record_is_standardised_over_its_own_numbers():
    values = np.random.default_rng(0).lognormal(5, 1, (4, 9)).astype(np.float32)
    what = {"clip": None, "log1p": False, "standardise": "record"}
    wanted = StandardScaler().fit_transform(values.T.astype(np.float64)).T
    np.testing.assert_allclose(tabular.transformed(values, what), wanted, atol=1e-5)
    brighter = values * np.array([[0.5], [1], [2], [40]], np.float32)  # an array read at another gain
    np.testing.assert_allclose(tabular.transformed(brighter, what), wanted, atol=1e-5)
    gap = values.copy()
    gap[0, 3] = np.nan
    np.testing.assert_allclose(
        tabular.transformed(gap, what)[0, [0, 8]], StandardScaler().fit_transform(gap[0][:, None])[[0, 8], 0], atol=1e-5
    )
    assert not tabular.transformed(np.full((1, 5), 7, np.float32), what).any()


def test_only_noise_is_added_to_records():
    arrays = np.zeros((3, 4), np.float32)
    with pytest.raises(Refused, match="tables know noise, not contrast"):
        kind.augment(arrays, params.Augment(contrast=0.1), np.random.default_rng(0))
