import pytest

from medloop.evaluation import wording
from medloop.pages import classification as page
from medloop.tasks.classification import METRICS

ENTRY = {"value": 0.9, "low": 0.85, "high": 0.94, "undefined": 0}
CARD = {
    "simulated": False,
    "task": "classification",
    "dataset": "chest",
    "classes": ["clear", "nodule"],
    "positive_class": "nodule",
}
FACTS = {"has_patients": True}
CHOICE = {
    "architecture": "cnn",
    "gate": "auc",
    "positive_class": "nodule",
    "calibrated": True,
    "validation": {"cnn": {"auc": ENTRY}, "lstm": {"auc": ENTRY | {"value": 0.8}}},
}


def metrics(**changes) -> dict:
    return {
        "gate": "auc",
        "test": dict.fromkeys(METRICS, ENTRY) | {"ece": {"value": 0.02, "low": 0.01, "high": 0.03}},
        "groups": {},
        "n": {"samples": 400, "patients": 200, "classes": {"clear": 300, "nodule": 100}},
        "leaks": {"regime": "refuse", "pairs": 0},
        "openings": 1,
        **changes,
    }


def limits(found: dict, *, choice=CHOICE, card=CARD, facts=FACTS, checks=()) -> str:
    return "\n".join(wording.limits(found, choice, card, facts, checks, page))


def test_a_sound_evaluation_has_no_more_than_the_usual_limits():
    assert wording.limits(metrics(), CHOICE, CARD, FACTS, (), page) == [
        "The probabilities, calibrated on validation data, are off by 2.0% on average on the test set.",
        "This test set has been opened for this model version alone.",
        "Measured on one data set. Other devices, sites and patients may give other results.",
        "Not a medical device: for research, and for no decision on a patient.",
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"leaks": {"regime": "report", "pairs": 59}}, "59 test images have a copy in train or validation data"),
        ({"n": {"samples": 90, "patients": 45, "classes": {"clear": 60, "nodule": 30}}}, "small (90 images)"),
        (
            {"n": {"samples": 400, "patients": 200, "classes": {"clear": 388, "nodule": 12}}},
            "small (400 images, 12 of nodule)",
        ),
        (
            {"test": metrics()["test"] | {"auc": {"value": 0.6, "low": 0.48, "high": 0.7}}},
            "cannot be told from guessing: AUC 0.600 (0.480 to 0.700)",
        ),
        ({"openings": 4}, "opened for 4 model versions"),
        (
            {"test": metrics()["test"] | {"ppv": {"value": None, "low": None, "high": None, "reason": "why"}}},
            "Without an interval: PPV: why.",
        ),
        (
            {"test": metrics()["test"] | {"ece": {"value": 0.2, "low": 0.15, "high": 0.25}}},
            "off by 20.0% on average: read them as a ranking",
        ),
    ],
)
def test_what_limits_the_figures_is_said(changes, said):
    assert said not in limits(metrics())
    assert said in limits(metrics(**changes))


def test_groups_that_do_worse_and_groups_too_small_are_named():
    def group(low, value, high):
        return {"metrics": {"auc": {"value": value, "low": low, "high": high}, "sensitivity": ENTRY}}

    found = metrics(groups={"site": {"a": group(0.6, 0.7, 0.8), "b": group(0.8, 0.88, 0.95)}, "sex": {}})
    assert "site a, AUC 0.700 (0.600 to 0.800) against 0.900" in limits(found)
    assert "site b" not in limits(found)
    found["groups"]["sex"]["F"] = group(None, 0.5, None)
    assert "Too few samples to judge sex F." in limits(found)


def test_simulated_data_unknown_patients_and_failed_checks_are_said():
    assert "figures say nothing about patients" in limits(metrics(), card=CARD | {"simulated": True})
    assert "Not every image's patient is known" in limits(metrics(), facts={"has_patients": False})
    for kind, told in (("image", False), ("volume", False), ("sequence", True), ("table", True)):
        assert ("no near copies" in limits(metrics(), facts=FACTS | {"kind": kind})) == told
    checks = [{"name": "balance", "success": False}, {"name": "schema", "success": True}]
    assert "warned of: balance." in limits(metrics(), checks=checks)
    assert "are not calibrated" in limits(metrics(), choice=CHOICE | {"calibrated": False})


def test_splits_are_told_in_the_order_of_use():
    about = {"counts": {"test": {"a": 2, "b": 3}, "train": {"a": 900, "b": 300}}, "patients": {"test": 0, "train": 40}}
    assert wording.splits(about) == ["train 1,200 images of 40 patients", "test 5 images"]


def test_the_outcome_of_two_classes_is_told_in_images():
    said = page.outcome(metrics(), CARD)
    assert wording.chosen(CHOICE) == (
        "Chosen on validation data: architecture cnn, AUC 0.900 (0.850 to 0.940) there; "
        "the others: lstm 0.800 (0.850 to 0.940)."
    )
    assert said[0] == "Of 100 images labelled “nodule” it finds 90 (interval 85 to 94)."
    assert "as common as here (25.0% of the images)" in said[2]


def test_the_outcome_of_many_classes_is_told_in_images():
    said = page.outcome(metrics(), CARD | {"classes": ["a", "b", "c"]})
    assert said[0] == "It names the labelled class in 90 (interval 85 to 94) of 100 images."


@pytest.mark.parametrize(
    ("share", "shown"), [(0, "0.0%"), (0.0004, "below 0.1%"), (0.25, "25.0%"), (0.9999, "above 99.9%"), (1, "100.0%")]
)
def test_a_share_is_not_rounded_to_none_or_all(share, shown):
    assert wording.percent(share) == shown


def test_every_metric_has_a_name_and_a_meaning():
    for classes in (2, 5):
        assert list(page.meanings({"classes": range(classes)})) == list(METRICS)
    assert set(METRICS) <= wording.NAMES.keys()
