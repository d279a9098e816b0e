"""Whether a version may become the champion: decided here, from numbers alone."""

from dataclasses import dataclass, replace
from types import ModuleType

import numpy as np
import pandas as pd
from scipy import stats

from medloop.evaluation import bootstrap
from medloop.params import Promote

ONE_SIDED = 0.05
MAY, BECAME = "may become champion", "became champion"
MAX_UNDEFINED = 0.05  # share of resamples without a value, e.g. for want of a class


@dataclass(frozen=True)
class Standing:
    """What promotion looks at of one version, its scores apart."""

    version: str
    task: str
    classes: tuple[str, ...]
    validated: bool
    leaks: str  # the regime that its samples were made under


@dataclass(frozen=True)
class Scores:
    """What two versions say of the same test samples."""

    labels: np.ndarray  # (N,) class indices or numbers
    patients: pd.Series  # (N,) pseudonyms, null where unknown; or blocks of a recording
    candidate: np.ndarray  # (N, S) what its task says: probabilities, a prediction
    champion: np.ndarray | None  # the same; None where there is no champion
    left_out: int = 0  # test samples that one of them was trained on, or whose patient it knows


@dataclass(frozen=True)
class Verdict:
    """The decision, and one line that says why."""

    ok: bool
    reason: str
    version: str
    champion: str | None = None  # the version that held the place

    def __str__(self) -> str:
        return self.reason

    def done(self) -> "Verdict":
        """Return the same decision, after the version has taken the place."""
        return replace(self, reason=self.reason.replace(MAY, BECAME, 1))


def unfit(candidate: Standing, champion: Standing | None) -> str | None:
    """Return why `candidate` may not be champion whatever its scores are, or None."""
    if not candidate.validated:
        return "its data did not pass validation"
    if candidate.leaks == "report":
        return "its samples stand on both sides of the split (ingest.leaks: report), which is for benchmarks alone"
    if champion and champion.task != candidate.task:
        return f"its task is {candidate.task}, the champion's {champion.task}"
    if champion and champion.classes != candidate.classes:
        return f"its classes are {', '.join(candidate.classes)}, the champion's {', '.join(champion.classes)}"
    return None


def verdict(
    candidate: Standing, champion: Standing | None, scores: Scores, rule: Promote, task: ModuleType, seed: int = 0
) -> Verdict:
    """Return whether `candidate` may take the place of `champion`, or the first place where there is none.

    Args:
        candidate: the version that wants the place.
        champion: the version that holds it.
        scores: what both say of today's test set.
        rule: floor, margin and sample sizes.
        task: gives the gating metric.
        seed: of the bootstrap over patients.
    """
    holder = champion.version if champion else None

    def refused(reason: str) -> Verdict:
        reason += _left_out(scores)
        return Verdict(False, f"version {candidate.version} was not promoted: {reason}", candidate.version, holder)

    objection = unfit(candidate, champion) or _too_few(candidate, scores, rule, task)
    if objection:
        return refused(objection)
    score = task.score(scores.labels, scores.candidate)
    if hasattr(task, "objection"):
        objection, wanted = task.objection(scores.labels, scores.candidate, rule), ""
    else:
        below = f"test {task.GATE} {score:.3f} is below promote.floor {rule.floor:.3f}"
        objection, wanted = (None if score >= rule.floor else below), f", floor {rule.floor:.3f}"
    if objection:
        return refused(objection)
    if champion is None or scores.champion is None:
        reason = f"test {task.GATE} {score:.3f}{wanted}; there was no champion to compare with"
        return Verdict(True, f"version {candidate.version} {MAY}: {reason}", candidate.version)
    difference = _better(task) * (score - task.score(scores.labels, scores.champion))
    lower = paired_lower_bound(scores, rule.resamples, task, seed)
    compared = (
        f"{task.GATE} {score:.3f} on today's test set, {difference:+.3f} {_how(task)}champion version {holder}; "
        f"one-sided 95% lower bound {lower:+.3f}, margin -{rule.margin:.3f}"
    )
    if not np.isfinite(lower):
        return refused(f"cannot decide, {task.GATE} is undefined in too many resamples of the test set")
    if lower <= -rule.margin:
        return refused(f"it may be inferior: {compared}")
    reason = f"version {candidate.version} {MAY}: {compared}{_left_out(scores)}"
    return Verdict(True, reason, candidate.version, holder)


def paired_lower_bound(scores: Scores, resamples: int, task: ModuleType, seed: int) -> float:
    """Return the lower end of the one-sided 95% interval of candidate minus champion; NaN where it is undefined.

    Where the lower gate is the better one, it is champion minus candidate.

    Whole patients are drawn, and both versions are scored on the same draw. The plain percentile interval is too short
    in small samples: of candidates worse by the margin it let 6 to 8 in a hundred pass. The interval here is expanded
    as for a t distribution with the patients of the rarest class, and of the percentile and the basic interval the
    lower end counts: 4 to 6 in a hundred pass.

    Source: Hesterberg, What teachers should know about the bootstrap, 2015, section 4.2.
    """
    assert scores.champion is not None
    both = scores.candidate, scores.champion

    def differences(weights: np.ndarray) -> dict[str, np.ndarray]:
        ours, theirs = (task.gate(scores.labels, each, weights) for each in both)
        return {"difference": _better(task) * (ours - theirs)}

    groups = bootstrap.clusters(scores.patients)
    drawn = bootstrap.draw(differences, groups, resamples, seed)["difference"]
    defined = drawn[np.isfinite(drawn)]
    if len(defined) < (1 - MAX_UNDEFINED) * len(drawn):
        return float("nan")
    rarest = task.rarest(scores.labels, groups)
    if rarest < 2:
        return float("nan")
    quantile = stats.norm.cdf(stats.t.ppf(ONE_SIDED, rarest - 1) * np.sqrt(rarest / (rarest - 1)))
    one = np.ones((1, len(scores.labels)))
    difference = differences(one)["difference"][0]
    return float(min(np.quantile(defined, quantile), 2 * difference - np.quantile(defined, 1 - quantile)))


def _better(task: ModuleType) -> int:
    """Return the sign of a difference that is for the better."""
    return -1 if getattr(task, "LOWER_IS_BETTER", False) else 1


def _how(task: ModuleType) -> str:
    return "against " if _better(task) > 0 else "better (lower) than "


def _left_out(scores: Scores) -> str:
    if not scores.left_out:
        return ""
    return f"; {scores.left_out} test images are left out: one of the two was trained on their patients"


def _too_few(candidate: Standing, scores: Scores, rule: Promote, task: ModuleType) -> str | None:
    patients = len(np.unique(bootstrap.clusters(scores.patients)))
    if patients < rule.min_samples:
        return f"cannot decide, {patients} test patients are fewer than promote.min_samples {rule.min_samples}"
    found: str | None = task.too_few(scores.labels, candidate.classes, rule)
    return found
