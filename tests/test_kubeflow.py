import json
import logging

import numpy as np
import pandas as pd
import pytest
from kfp.dsl import ClassificationMetrics, Metrics, Model
from sklearn.metrics import confusion_matrix, roc_auc_score

import toy_loop
from medloop import __version__, kubeflow, params
from medloop.errors import Conflict, Refused


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    """What `evaluate` leaves of a toy problem with three classes."""
    from medloop.stages.evaluate import evaluate

    folders = toy_loop.make(tmp_path_factory.mktemp("loop"), classes=("a", "b", "c"), architectures=("cnn",))
    evaluate(toy_loop.BASE, params.Evaluate(resamples=100, positive_class="b"), **folders)
    return folders["evaluation"]


def test_the_roc_curve_encloses_the_auc(evaluation):
    false, true, thresholds = kubeflow.roc_curve(evaluation)
    predictions = pd.read_parquet(evaluation / "predictions.parquet")
    wanted = roc_auc_score(predictions["label"] == 1, predictions["p_1"])
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(true, false) == pytest.approx(wanted, abs=0.01)
    assert thresholds == sorted(thresholds, reverse=True)
    assert len(thresholds) <= kubeflow.ROC_POINTS + 1


def test_the_confusion_matrix_has_true_classes_as_rows(evaluation):
    classes, matrix = kubeflow.confusion_matrix(evaluation)
    predictions = pd.read_parquet(evaluation / "predictions.parquet")
    assert classes == ["a", "b", "c"]
    assert matrix == confusion_matrix(predictions["label"], predictions["decision"]).tolist()


def test_the_metrics_bring_their_intervals(evaluation):
    shown = kubeflow.test_metrics(evaluation)
    auc = json.loads((evaluation / "metrics.json").read_text())["test"]["auc"]
    assert (shown["auc"], shown["auc_low"], shown["auc_high"]) == (auc["value"], auc["low"], auc["high"])
    assert None not in shown.values()


def test_kfp_can_store_what_it_is_given(evaluation):
    curves, metrics = ClassificationMetrics(), Metrics()
    curves.log_roc_curve(*kubeflow.roc_curve(evaluation))
    curves.log_confusion_matrix(*kubeflow.confusion_matrix(evaluation))
    for name, value in kubeflow.test_metrics(evaluation).items():
        metrics.log_metric(name, value)
    json.dumps([curves.metadata, metrics.metadata], allow_nan=False)


def test_the_checks_as_a_table(tmp_path):
    check = {"name": "labels", "level": "critical", "success": False, "observed": ["a|b"], "wanted": "a\nb"}
    (tmp_path / "result.json").write_text(json.dumps({"success": False, "checks": [check]}))
    lines = kubeflow.table_of_checks(tmp_path).splitlines()
    assert lines[2:] == [r"| labels | critical | FAILED | ['a\|b'] | a b |"]


def test_models_are_found_by_architecture():
    models = [Model(uri=f"/{name}", metadata={"architecture": name}) for name in ("lstm", "cnn")]
    found = kubeflow.by_architecture(models[0], None, models[1])
    assert {name: str(path) for name, path in found.items()} == {"lstm": "/lstm", "cnn": "/cnn"}


@pytest.mark.parametrize(("error", "code"), [(Refused("give b"), 2), (Conflict("a won"), 3)])
def test_a_refusal_ends_a_step_with_its_message_and_code(capsys, error, code):
    with pytest.raises(SystemExit) as ended, kubeflow.step("ingest"):
        raise error
    assert ended.value.code == code
    assert capsys.readouterr().err == f"medloop: {error}\n"


def test_a_step_in_an_image_of_another_medloop_is_refused_with_both_versions(capsys, monkeypatch):
    monkeypatch.setenv(kubeflow.VERSION, "9.9.9")
    with pytest.raises(SystemExit) as ended, kubeflow.step("ingest"):
        pytest.fail("the stage began")
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(
        f"medloop: this image holds medloop {__version__}, the pipeline was compiled by medloop 9.9.9: name images of"
    )
    monkeypatch.setenv(kubeflow.VERSION, __version__)
    with kubeflow.step("ingest"):
        pass


def test_an_unforeseen_error_ends_a_step_without_its_text(capsys):
    with pytest.raises(SystemExit) as ended, kubeflow.step("ingest"):
        json.loads("Canarybird^Jane")
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("medloop: unexpected JSONDecodeError in ")
    assert "Canarybird" not in said


def test_a_state_that_cannot_be_written_to_hides_no_message_and_shows_no_name(monkeypatch, capfd):
    monkeypatch.setenv("MEDLOOP_STATE", "/proc/nowhere")
    monkeypatch.setenv("MEDLOOP_RUN", "run-1")
    with pytest.raises(SystemExit) as ended, kubeflow.step("ingest"):
        raise FileNotFoundError(2, "No such file", "/data/MUELLER^HANS.dcm")
    with pytest.raises(SystemExit) as refused, kubeflow.step("ingest"):
        raise Refused("wanted one thing, got another")
    assert (ended.value.code, refused.value.code) == (1, Refused.exit_code)
    said = capfd.readouterr().err
    assert "unexpected FileNotFoundError" in said
    assert "wanted one thing, got another" in said
    assert "MUELLER" not in said


def test_a_log_that_cannot_be_written_to_shows_no_name(monkeypatch, capfd, tmp_path):
    monkeypatch.setenv("MEDLOOP_STATE", "/proc/nowhere")
    monkeypatch.setenv("MEDLOOP_RUN", "run-1")
    with (tmp_path / "log").open("w") as stream:
        closed = logging.StreamHandler(stream)
    logging.root.addHandler(closed)
    with pytest.raises(SystemExit), kubeflow.step("ingest"):
        raise FileNotFoundError(2, "No such file", "/data/MUELLER^HANS.dcm")
    said = capfd.readouterr().err
    assert said.startswith("medloop: unexpected FileNotFoundError in ")
    assert "MUELLER" not in said


def test_samples_that_cannot_be_kept_cost_a_run_nothing(tmp_path, monkeypatch, caplog):
    (tmp_path / "samples").mkdir()
    monkeypatch.setenv("MEDLOOP_STATE", "/proc/nowhere")
    kubeflow.keep(tmp_path / "samples", "wards")
    assert "The samples are not kept for the next run" in caplog.text
