import numpy as np
import pandas as pd
import pytest

from medloop import measures, params
from medloop.evaluation import bootstrap, scores
from medloop.tasks import classification

SECTION = params.Evaluate(resamples=200)


def predictions(n: int = 150) -> classification.Predictions:
    """Return honest probabilities: what is said of a sample is the chance that it is so."""
    random = np.random.default_rng(0)
    score = random.random(n)
    table = pd.DataFrame({"patient_id": [f"p{number // 2}" for number in range(n)]})
    labels = (random.random(n) < score).astype(int)
    return classification.Predictions(
        table, labels, np.stack([1 - score, score], axis=1), (score > 0.5).astype(int), ["a", "b"], 1
    )


def test_every_value_stands_inside_its_interval():
    found = scores.scores(predictions(), classification, SECTION, seed=0)
    assert list(found) == list(classification.METRICS)
    outside = [name for name, entry in found.items() if not entry["low"] < entry["value"] < entry["high"]]
    assert outside == []


def test_the_calibration_error_alone_is_centred():
    honest = predictions()
    groups = bootstrap.clusters(honest.table["patient_id"])

    def metrics(weights: np.ndarray | None) -> dict[str, np.ndarray]:
        return measures.of_classes(honest.labels, honest.probabilities, honest.decisions, positive=1, weights=weights)

    values, drawn = metrics(None), bootstrap.draw(metrics, groups, SECTION.resamples, 0)
    size = classification.rarest(honest.labels, groups)
    wanted = {
        name: bootstrap.interval(float(value[0]), drawn[name], 0.95, size=size, centred=name == "ece")
        for name, value in values.items()
    }
    assert scores.scores(honest, classification, SECTION, seed=0) == wanted


def test_a_higher_confidence_widens_every_interval():
    narrow = scores.scores(predictions(), classification, SECTION.model_copy(update={"confidence": 0.8}), seed=0)
    wide = scores.scores(predictions(), classification, SECTION.model_copy(update={"confidence": 0.99}), seed=0)
    for name in narrow:
        assert wide[name]["low"] <= narrow[name]["low"] < narrow[name]["high"] <= wide[name]["high"]


def test_patients_are_unknown_as_soon_as_one_is():
    found = predictions()
    assert found.counts()["patients"] == 75
    found.table.loc[3, "patient_id"] = None
    assert found.counts()["patients"] is None


@pytest.mark.parametrize(
    ("age", "band"),
    [(0, "under 18"), (17.9, "under 18"), (18, "18 to 39"), (60, "60 to 74"), (75, "75 and over"), (90, "75 and over")],
)
def test_the_left_edge_belongs_to_an_age_band(age, band):
    assert scores.age_bands(pd.Series([age])).tolist() == [band]


def test_an_unknown_age_has_no_band():
    assert scores.age_bands(pd.Series([None, 40.0])).isna().tolist() == [True, False]
