"""The decision alone: floor, validation, leaks, classes, sample sizes, and the error rate of the comparison."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from medloop.operations.verdict import Scores, Standing, paired_lower_bound, verdict
from medloop.params import Promote
from medloop.tasks import classification

RULE = Promote(floor=0.7, margin=0.02, min_samples=50, min_per_class=10, resamples=500)
OURS = Standing("2", "classification", ("clear", "nodule"), True, "refuse")
THEIRS = replace(OURS, version="1")


def scores(candidate: float = 0.9, champion: float | None = 0.9, n: int = 200, correlation: float = 0.7, seed: int = 0):
    """Return scores of two versions whose true AUCs are given, normal in both classes."""
    random = np.random.default_rng(seed)
    labels = (random.random(n) < 0.4).astype(int)
    shared = random.normal(size=n)
    sides = []
    for auc in (candidate, champion):
        if auc is None:
            sides.append(None)
            continue
        value = correlation**0.5 * shared + (1 - correlation) ** 0.5 * random.normal(size=n)
        probability = norm.cdf(value + labels * norm.ppf(auc) * 2**0.5)
        sides.append(np.stack([1 - probability, probability], axis=1))
    return Scores(labels, pd.Series([None] * n, dtype=object), *sides)


def decide(found: Scores, ours: Standing = OURS, theirs: Standing | None = THEIRS, rule: Promote = RULE):
    return verdict(ours, theirs, found, rule, classification)


def test_the_first_champion_needs_the_floor_alone():
    decision = decide(scores(0.9, None), theirs=None)
    assert decision.ok
    assert decision.champion is None
    assert "version 2 may become champion: test auc 0." in decision.reason
    low = decide(scores(0.6, None), theirs=None)
    assert not low.ok
    assert "below promote.floor 0.700" in low.reason


def test_a_clearly_better_and_a_clearly_worse_candidate():
    better, worse = decide(scores(0.95, 0.8)), decide(scores(0.8, 0.95))
    assert (better.ok, worse.ok) == (True, False)
    assert "against champion version 1" in better.reason
    assert "may be inferior" in worse.reason


def test_the_same_predictions_are_not_inferior():
    found = scores(0.9)
    assert decide(replace(found, champion=found.candidate)).ok


def test_too_wide_an_interval_is_no_proof():
    assert not decide(scores(0.9, 0.9, n=60, correlation=0.0)).ok


@pytest.mark.parametrize(
    ("ours", "words"),
    [
        (replace(OURS, validated=False), "did not pass validation"),
        (replace(OURS, leaks="report"), "ingest.leaks: report"),
        (replace(OURS, task="other"), "its task is other, the champion's classification"),
        (replace(OURS, classes=("clear", "mass")), "its classes are clear, mass, the champion's clear, nodule"),
    ],
)
def test_what_no_score_makes_good(ours, words):
    decision = decide(scores(0.99, 0.8), ours)
    assert not decision.ok
    assert words in decision.reason
    assert "\n" not in decision.reason


def test_dropped_leaks_may_be_promoted():
    assert decide(scores(0.99, 0.8), replace(OURS, leaks="drop")).ok


def test_too_few_patients_or_samples_of_a_class_cannot_be_decided():
    few = decide(scores(0.99, 0.8, n=49))
    assert not few.ok
    assert "cannot decide, 49 test patients are fewer than promote.min_samples 50" in few.reason
    found = scores(0.99, 0.8)
    found.labels[np.flatnonzero(found.labels)[9:]] = 0
    rare = decide(found)
    assert not rare.ok
    assert "cannot decide, 9 test samples of class nodule" in rare.reason


def test_images_of_one_patient_count_as_one():
    found = scores(0.99, 0.8, n=200)
    grouped = replace(found, patients=pd.Series([f"p{number // 5}" for number in range(200)]))
    decision = decide(grouped)
    assert not decision.ok
    assert "40 test patients" in decision.reason


def test_five_copies_of_every_sample_prove_no_more_than_one():
    found = scores(0.9, 0.9, n=120)
    ids = pd.Series([f"p{number}" for number in range(120)])
    copies = Scores(
        np.repeat(found.labels, 5),
        ids.repeat(5).reset_index(drop=True),
        np.repeat(found.candidate, 5, axis=0),
        np.repeat(found.champion, 5, axis=0),
    )
    once = paired_lower_bound(replace(found, patients=ids), 500, classification, 0)
    assert paired_lower_bound(copies, 500, classification, 0) == pytest.approx(once)


def test_the_same_seed_gives_the_same_verdict():
    found = scores(0.9, 0.88)
    assert decide(found) == decide(found)


def test_of_candidates_worse_by_the_margin_five_in_a_hundred_pass():
    trials, n, champion, correlation = 500, 150, 0.9, 0.6
    passed = sum(
        decide(scores(champion - RULE.margin, champion, n=n, correlation=correlation, seed=seed)).ok
        for seed in range(trials)
    )
    assert passed <= trials * 0.05 + 2 * (trials * 0.05 * 0.95) ** 0.5
    assert passed > 0


def test_a_better_candidate_mostly_passes():
    passed = sum(decide(scores(0.92, 0.9, n=400, seed=seed)).ok for seed in range(40))
    assert passed >= 32
