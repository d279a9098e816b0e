"""The alias `champion` of a registered model: who should have it, and how it moves."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd

from medloop import evidence, params, plugins, tasks, turn
from medloop.errors import Conflict, Refused
from medloop.operations import scoring
from medloop.operations.verdict import Scores, Standing, Verdict, unfit, verdict
from medloop.predictions import drawn_together, labels_of
from medloop.tracking import registry
from medloop.tracking.connection import server

CHAMPION = "champion"
PREVIOUS = "previous"
CHALLENGER = "challenger"


def decide(base: params.Base, rule: params.Promote, reference: str, samples: Path) -> Verdict:
    """Return whether the version that `reference` (a number or an alias) stands for may become champion."""
    with server() as client:
        candidate = registry.get(client, base.model_name, reference)
        champion = registry.alias(client, base.model_name, CHAMPION)
        if champion and champion.number == candidate.number:
            reason = f"version {candidate.number} is the champion already"
            return Verdict(True, reason, candidate.number, champion.number)
        ours, theirs = standing(candidate), standing(champion) if champion else None
        objection = unfit(ours, theirs)
        if objection:
            reason = f"version {candidate.number} was not promoted: {objection}"
            return Verdict(False, reason, candidate.number, champion.number if champion else None)
        task = plugins.load(tasks, base.task)
        scores = _scores(candidate, champion, samples, task)
    return verdict(ours, theirs, scores, rule, task, base.seed)


def move(name: str, number: str, *, held_by: str | None, before: dict[str, str]) -> None:
    """Make version `number` champion in place of `held_by`, which becomes `previous`.

    Raises:
        Conflict: another version holds the place, or the champion has moved since `before` was seen.
    """
    with server() as client, turn.taken(name):
        turn.check(name, before, f"the promotion of version {number}")
        now = registry.alias(client, name, CHAMPION)
        came = now.number if now else None
        if came != held_by:
            raise Conflict(
                f"version {number} was compared with {_named(held_by)}, but the champion of {name} is now "
                f"{_named(came)}; nothing was changed: run `medloop promote` again"
            )
        turn.confirm(name)
        registry.set_aliases(client, name, {PREVIOUS: came, CHAMPION: number})
        turn.moved(name, number)


def keep(name: str, decision: Verdict) -> None:
    """Write a decision down as a tag of the version that it is about."""
    with server() as client:
        version = registry.get(client, name, decision.version)
        registry.retag(client, version, {evidence.VERDICT: decision.reason})


def swap(name: str) -> tuple[str, str]:
    """Give the place of champion back to `previous`, and return the numbers of both: champion, previous.

    Raises:
        Refused: there is no champion, or none before it, or its files are not those that were registered.
    """
    with server() as client, turn.taken(name):
        now, before = (registry.alias(client, name, which) for which in (CHAMPION, PREVIOUS))
        if now is None:
            raise Refused(f"{name} has no champion to roll back from: promote a version first (`medloop promote`)")
        if before is None or before.number == now.number:
            raise Refused(f"{name} has no champion before version {now.number}: there is nothing to roll back to")
        registry.load(f"models:/{name}/{before.number}")
        turn.confirm(name)
        registry.set_aliases(client, name, {PREVIOUS: now.number, CHAMPION: before.number})
        turn.moved(name, before.number)
    return before.number, now.number


def standing(version: registry.Version) -> Standing:
    """Return what the version's tags say of it; raise Refused for a version that medloop did not register."""
    missing = [tag for tag in ("task", "classes", "validation", "leaks") if f"medloop.{tag}" not in version.tags]
    if missing:
        raise Refused(
            f"{version} of {version.name} lacks the tag medloop.{missing[0]}: only versions that `medloop register` "
            "made can be compared"
        )
    return Standing(
        version.number,
        version.tags["medloop.task"],
        tuple(json.loads(version.tags["medloop.classes"])),
        version.tags["medloop.validation"] == "passed",
        version.tags["medloop.leaks"],
    )


def _scores(candidate: registry.Version, champion: registry.Version | None, samples: Path, task: ModuleType) -> Scores:
    """Return what both say of today's test set; without a champion, what the candidate said of its own."""
    if champion is None:
        table = registry.predictions(candidate)
        columns = task.stored(json.loads(candidate.tags["medloop.classes"]))
        return Scores(labels_of(table), drawn_together(table), table[columns].to_numpy(), None)
    test = scoring.today(samples, candidate.tags["medloop.dataset"])
    classes = tuple(json.loads(candidate.tags["medloop.classes"]))
    if test.classes != classes:
        raise Refused(
            f"today's samples in {samples} have the classes {', '.join(test.classes)}, {candidate} has "
            f"{', '.join(classes)}: ingest the data that it is meant for"
        )
    for each in (candidate, champion):
        if (came := each.tags.get("medloop.key_fingerprint", test.key_fingerprint)) != test.key_fingerprint:
            raise Refused(
                f"{each} was made under the pseudonym key {came}, today's samples in {samples} under "
                f"{test.key_fingerprint}: no patient can be recognised across the two; ingest under the right key"
            )
    unseen = test.without(pd.concat([registry.development(each) for each in (candidate, champion)]))
    card = _paired(candidate, champion, test) if test.kind.WINDOWS else None
    ours = scoring.logged(candidate, unseen, task)
    if ours is None:
        ours = scoring.score(candidate, unseen, task)
    theirs = scoring.score(champion, unseen, task, judge=candidate)
    left_out = len(test.table) - len(unseen.table)
    return Scores(unseen.labels(task, card), drawn_together(unseen.index(card)), ours, theirs, left_out)


def _paired(candidate: registry.Version, champion: registry.Version, test: scoring.TestSet) -> dict[str, Any]:
    """Return the candidate's card; raise Refused where the two do not speak of the same inputs."""
    ours, theirs = (scoring.card(each) for each in (candidate, champion))
    wanted, came = (test.kind.paired(each["preprocessing"]) for each in (ours, theirs))
    if wanted != came:
        raise Refused(
            f"{candidate} and {champion} cannot be compared: their {test.kind.NOUNS} are cut otherwise, {wanted} and "
            f"{came}; give the new ones a data set name of their own (base.dataset)"
        )
    return ours


def _named(number: str | None) -> str:
    return f"version {number}" if number else "no champion"
