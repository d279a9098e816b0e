import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as reference

import toy_loop
from medloop import calibration, params, provenance
from medloop.errors import Refused
from medloop.evaluation import ledger
from medloop.stages.evaluate import evaluate

SECTION = params.Evaluate(resamples=200)


def run(folders: dict, **changes) -> dict:
    return evaluate(toy_loop.BASE, SECTION.model_copy(update=changes), **folders)


def entered() -> list[dict]:
    path = ledger.path()
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def digests(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): provenance.sha256(path) for path in folder.rglob("*") if path.is_file()}


def test_metrics_are_those_of_the_predictions(tmp_path):
    folders = toy_loop.make(tmp_path)
    metrics = run(folders)
    out = folders["evaluation"]
    assert toy_loop.read(out / "metrics.json") == metrics
    card, table = toy_loop.read(out / "card.json"), pd.read_parquet(out / "predictions.parquet")
    assert list(table.columns) == [
        *("sample_id", "patient_id", "site", "sex", "age_years", "label", "p_0", "p_1", "decision")
    ]
    assert np.array_equal(table["label"], np.load(folders["holdout"] / "test/labels.npy"))
    assert np.array_equal(table["decision"], (table["p_1"] >= card["threshold"]).astype(int))
    values = {name: entry["value"] for name, entry in metrics["test"].items()}
    assert values["auc"] == pytest.approx(reference.roc_auc_score(table["label"], table["p_1"]), abs=1e-12)
    assert values["sensitivity"] == pytest.approx(reference.recall_score(table["label"], table["decision"]), abs=1e-12)
    assert values["brier"] == pytest.approx(reference.brier_score_loss(table["label"], table["p_1"]), abs=1e-12)
    assert all(entry["low"] < entry["value"] < entry["high"] for entry in metrics["test"].values())
    assert metrics["n"] == {"samples": 240, "patients": 120, "classes": {"clear": 118, "nodule": 122}}


def test_the_card_holds_what_was_chosen_and_its_digest_names_the_model(tmp_path):
    folders = toy_loop.make(tmp_path)
    metrics = run(folders, target_sensitivity=0.8)
    chosen, card = (toy_loop.read(folders["evaluation"] / f"{name}.json") for name in ("choice", "card"))
    trained = toy_loop.read(folders["models"]["cnn"] / "card.json")
    assert chosen["architecture"] == "cnn", "lstm's network is the same with noise on top"
    assert {key: card[key] for key in trained} == trained
    assert {key: card[key] for key in set(card) - set(trained)} == {
        key: chosen[key] for key in ("temperature", "calibrated", "threshold", "positive_class", "operating_point")
    }
    table = pd.read_parquet(folders["models"]["cnn"] / "validation.parquet")
    logits = table[["output_0", "output_1"]].to_numpy(np.float64)
    assert card["temperature"] == calibration.temperature(logits, table["label"].to_numpy())[0]
    assert card["temperature"] > 2, "toy networks are too sure of themselves"
    assert card["operating_point"]["target_sensitivity"] == 0.8
    assert 0.8 <= card["operating_point"]["validation_sensitivity"] < 0.82
    assert metrics["model_sha256"] == provenance.model_digest(card)
    assert entered() == [{"test_sha256": metrics["test_sha256"], "model_sha256": metrics["model_sha256"]}]


def test_permuted_test_labels_leave_every_choice_as_it_is(tmp_path):
    plain, permuted = toy_loop.make(tmp_path / "plain"), toy_loop.make(tmp_path / "permuted", permute_test=True)
    aucs = [run(folders)["test"]["auc"]["value"] for folders in (plain, permuted)]
    assert aucs[0] > 0.8
    assert aucs[1] < 0.6, "the permutation is meant to be felt"
    for name in ("choice.json", "card.json"):
        assert (plain["evaluation"] / name).read_bytes() == (permuted["evaluation"] / name).read_bytes()


def test_the_opening_is_entered_before_a_test_label_is_read(tmp_path, monkeypatch):
    folders = toy_loop.make(tmp_path)
    load = np.load

    def closed(path, *args, **kwargs):
        if Path(path).name == "labels.npy":
            raise RuntimeError("labels read")
        return load(path, *args, **kwargs)

    monkeypatch.setattr(np, "load", closed)
    with pytest.raises(RuntimeError, match="labels read"):
        run(folders)
    assert len(entered()) == 1


def test_a_second_run_writes_the_same_bytes_and_opens_nothing_more(tmp_path):
    folders = toy_loop.make(tmp_path)
    run(folders)
    first = digests(folders["evaluation"])
    shutil.rmtree(folders["evaluation"])
    assert run(folders)["openings"] == 1
    assert digests(folders["evaluation"]) == first
    assert len(entered()) == 1


def test_another_operating_point_is_another_version_that_sees_the_test_set(tmp_path):
    folders = toy_loop.make(tmp_path)
    assert run(folders)["openings"] == 1
    assert run(folders, target_sensitivity=0.7)["openings"] == 2
    assert "opened for 2 model versions" in (folders["evaluation"] / "report.html").read_text()


@pytest.mark.parametrize("name", ["models/cnn/model.onnx", "holdout/test/labels.npy", "validation/result.json"])
def test_a_changed_byte_is_refused_and_leaves_the_last_outputs(tmp_path, name):
    folders = toy_loop.make(tmp_path)
    run(folders)
    before = digests(folders["evaluation"])
    content = bytearray((tmp_path / name).read_bytes())
    content[-1] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Refused, match=rf"{re.escape(name)} does not match its digest: wanted \w+, got \w+"):
        run(folders)
    assert digests(folders["evaluation"]) == before


def test_of_equal_models_the_smaller_then_the_first_by_name_is_chosen(tmp_path):
    folders = toy_loop.make(tmp_path, architectures=("b", "c", "a"), noise=0)
    run(folders)
    assert toy_loop.read(folders["evaluation"] / "choice.json")["architecture"] == "a"
    _edit(folders["models"]["c"], lambda card: card | {"parameters": 5})
    run(folders)
    assert toy_loop.read(folders["evaluation"] / "choice.json")["architecture"] == "c"


def test_several_labels_an_image_are_refused(tmp_path):
    with pytest.raises(Refused, match="one label per image"):
        run(toy_loop.make(tmp_path, multi_label=True))
    assert entered() == []


def test_an_unknown_positive_class_is_refused_before_the_test_set_is_opened(tmp_path):
    with pytest.raises(Refused, match=r"positive_class: unknown class 'nodules'; known: clear, nodule"):
        run(toy_loop.make(tmp_path), positive_class="nodules")
    assert entered() == []


def test_the_positive_class_decides_what_sensitivity_means(tmp_path):
    folders = toy_loop.make(tmp_path)
    nodule, clear = run(folders), run(folders, positive_class="clear")
    table = pd.read_parquet(folders["evaluation"] / "predictions.parquet")
    card = toy_loop.read(folders["evaluation"] / "card.json")
    assert np.array_equal(table["decision"] == 0, table["p_0"] >= card["threshold"])
    found = ((table["label"] == 0) & (table["decision"] == 0)).sum() / (table["label"] == 0).sum()
    assert clear["test"]["sensitivity"]["value"] == pytest.approx(found)
    assert clear["test"]["auc"]["value"] == pytest.approx(nodule["test"]["auc"]["value"], abs=1e-3)


def test_what_was_made_of_other_samples_is_refused(tmp_path):
    ours, theirs = toy_loop.make(tmp_path / "ours"), toy_loop.make(tmp_path / "theirs", seed=5)
    with pytest.raises(Refused, match="model cnn was trained on other samples than this test set"):
        run(ours | {"models": theirs["models"]})
    with pytest.raises(Refused, match="validation belongs to other samples"):
        run(ours | {"validation": theirs["validation"]})
    mixed = {"cnn": ours["models"]["cnn"], "lstm": theirs["models"]["lstm"]}
    with pytest.raises(Refused, match="cnn and lstm were validated on other samples"):
        run(ours | {"models": mixed})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ["clear", "mass"]}, "all models must share classes"),
        ({"architecture": "vit"}, "must hold architecture cnn, it holds vit"),
        ({"schema_version": 9}, "schema version 9, this medloop reads 2"),
    ],
)
def test_cards_that_do_not_belong_here_are_refused(tmp_path, change, message):
    folders = toy_loop.make(tmp_path)
    _edit(folders["models"]["cnn"], lambda card: card | change)
    with pytest.raises(Refused, match=message):
        run(folders)


def test_another_preprocessing_than_the_test_sets_is_refused(tmp_path):
    folders = toy_loop.make(tmp_path, architectures=("cnn",))
    _edit(folders["models"]["cnn"], lambda card: card | {"preprocessing": {"size_px": [9, 9]}})
    with pytest.raises(Refused, match="must share preprocessing"):
        run(folders)


def test_a_model_that_was_not_trained_is_asked_for(tmp_path):
    folders = toy_loop.make(tmp_path)
    with pytest.raises(Refused, match="run the stage that makes it first"):
        run(folders | {"models": {"cnn": tmp_path / "nowhere"}})


def test_predictions_that_are_no_numbers_are_refused(tmp_path):
    folders = toy_loop.make(tmp_path)
    table = pd.read_parquet(folders["models"]["lstm"] / "validation.parquet")
    table.loc[3, "output_0"] = np.nan
    table.to_parquet(folders["models"]["lstm"] / "validation.parquet")
    _reseal(folders["models"]["lstm"])
    with pytest.raises(Refused, match=r"1 of 240 in .*lstm are not"):
        run(folders)


def test_groups_are_scored_apart(tmp_path):
    folders = toy_loop.make(tmp_path)
    groups = run(folders)["groups"]
    table = pd.read_parquet(folders["evaluation"] / "predictions.parquet")
    assert {kind: list(found) for kind, found in groups.items()} == {
        "site": ["north", "south"],
        "sex": ["F", "M"],
        "age": ["18 to 39", "40 to 59", "60 to 74", "75 and over"],
    }
    chosen = {
        "north": ("site", table["site"] == "north"),
        "F": ("sex", table["sex"] == "F"),
        "60 to 74": ("age", table["age_years"].between(60, 74.999)),
    }
    for name, (kind, rows) in chosen.items():
        found, part = groups[kind][name], table[rows]
        assert found["n"]["samples"] == len(part)
        assert found["n"]["patients"] == part["patient_id"].nunique()
        wanted = reference.roc_auc_score(part["label"], part["p_1"])
        assert found["metrics"]["auc"]["value"] == pytest.approx(wanted, abs=1e-12)
        assert found["metrics"]["auc"]["low"] < wanted < found["metrics"]["auc"]["high"]


def test_small_groups_get_no_interval(tmp_path):
    metrics = run(toy_loop.make(tmp_path, patients=30))
    small = metrics["groups"]["age"]["18 to 39"]
    assert small["n"]["patients"] < 20
    assert small["metrics"]["auc"]["low"] is None
    assert small["metrics"]["auc"]["reason"] == "fewer than 20 patients"
    assert metrics["test"]["auc"]["low"] is not None


def test_three_classes_are_decided_by_the_likeliest(tmp_path):
    folders = toy_loop.make(tmp_path, classes=("a", "b", "c"))
    metrics = run(folders)
    table = pd.read_parquet(folders["evaluation"] / "predictions.parquet")
    shares = table[["p_0", "p_1", "p_2"]].to_numpy()
    assert toy_loop.read(folders["evaluation"] / "card.json")["threshold"] is None
    assert np.array_equal(table["decision"], shares.argmax(axis=1))
    wanted = reference.roc_auc_score(table["label"], shares, multi_class="ovr")
    assert metrics["test"]["auc"]["value"] == pytest.approx(wanted, abs=1e-12)
    page = (folders["evaluation"] / "report.html").read_text()
    assert "the likeliest class" in page
    assert "Operating point" not in page


def test_without_patients_each_image_stands_alone_and_the_report_says_so(tmp_path):
    folders = toy_loop.make(tmp_path, ids=False)
    metrics = run(folders)
    assert metrics["n"]["patients"] is None
    assert "Not every image&#39;s patient is known" in (folders["evaluation"] / "report.html").read_text()


def test_the_report_opens_with_what_it_is_about(tmp_path):
    check = {"name": "class balance", "level": "warn", "success": False, "observed": 0.01, "wanted": 0.05}
    folders = toy_loop.make(tmp_path, simulated=True, leaks="report", leak_pairs=7, checks=[check])
    metrics = run(folders)
    page = (folders["evaluation"] / "report.html").read_text()
    assert "<title>Simulated data: classification on toy</title>" in page
    first = page[: page.index("Metrics on the test set")]
    sensitivity = metrics["test"]["sensitivity"]
    assert f"Of 100 images labelled “nodule” it finds {100 * sensitivity['value']:.0f}" in first
    assert "7 test images have a copy in train or validation data" in first
    assert "Validation of the data warned of: class balance." in first
    assert "Not a medical device" in first
    assert page.index("Leaks were left in") < page.index("Not a medical device")


def test_the_report_needs_nothing_beside_it_and_escapes_what_data_say(tmp_path):
    folders = toy_loop.make(tmp_path, classes=("clear", "<script>$x_1$</script>"))
    run(folders)
    page = (folders["evaluation"] / "report.html").read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;$x_1$" in page
    sources = re.findall(r'(?:src|href)="([^"]{0,24})', page)
    assert len(sources) == 6 + SECTION.worst_errors
    assert all(source.startswith("data:image/") for source in sources)
    assert "url(" not in page
    assert "@import" not in page


def test_the_worst_errors_are_shown_as_they_are(tmp_path):
    import base64

    folders = toy_loop.make(tmp_path)
    run(folders, worst_errors=3)
    table = pd.read_parquet(folders["evaluation"] / "predictions.parquet")
    table["said"] = np.where(table["label"] == 1, table["p_1"], table["p_0"])
    worst = table[table["label"] != table["decision"]].nsmallest(3, "said")
    page = (folders["evaluation"] / "report.html").read_text()
    shown = re.findall(r'src="data:image/png;base64,([^"]+)" alt="sample ([^"]+)"', page)
    assert [sample for _, sample in shown] == worst["sample_id"].tolist()
    images = np.load(folders["holdout"] / "test/inputs.npy")
    for (encoded, _), index in zip(shown, worst.index, strict=True):
        pixels = cv2.imdecode(np.frombuffer(base64.b64decode(encoded), np.uint8), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(pixels, images[index, :, :, 0])


def test_evaluation_imports_no_training_framework():
    code = (
        "import sys, medloop.stages.evaluate; print(*{'tensorflow', 'keras', 'jax', 'torch', 'sklearn', 'mlflow', "
        "'great_expectations', 'scipy.optimize', 'scipy.stats', 'matplotlib.pyplot'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == ""


def _edit(folder: Path, change) -> None:
    provenance.write_json(folder / "card.json", change(toy_loop.read(folder / "card.json")))
    _reseal(folder)


def _reseal(folder: Path) -> None:
    lineage = toy_loop.read(folder / provenance.LINEAGE)
    lineage["outputs"] = {name: provenance.sha256(folder / name) for name in lineage["outputs"]}
    provenance.write_json(folder / provenance.LINEAGE, lineage)
