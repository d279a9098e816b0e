"""The champion alias: who gets it, on which evidence, and that it moves once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import toy_registry
from medloop import params
from medloop.errors import Conflict, Refused, Unreachable
from medloop.evaluation import ledger
from medloop.operations import champion, scoring
from medloop.operations.models import listed, models
from medloop.operations.promote import promote
from medloop.tasks import classification
from medloop.tracking import registry
from medloop.tracking.connection import server
from toy_registry import Toy, registered

NAME = "medloop-classification-toy"
BASE = Toy().base
RULE = params.Promote(resamples=500)

CROWD = """
import json, os, sys
from pathlib import Path
from medloop import params
from medloop.errors import Refused
from medloop.operations import champion
from medloop.operations.promote import promote
from medloop.tracking.connection import server
real = os.environ["MLFLOW_TRACKING_URI"]
os.environ["MLFLOW_TRACKING_URI"] = sys.argv[3]
with server():
    pass  # what a process must import at its first call, it now imports once for all
os.environ["MLFLOW_TRACKING_URI"] = real
base, samples = params.Base(dataset="toy"), Path(sys.argv[1])
gate, opener = os.pipe()  # its end wakes all at once; a Barrier wakes one after the other
children = []
for number in range(20):
    child = os.fork()
    if not child:
        try:
            os.close(opener)
            os.read(gate, 1)
            decision = promote(base, params.Promote(resamples=100), version=str(2 + number % 3), samples=samples)
            result = [0 if decision.ok else 2, str(decision)]
        except Refused as error:
            result = [error.exit_code, str(error)]
        Path(sys.argv[2], f"{number}.json").write_text(json.dumps(result))
        os._exit(0)
    children.append(child)
os.close(opener)
for child in children:
    os.waitpid(child, 0)
"""


@pytest.fixture(autouse=True)
def _store(own_state: Path) -> None:
    toy_registry.empty_store(own_state)


def aliases() -> dict[str, str]:
    with server() as client:
        return {alias: each.number for each in registry.versions(client, NAME) for alias in each.aliases}


def verdicts() -> dict[str, str]:
    with server() as client:
        return {each.number: each.tags["medloop.verdict"] for each in registry.versions(client, NAME)}


def test_the_first_champion_needs_no_samples_on_disk(tmp_path):
    registered(tmp_path)
    decision = promote(BASE, RULE, samples=tmp_path / "nowhere")
    assert decision.ok
    assert aliases() == {"challenger": "1", "champion": "1"}


def test_the_challenger_takes_the_place_and_the_former_champion_is_kept(tmp_path):
    registered(tmp_path, noise=0.3)
    promote(BASE, RULE, samples=tmp_path / "samples")
    registered(tmp_path)
    decision = promote(BASE, RULE, samples=tmp_path / "samples")
    assert (decision.ok, decision.version, decision.champion) == (True, "2", "1")
    assert aliases() == {"challenger": "2", "champion": "2", "previous": "1"}


def test_the_kubeflow_step_decides_as_the_command_does(tmp_path):
    from types import SimpleNamespace

    from medloop import components

    registered(tmp_path)
    samples = SimpleNamespace(path=str(tmp_path / "samples"))
    step = components.promote.python_func
    automatic = RULE.model_copy(update={"automatic": True})
    assert step(params.dump(BASE, RULE), f"{NAME}/1", samples).startswith("version 1 may become champion")
    assert aliases() == {"challenger": "1"}
    assert step(params.dump(BASE, automatic), f"{NAME}/1", samples).startswith("version 1 became champion")
    registered(tmp_path, noise=0.5)
    assert "may be inferior" in step(params.dump(BASE, automatic), f"{NAME}/2", samples)
    assert aliases()["champion"] == "1"
    assert verdicts()["1"].startswith("version 1 became champion")
    assert "may be inferior" in verdicts()["2"]


def test_an_inferior_version_leaves_the_champion_in_place(tmp_path):
    registered(tmp_path)
    promote(BASE, RULE, samples=tmp_path / "samples")
    registered(tmp_path, noise=0.5)
    decision = promote(BASE, RULE, version="2", samples=tmp_path / "samples")
    assert not decision.ok
    assert "may be inferior" in decision.reason
    assert aliases() == {"challenger": "2", "champion": "1"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"success": False}, "did not pass validation"),
        ({"leaks": "report"}, "ingest.leaks: report"),
        ({"patients": 20}, "cannot decide, 20 test patients"),
        ({"noise": 3.0}, "below promote.floor"),
    ],
)
def test_an_unfit_version_is_not_promoted(tmp_path, changes, words):
    registered(tmp_path, **changes)
    decision = promote(BASE, RULE, samples=tmp_path / "samples")
    assert not decision.ok
    assert words in decision.reason
    assert aliases() == {"challenger": "1"}


def test_other_classes_than_the_champion_has_are_not_promoted(tmp_path):
    registered(tmp_path)
    promote(BASE, RULE, samples=tmp_path / "samples")
    registered(tmp_path, classes=("clear", "mass"))
    decision = promote(BASE, RULE, samples=tmp_path / "samples")
    assert not decision.ok
    assert "its classes are clear, mass, the champion's clear, nodule" in decision.reason


def test_to_promote_the_champion_says_so(tmp_path):
    registered(tmp_path)
    promote(BASE, RULE, samples=tmp_path / "samples")
    decision = promote(BASE, RULE, samples=tmp_path / "samples")
    assert (decision.ok, decision.reason) == (True, "version 1 is the champion already")
    assert aliases() == {"challenger": "1", "champion": "1"}


def test_an_unknown_version_lists_what_exists(tmp_path):
    with pytest.raises(Refused, match="no alias 'challenger'; it has no versions yet: `medloop register`"):
        promote(BASE, RULE, samples=tmp_path / "samples")
    registered(tmp_path)
    with pytest.raises(Refused, match=r"no version '7'; it has version 1 \(challenger\)"):
        promote(BASE, RULE, version="7", samples=tmp_path / "samples")


def test_without_samples_no_champion_can_be_challenged(tmp_path):
    registered(tmp_path)
    promote(BASE, RULE, samples=tmp_path / "samples")
    registered(tmp_path, noise=0.1)
    with pytest.raises(Refused, match=r"no samples in .*nowhere.*dvc repro"):
        promote(BASE, RULE, samples=tmp_path / "nowhere")


def test_a_silent_server_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(Unreachable, match=r"http://127\.0\.0\.1:9"):
        promote(BASE, RULE, samples=tmp_path)


@pytest.mark.parametrize("bit_depth", [8, 12, 16])
def test_a_version_scored_anew_says_what_it_said_when_it_was_evaluated(tmp_path, bit_depth):
    registered(tmp_path, bit_depth=bit_depth)
    test = scoring.today(tmp_path / "samples", "toy")
    with server() as client:
        version = registry.get(client, NAME, "1")
    assert np.array_equal(scoring.score(version, test, classification), scoring.logged(version, test, classification))


def test_a_champion_of_another_input_size_is_scored_through_its_own_preprocessing(tmp_path):
    rule = params.Promote(floor=0, margin=0.9, resamples=500)
    registered(tmp_path, size=16)
    promote(BASE, rule, samples=tmp_path / "samples")
    metrics = json.loads((tmp_path / "evaluation/metrics.json").read_text())["test"]
    registered(tmp_path)
    decision = promote(BASE, rule, samples=tmp_path / "samples")
    gained = (
        json.loads((tmp_path / "evaluation/metrics.json").read_text())["test"]["auc"]["value"] - metrics["auc"]["value"]
    )
    assert (decision.ok, decision.champion) == (True, "1")
    assert f"{gained:+.3f} against champion version 1" in decision.reason


def test_both_are_scored_on_todays_test_set_when_it_has_changed(tmp_path):
    registered(tmp_path)
    promote(BASE, RULE, samples=tmp_path / "samples")
    registered(tmp_path, noise=0.05)
    toy_registry.make(tmp_path, seed=1)  # new samples; no version has seen them
    test = scoring.today(tmp_path / "samples", "toy")
    with server() as client:
        ours, theirs = (registry.get(client, NAME, number) for number in ("2", "1"))
    assert scoring.logged(ours, test, classification) is None
    decision = promote(BASE, RULE, version="2", samples=tmp_path / "samples")

    wanted = classification.score(test.labels(classification), scoring.score(ours, test, classification))
    assert f"auc {wanted:.3f} on today's test set" in decision.reason
    assert theirs.number == decision.champion


def test_a_version_gains_nothing_from_test_patients_that_it_was_trained_on(tmp_path):
    registered(tmp_path)
    promote(BASE, RULE, samples=tmp_path / "samples")
    registered(tmp_path, noise=0.05, studied=30)  # it was evaluated on these very images, by another split
    decision = promote(BASE, RULE, samples=tmp_path / "samples")
    assert "; 60 test images are left out: one of the two was trained on their patients" in decision.reason
    test = scoring.today(tmp_path / "samples", "toy")
    with server() as client:
        known = registry.development(registry.get(client, NAME, "2"))
        unseen = test.without(known)
        assert len(unseen.table) == len(test.table) - 60
        assert scoring.logged(registry.get(client, NAME, "2"), unseen, classification) is None
    registered(tmp_path, noise=0.06, studied=150)
    decision = promote(BASE, RULE, samples=tmp_path / "samples")
    assert not decision.ok
    assert "cannot decide, 0 test patients" in decision.reason
    assert "; 300 test images are left out" in decision.reason


def test_samples_under_another_key_cannot_decide(tmp_path):
    registered(tmp_path, fingerprint="aaaa")
    promote(BASE, RULE, samples=tmp_path / "samples")
    registered(tmp_path, noise=0.05, fingerprint="bbbb")
    with pytest.raises(
        Refused, match=r"version 1 was made under the pseudonym key aaaa, today's samples .* under bbbb"
    ):
        promote(BASE, RULE, samples=tmp_path / "samples")


def test_a_version_scored_anew_stands_in_the_ledger(tmp_path):
    registered(tmp_path)
    promote(BASE, RULE, samples=tmp_path / "samples")
    assert not ledger.path().exists(), "the toy's evaluation enters nothing"
    registered(tmp_path, noise=0.05)
    promote(BASE, RULE, samples=tmp_path / "samples")
    [entry] = [json.loads(line) for line in ledger.path().read_text().splitlines()]
    with server() as client:
        assert entry["model_sha256"] == registry.get(client, NAME, "1").tags[registry.DIGEST]


def test_samples_that_were_changed_are_refused(tmp_path):
    registered(tmp_path)
    promote(BASE, RULE, samples=tmp_path / "samples")
    registered(tmp_path, noise=0.1)
    shard = tmp_path / "samples/shards/00000.bin"
    shard.write_bytes(b"\0" + shard.read_bytes()[1:])
    with pytest.raises(Refused, match="does not match its digest"):
        promote(BASE, RULE, samples=tmp_path / "samples")


def test_a_champion_that_moved_meanwhile_is_a_conflict(tmp_path, monkeypatch):
    for noise in (0.3, 0.0, 0.01):
        registered(tmp_path, noise=noise)
    promote(BASE, RULE, version="1", samples=tmp_path / "samples")
    decide = champion.decide

    def slowly(*args):
        decision = decide(*args)
        with server() as client:  # another machine, whose lock nobody here sees
            registry.set_aliases(client, NAME, {"champion": "3"})
        return decision

    monkeypatch.setattr(champion, "decide", slowly)
    with pytest.raises(
        Conflict, match=r"version 2 was compared with version 1, but the champion of .* is now version 3"
    ):
        promote(BASE, RULE, version="2", samples=tmp_path / "samples")
    assert aliases() == {"challenger": "3", "champion": "3"}


@pytest.mark.parametrize("wanted", ["1", "2"])
def test_whoever_began_before_a_promotion_and_looks_after_it_is_told(tmp_path, monkeypatch, wanted):
    for noise in (0.5, 0.0):
        registered(tmp_path, noise=noise)
    promote(BASE, RULE, version="1", samples=tmp_path / "samples")
    decide = champion.decide

    def overtaken(*args):
        with monkeypatch.context() as patch:
            patch.setattr(champion, "decide", decide)
            promote(BASE, RULE, version="2", samples=tmp_path / "samples")
        return decide(*args)

    monkeypatch.setattr(champion, "decide", overtaken)
    with pytest.raises(Conflict, match=f"became version 2 while the promotion of version {wanted} was under way"):
        promote(BASE, RULE, version=wanted, samples=tmp_path / "samples")


def test_of_twenty_at_once_one_wins(tmp_path):
    for noise in (0.3, 0.0, 0.01, 0.02):
        registered(tmp_path, noise=noise)
    promote(BASE, RULE, version="1", samples=tmp_path / "samples")
    (tmp_path / "results").mkdir()
    other = toy_registry.empty_store(tmp_path / "other")
    command = [sys.executable, "-c", CROWD, tmp_path / "samples", tmp_path / "results", other]
    subprocess.run(command, env=os.environ, check=True, timeout=200)
    results = [json.loads(path.read_text()) for path in (tmp_path / "results").iterdir()]
    assert sorted(code for code, _ in results) == [0] + [3] * 19, results
    [winner] = [text.split()[1] for code, text in results if code == 0]
    assert aliases()["champion"] == winner
    assert aliases()["previous"] == "1"
    assert all(
        f"became version {winner}" in text or f"is now version {winner}" in text for code, text in results if code
    )


def test_the_list_of_versions_shows_aliases_metrics_and_simulation(tmp_path):
    assert "has no versions" in models(BASE)
    registered(tmp_path, simulated=True)
    registered(tmp_path, noise=0.1)
    promote(BASE, RULE, version="1", samples=tmp_path / "samples")
    assert [(row["version"], row["aliases"]) for row in listed(BASE)] == [("2", "challenger"), ("1", "champion")]
    value = json.loads((tmp_path / "evaluation/metrics.json").read_text())["test"]["auc"]["value"]
    text = models(BASE)
    assert f"auc {value:.3f}" in text
    assert "toy (simulated)" in text.splitlines()[3]
    assert "simulated" not in text.splitlines()[2]


def test_samples_of_another_data_set_are_refused(tmp_path):
    registered(tmp_path)
    with pytest.raises(Refused, match="holds toy, the model is for lungs"):
        scoring.today(tmp_path / "samples", "lungs")
