"""What a report says in words: pure functions of the figures."""

from collections.abc import Mapping, Sequence
from typing import Any

from medloop import manifest

NAMES = {
    "auc": "AUC",
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "ppv": "PPV",
    "npv": "NPV",
    "f1": "F1",
    "brier": "Brier score",
    "ece": "Calibration error (ECE)",
}
PERCENT = {"accuracy", "balanced_accuracy", "sensitivity", "specificity", "ppv", "npv"}
GUESSING = 0.5  # AUC
SMALL_TEST_SET = 100  # patients
SMALL_CLASS = 30  # samples
CALIBRATED = 0.05  # expected calibration error above which a probability is none


def figure(entry: Mapping[str, Any], name: str) -> str:
    """Return a metric with its interval, e.g. "0.912 (0.880 to 0.941)"; a dash where it is undefined."""
    if entry["value"] is None:
        return "–"
    if entry["low"] is None:
        return f"{_shown(entry['value'], name)} (no interval)"
    return f"{_shown(entry['value'], name)} ({_shown(entry['low'], name)} to {_shown(entry['high'], name)})"


def interval(entry: Mapping[str, Any], name: str) -> str:
    """Return a metric's interval alone."""
    return "no interval" if entry["low"] is None else f"{_shown(entry['low'], name)} to {_shown(entry['high'], name)}"


def compact(entry: Mapping[str, Any], name: str) -> str:
    """Return a metric's interval where there is little room, e.g. "84.3–95.1%"."""
    if entry["low"] is None:
        return "no interval"
    low, high = (_shown(entry[end], name) for end in ("low", "high"))
    return f"{low.removesuffix('%')}–{high}"


def shown_first(classes: int) -> tuple[str, ...]:
    """Return the metrics that a reader sees first, and by group."""
    return ("auc", "sensitivity", "specificity") if classes == 2 else ("auc", "accuracy", "balanced_accuracy")


def number(entry: Mapping[str, Any], name: str) -> str:
    """Return a metric without its interval."""
    return "–" if entry["value"] is None else _shown(entry["value"], name)


def percent(share: float) -> str:
    """Return a share as a percentage; what is not quite none or all is not rounded to it."""
    if 0 < share < 0.001:
        return "below 0.1%"
    return "above 99.9%" if 0.999 < share < 1 else f"{share:.1%}"


def title(card: Mapping[str, Any]) -> str:
    """Return the page's title."""
    text = f"{card['task']} on {card['dataset']}"
    return f"Simulated data: {text}" if card["simulated"] else text.capitalize()


def meanings(classes: int) -> dict[str, str]:
    """Return in one phrase what each metric is."""
    over = "" if classes == 2 else ", mean over classes of one against the rest"
    who = "the positive class" if classes == 2 else "a class"
    worst = 1 if classes == 2 else 2
    about = "the positive class's probability" if classes == 2 else "the likeliest class's probability"
    return {
        "auc": f"chance that an image of {who} scores higher than one of another; 0.5 is guessing, 1 perfect{over}",
        "accuracy": "share of images decided as labelled",
        "balanced_accuracy": "mean over classes of the share of its images decided as labelled",
        "sensitivity": f"share of images of {who} that are found{over}",
        "specificity": f"share of images of other classes that are cleared{over}",
        "ppv": f"share right, where {who} is decided{over}; depends on how common it is",
        "npv": f"share right, where {who} is ruled out{over}; depends on how common it is",
        "f1": f"harmonic mean of sensitivity and PPV{over}",
        "brier": f"mean squared error of the probabilities; 0 is perfect, {worst} the worst",
        "ece": f"mean distance of {about} from how often it comes true, 10 bins of equal width",
    }


def splits(about: Mapping[str, Any]) -> list[str]:
    """Return how many images, and of how many patients, each split holds."""
    texts = []
    for split in (name for name in manifest.SPLITS if name in about["counts"]):
        images, patients = sum(about["counts"][split].values()), about["patients"].get(split)
        texts.append(f"{split} {images:,} images" + (f" of {patients:,} patients" if patients else ""))
    return texts


def outcome(metrics: Mapping[str, Any], choice: Mapping[str, Any], card: Mapping[str, Any]) -> list[str]:
    """Return what came out, in plain sentences."""
    test, positive = metrics["test"], choice["positive_class"]
    sentences = [_chosen(choice)]
    if len(card["classes"]) > 2:
        return [*sentences, f"It names the labelled class in {_of_100(test['accuracy'])} images."]
    share = metrics["n"]["classes"][positive] / metrics["n"]["samples"]
    return [
        *sentences,
        f"Of 100 images labelled “{positive}” it finds {_in_words(test['sensitivity'])}.",
        f"Of 100 other images it clears {_in_words(test['specificity'])}.",
        f"Where “{positive}” is as common as here ({percent(share)} of the images), 100 alarms hold "
        f"{_in_words(test['ppv'])} right ones, and of 100 cleared images {_in_words(test['npv'])} are rightly cleared.",
    ]


def limits(
    metrics: Mapping[str, Any],
    choice: Mapping[str, Any],
    card: Mapping[str, Any],
    facts: Mapping[str, Any],
    checks: Sequence[Mapping[str, Any]],
) -> list[str]:
    """Return the limits of the figures, the gravest first."""
    found = [_leaks(metrics), _guessing(metrics), _simulated(card), _patients(facts), _size(metrics)]
    found += [
        *_poor_groups(metrics),
        _calibration(metrics, choice),
        _openings(metrics),
        _undefined(metrics),
        _warnings(checks),
    ]
    return [limit for limit in found if limit] + [
        "Measured on one data set. Other devices, sites and patients may give other results.",
        "Not a medical device: for research, and for no decision on a patient.",
    ]


def _leaks(metrics: Mapping[str, Any]) -> str | None:
    leaks = metrics["leaks"]
    if leaks["regime"] != "report":
        return None
    return (
        f"Leaks were left in: {leaks['pairs']} test images have a copy in train or validation data, so that the "
        "figures are better than the model. This version cannot be promoted."
    )


def _guessing(metrics: Mapping[str, Any]) -> str | None:
    auc = metrics["test"]["auc"]
    if auc["value"] is None or (auc["value"] if auc["low"] is None else auc["low"]) > GUESSING:
        return None
    return f"The model cannot be told from guessing: AUC {figure(auc, 'auc')}."


def _simulated(card: Mapping[str, Any]) -> str | None:
    return "The images are simulated: the figures say nothing about patients." if card["simulated"] else None


def _patients(facts: Mapping[str, Any]) -> str | None:
    if facts["has_patients"]:
        return None
    return (
        "Not every image's patient is known: one patient's images may stand in both train and test data. An image "
        "without a patient counts as a patient of its own, so that the intervals may be too narrow."
    )


def _size(metrics: Mapping[str, Any]) -> str | None:
    n = metrics["n"]
    patients = n["samples"] if n["patients"] is None else n["patients"]
    rare = {name: count for name, count in n["classes"].items() if count < SMALL_CLASS}
    if patients >= SMALL_TEST_SET and not rare:
        return None
    few = "".join(f", {count} of {name}" for name, count in rare.items())
    return f"The test set is small ({n['samples']} images{few}): mind the width of the intervals."


def _poor_groups(metrics: Mapping[str, Any]) -> list[str]:
    """Return the groups whose interval lies below the whole's value, and those with too few samples."""
    named = [(kind, name, group) for kind, groups in metrics["groups"].items() for name, group in groups.items()]
    poor = []
    for metric in dict.fromkeys((metrics["gate"], "sensitivity")):
        whole = metrics["test"][metric]["value"]
        for kind, name, group in named:
            entry = group["metrics"][metric]
            if whole is not None and entry["high"] is not None and entry["high"] < whole:
                poor.append(f"{kind} {name}, {NAMES[metric]} {figure(entry, metric)} against {_shown(whole, metric)}")
    without = [f"{kind} {name}" for kind, name, group in named if group["metrics"][metrics["gate"]]["low"] is None]
    texts = []
    if poor:
        texts.append(f"Poorer results in some of {len(named)} groups, of which chance makes some: {'; '.join(poor)}.")
    if without:
        texts.append(f"Too few samples to judge {', '.join(without)}.")
    return texts


def _calibration(metrics: Mapping[str, Any], choice: Mapping[str, Any]) -> str:
    error = metrics["test"]["ece"]
    if not choice["calibrated"]:
        return "The probabilities are not calibrated: validation data gave no temperature. Read them as a ranking."
    off = f"The probabilities, calibrated on validation data, are off by {percent(error['value'])} on average"
    surely = error["value"] if error["low"] is None else error["low"]
    return f"{off}: read them as a ranking." if surely > CALIBRATED else f"{off} on the test set."


def _openings(metrics: Mapping[str, Any]) -> str:
    count = metrics["openings"]
    if count == 1:
        return "This test set has been opened for this model version alone."
    return (
        f"Images of this test set have been opened for {count} model versions: the more they are used, the more the "
        "best of them owes to chance."
    )


def _undefined(metrics: Mapping[str, Any]) -> str | None:
    reasons = [f"{NAMES[name]}: {entry['reason']}" for name, entry in metrics["test"].items() if "reason" in entry]
    return f"Without an interval: {'; '.join(reasons)}." if reasons else None


def _warnings(checks: Sequence[Mapping[str, Any]]) -> str | None:
    failed = [check["name"] for check in checks if not check["success"]]
    return f"Validation of the data warned of: {', '.join(failed)}." if failed else None


def _chosen(choice: Mapping[str, Any]) -> str:
    scores, gate = choice["validation"], choice["gate"]
    mine = scores[choice["architecture"]][gate]
    rivals = [f"{name} {figure(entry[gate], gate)}" for name, entry in scores.items() if name != choice["architecture"]]
    against = f"; the others: {', '.join(rivals)}" if rivals else ""
    return (
        f"Chosen on validation data: architecture {choice['architecture']}, "
        f"{NAMES[gate]} {figure(mine, gate)} there{against}."
    )


def _of_100(entry: Mapping[str, Any]) -> str:
    return f"{_in_words(entry)} of 100"


def _in_words(entry: Mapping[str, Any]) -> str:
    if entry["value"] is None:
        return "an unknown number"
    if entry["low"] is None:
        return f"{100 * entry['value']:.0f}"
    return f"{100 * entry['value']:.0f} (interval {100 * entry['low']:.0f} to {100 * entry['high']:.0f})"


def _shown(value: float, name: str) -> str:
    return percent(value) if name in PERCENT else f"{value:.3f}"
