"""What a report says in words, whatever its task: pure functions of the figures."""

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from medloop import kinds, manifest, plugins

NAMES = {
    "auc": "AUC",
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "ppv": "PPV",
    "npv": "NPV",
    "f1": "F1",
    "average_precision": "Average precision",
    "micro_f1": "F1 over all labels",
    "exact_match": "All labels right",
    "kappa": "Quadratic kappa",
    "within_one": "Within one grade",
    "brier": "Brier score",
    "ece": "Calibration error (ECE)",
    "mae": "Mean absolute error",
    "rmse": "Root mean squared error",
    "r2": "R²",
    "dice": "Dice",
    "iou": "IoU",
    "dice_pooled": "Dice, pooled",
    "iou_pooled": "IoU, pooled",
    "hd95_px": "HD95 (pixels)",
    "hd95_mm": "HD95 (mm)",
    "nsd_px": "NSD (pixels)",
    "nsd_mm": "NSD (mm)",
    "nsd_px_pooled": "NSD (pixels), pooled",
    "nsd_mm_pooled": "NSD (mm), pooled",
    "average_precision_objects": "Average precision of objects",
    "map_50": "mAP@.5",
    "map": "mAP@.5:.95",
    "map_small": "mAP@.5:.95, small",
    "map_medium": "mAP@.5:.95, medium",
    "map_large": "mAP@.5:.95, large",
    "froc": "FROC score",
    "false_positives": "False boxes an image",
    "kid": "KID",
    "kid_train": "KID of train images",
    "kid_ratio": "KID, ratio",
    "auc_synthetic": "AUC, trained on synthetic",
    "auc_real": "AUC, trained on real",
    "auc_lost": "AUC lost",
}
PERCENT = {"accuracy", "balanced_accuracy", "sensitivity", "specificity", "ppv", "npv", "exact_match", "within_one"}
RIVALS = {
    "elastic_net": "an elastic net on the same inputs",
    "persistence": "persistence (the last value stays)",
    "ridge": "ridge regression on the same inputs",
}
FINE = {"kid", "kid_train"}
IN_UNITS = {"mae", "rmse", "hd95_px", "hd95_mm"}  # of what is predicted, or of length
SMALL_TEST_SET = 100  # patients


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


def question(card: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the row that tells the clinical question, where there is one."""
    return [("Question", card["question"])] if card.get("question") else []


def splits(about: Mapping[str, Any], units: str = "images") -> list[str]:
    """Return how many inputs, and of how many patients, each split holds."""
    texts = []
    for split in (name for name in manifest.SPLITS if name in about["counts"]):
        count, patients = sum(about["counts"][split].values()), about["patients"].get(split)
        texts.append(
            f"{split} {count:,} {units}" + (f" of {patients:,} patient{'s' * (patients > 1)}" if patients else "")
        )
    return texts


def beyond(metrics: Mapping[str, Any]) -> list[str]:
    """Return how the network compares with each simple rival on the same test data, in plain sentences."""
    found = []
    for name, differences in metrics.get("beyond", {}).items():
        told = [f"{NAMES[metric]} {_signed(each)}" for metric, each in differences.items()]
        found.append(f"Less {RIVALS.get(name, name)}, each resample on the same patients: {', '.join(told)}.")
    return found


def ranked(ranking: Mapping[str, Any], units: str) -> str:
    """Return how the variables were ranked, and how stable their selection is."""
    stable = {name: _bare(each) for name, each in ranking["stability"].items()}
    return (
        f"On train and validation {units} of {ranking['patients']} patients the elastic net selects "
        f"{ranking['selected']} of {ranking['features']} numbers. Over {ranking['resamples']} random halves of the "
        f"patients its selection has a stability of {stable['elastic_net']}, that of as many by F {stable['f']}: 1 is "
        "the same selection each time, 0 what chance gives, above 0.75 is held for good. What is selected tells the "
        "classes apart here; it need not cause them."
    )


def limits(
    metrics: Mapping[str, Any],
    choice: Mapping[str, Any],
    card: Mapping[str, Any],
    facts: Mapping[str, Any],
    checks: Sequence[Mapping[str, Any]],
    page: ModuleType,
    units: str = "images",
) -> list[str]:
    """Return the limits of the figures, the gravest first; what is wrong by the measure of its task says the `page`."""
    found = [
        _leaks(metrics, units),
        page.broken(metrics),
        *_beaten(metrics),
        _simulated(card, units),
        _patients(facts, units),
        _copies(facts, units),
    ]
    found += [
        page.small(metrics, units),
        *_poor_groups(metrics, page.JUDGED),
        page.trust(metrics, choice),
        _openings(metrics, units),
        _undefined(metrics),
        _warnings(checks),
    ]
    return [limit for limit in found if limit] + [
        "Measured on one data set. Other devices, sites and patients may give other results.",
        "Not a medical device: for research, and for no decision on a patient.",
    ]


def _leaks(metrics: Mapping[str, Any], units: str) -> str | None:
    leaks = metrics["leaks"]
    if leaks["regime"] != "report":
        return None
    if not leaks["pairs"]:
        one = units.removesuffix("s")
        return f"Leaks were to be left in; no test {one} has a copy. This version cannot be promoted."
    return (
        f"Leaks were left in: {leaks['pairs']} test {units} have a copy in train or validation data, so that the "
        "figures are better than the model. This version cannot be promoted."
    )


def _beaten(metrics: Mapping[str, Any]) -> list[str]:
    """Return by which metrics the network is worse than a simple rival, beyond what chance explains."""
    return [
        f"Worse than {RIVALS.get(name, name)}: {NAMES[metric]} {_signed(each)}. Use that one."
        for name, differences in metrics.get("beyond", {}).items()
        for metric, each in differences.items()
        if each["high"] is not None and each["high"] < 0
    ]


def _simulated(card: Mapping[str, Any], units: str) -> str | None:
    return f"The {units} are simulated: the figures say nothing about patients." if card["simulated"] else None


def _copies(facts: Mapping[str, Any], units: str) -> str | None:
    if getattr(plugins.load(kinds, facts.get("kind", "image")), "NEAR_COPIES", True):
        return None
    return f"Only {units} that are the same to the byte were looked for on two sides, no near copies."


def _patients(facts: Mapping[str, Any], units: str) -> str | None:
    if facts.get("split_in_time"):
        return (
            "Recordings are split in time: the figures speak of later moments of the same patients, and say nothing "
            "about others. Intervals are from blocks of neighbouring moments."
        )
    if facts["has_patients"]:
        return None
    return (
        f"Not every {units.removesuffix('s')}'s patient is known: one patient's {units} may stand in both train and "
        f"test data. {one(units).capitalize()} without a patient counts as a patient of its own, so that the "
        "intervals may be too narrow."
    )


def noun(card: Mapping[str, Any]) -> str:
    """Return what a sample is called."""
    return str(plugins.load(kinds, card["kind"]).NOUN)


def one(units: str) -> str:
    """Return one of what `units` names, with its article."""
    name = units.removesuffix("s")
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def small(metrics: Mapping[str, Any], units: str, few: str = "") -> str:
    """Return that the test set is small, and which classes are."""
    return f"The test set is small ({metrics['n']['samples']} {units}{few}): mind the width of the intervals."


def small_classes(metrics: Mapping[str, Any], units: str, least: int) -> str | None:
    """Return that the test set is small, or that a class of it has fewer than `least` samples; or None."""
    n = metrics["n"]
    patients = n["samples"] if n["patients"] is None else n["patients"]
    rare = {name: count for name, count in n["classes"].items() if count < least}
    if patients >= SMALL_TEST_SET and not rare:
        return None
    return small(metrics, units, "".join(f", {count} of {name}" for name, count in rare.items()))


def calibration(error: Mapping[str, Any], calibrated: bool, limit: float) -> str:
    """Return what probabilities with a calibration error are worth; above `limit` they are none."""
    if not calibrated:
        return "The probabilities are not calibrated: validation data gave no temperature. Read them as a ranking."
    off = f"The probabilities, calibrated on validation data, are off by {percent(error['value'])} on average"
    surely = error["value"] if error["low"] is None else error["low"]
    return f"{off}: read them as a ranking." if surely > limit else f"{off} on the test set."


def span(values: Sequence[float]) -> str:
    """Return the least and the greatest value."""
    return f"{min(values):.3f} to {max(values):.3f}"


def of_100(entry: Mapping[str, Any]) -> str:
    """Return a share as a number of 100, e.g. "91 (interval 88 to 94)"."""
    if entry["value"] is None:
        return "an unknown number"
    if entry["low"] is None:
        return f"{100 * entry['value']:.0f}"
    return f"{100 * entry['value']:.0f} (interval {100 * entry['low']:.0f} to {100 * entry['high']:.0f})"


def _poor_groups(metrics: Mapping[str, Any], judged: Sequence[str]) -> list[str]:
    """Return the groups whose interval lies below the whole's value, and those with too few samples."""
    named = [(kind, name, group) for kind, groups in metrics["groups"].items() for name, group in groups.items()]
    poor = []
    for metric in dict.fromkeys((metrics["gate"], *judged)):
        whole = metrics["test"][metric]["value"]
        for kind, name, group in named:
            entry = group["metrics"][metric]
            end, sign = ("low", -1) if metrics.get("lower_is_better") and metric == metrics["gate"] else ("high", 1)
            if whole is not None and entry[end] is not None and sign * entry[end] < sign * whole:
                poor.append(f"{kind} {name}, {NAMES[metric]} {figure(entry, metric)} against {_shown(whole, metric)}")
    without = [f"{kind} {name}" for kind, name, group in named if group["metrics"][metrics["gate"]]["low"] is None]
    texts = []
    if poor:
        texts.append(f"Poorer results in some of {len(named)} groups, of which chance makes some: {'; '.join(poor)}.")
    if without:
        texts.append(f"Too few samples to judge {', '.join(without)}.")
    return texts


def _openings(metrics: Mapping[str, Any], units: str) -> str:
    count = metrics["openings"]
    if count == 1:
        return "This test set has been opened for this model version alone."
    return (
        f"{units.capitalize()} of this test set have been opened for {count} model versions: the more they are used, "
        "the more the best of them owes to chance."
    )


def _undefined(metrics: Mapping[str, Any]) -> str | None:
    reasons = [f"{NAMES[name]}: {entry['reason']}" for name, entry in metrics["test"].items() if "reason" in entry]
    return f"Without an interval: {'; '.join(reasons)}." if reasons else None


def _warnings(checks: Sequence[Mapping[str, Any]]) -> str | None:
    failed = [check["name"] for check in checks if not check["success"]]
    return f"Validation of the data warned of: {', '.join(failed)}." if failed else None


def chosen(choice: Mapping[str, Any]) -> str:
    """Return which architecture was chosen, and how the others fared."""
    scores, gate = choice["validation"], choice["gate"]
    mine = scores[choice["architecture"]][gate]
    rivals = [f"{name} {figure(entry[gate], gate)}" for name, entry in scores.items() if name != choice["architecture"]]
    against = f"; the others: {', '.join(rivals)}" if rivals else ""
    return (
        f"Chosen on validation data: architecture {choice['architecture']}, "
        f"{NAMES[gate]} {figure(mine, gate)} there{against}."
    )


def _bare(entry: Mapping[str, Any]) -> str:
    if entry["value"] is None:
        return "–"
    return f"{entry['value']:.2f} ({entry['low']:.2f} to {entry['high']:.2f})"


def _signed(entry: Mapping[str, Any]) -> str:
    """Return a difference with its interval."""
    if entry["value"] is None:
        return "–"
    if entry["low"] is None:
        return f"{entry['value']:+.3f} (no interval)"
    return f"{entry['value']:+.3f} ({entry['low']:+.3f} to {entry['high']:+.3f})"


def _shown(value: float, name: str) -> str:
    if name in PERCENT:
        return percent(value)
    if name in FINE:
        return f"{value:.4f}"
    return f"{value:.4g}" if name in IN_UNITS else f"{value:.3f}"
