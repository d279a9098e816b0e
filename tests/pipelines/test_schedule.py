"""`medloop schedule` against the contract server."""

import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from kfp_contract.server import serving
from medloop import cli, params
from medloop.errors import Refused, Unreachable
from medloop_pipelines import schedule
from medloop_pipelines.connection import Connection
from support import ROOT

NIGHTLY = {"name": "nightly", "cron": "0 30 2 * * *"}
WEEKLY = {"name": "weekly", "interval_s": 604800, "profile": "short", "max_concurrency": 2, "catch_up": True}
SMALL = {"train": {"architectures": ["cnn"]}, "pipeline": {"key_secret": "medloop-key"}}


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """A folder with params.yaml and a profile."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles/short.yaml").write_text("train: {epochs: 2}\n")
    declare()
    return tmp_path


def declare(*schedules, **changes) -> params.Params:
    """Write params.yaml with these schedules, and return it as read."""
    content = params.merge(params.mapping(ROOT / "params.yaml"), params.merge(SMALL, changes))
    Path("params.yaml").write_text(yaml.safe_dump(content | {"schedule": list(schedules)}))
    return params.read()


@pytest.fixture
def to(kubeflow) -> Connection:
    return Connection(kubeflow.url)


class Asked:
    """Says yes, or no, and remembers what it was shown."""

    def __init__(self, answer: bool = True) -> None:
        self.answer, self.shown = answer, ""

    def __call__(self, difference: str) -> bool:
        self.shown = difference
        return self.answer


def apply(to, *schedules, answer=True, **changes) -> str:
    """Apply these schedules, and return the difference that was shown."""
    asked = Asked(answer)
    schedule.apply(declare(*schedules, **changes), to, confirm=asked)
    return asked.shown


def there(kubeflow) -> dict[str, dict]:
    """Return the recurring runs by name; each name must be there once."""
    rows = list(kubeflow.state.recurring.values())
    assert len({row["display_name"] for row in rows}) == len(rows)
    return {row["display_name"]: row for row in rows}


def test_what_is_declared_is_created_once(kubeflow, to):
    shown = apply(to, NIGHTLY, WEEKLY)
    assert shown.startswith("+ nightly: cron 0 30 2 * * *, next ")
    assert "+ weekly: every 604800 s, profile short, next " in shown
    nightly, weekly = there(kubeflow)["nightly"], there(kubeflow)["weekly"]
    assert nightly["trigger"] == {"cron_schedule": {"cron": "0 30 2 * * *"}}
    assert (nightly["no_catchup"], nightly["max_concurrency"], nightly["status"]) == (True, "1", "ENABLED")
    assert weekly["trigger"] == {"periodic_schedule": {"interval_second": 604800}}
    assert (weekly["no_catchup"], weekly["max_concurrency"]) == (False, "2")
    assert weekly["pipeline_version_reference"] != nightly["pipeline_version_reference"]
    before = (dict(kubeflow.state.recurring), len(kubeflow.changes()))
    assert apply(to, NIGHTLY, WEEKLY) == ""
    assert before == (kubeflow.state.recurring, len(kubeflow.changes()))


def test_a_changed_schedule_is_created_anew_before_the_old_one_goes(kubeflow, to):
    apply(to, NIGHTLY, WEEKLY)
    before = there(kubeflow)
    assert apply(to, NIGHTLY | {"cron": "0 0 3 * * *", "max_concurrency": 3}, WEEKLY) == (
        "~ nightly: cron: 0 30 2 * * * -> 0 0 3 * * *; max_concurrency: 1 -> 3"
    )
    after = there(kubeflow)
    assert after["weekly"] == before["weekly"]
    assert after["nightly"]["recurring_run_id"] != before["nightly"]["recurring_run_id"]
    assert kubeflow.changes()[-2:] == [
        "RecurringRunService_CreateRecurringRun",
        "RecurringRunService_DeleteRecurringRun",
    ]


def test_a_changed_parameter_makes_a_new_version_of_the_pipeline(kubeflow, to):
    apply(to, NIGHTLY)
    shown = apply(to, NIGHTLY, train={"epochs": 3})
    assert shown.startswith("~ nightly: version: medloop-classification-phantom-")
    assert len(kubeflow.state.versions) == 2
    assert len(kubeflow.state.pipelines) == 1
    assert apply(to, NIGHTLY, train={"epochs": 3}) == ""


def test_paused_and_resumed_without_creating_anew(kubeflow, to):
    apply(to, NIGHTLY)
    [number] = kubeflow.state.recurring
    assert apply(to, NIGHTLY | {"enabled": False}) == "~ nightly: pause"
    assert kubeflow.state.recurring[number]["status"] == "DISABLED"
    assert apply(to, NIGHTLY) == "~ nightly: resume"
    assert kubeflow.state.recurring[number]["status"] == "ENABLED"


def test_what_is_no_longer_declared_goes_and_what_others_made_stays(kubeflow, to):
    apply(to, NIGHTLY, WEEKLY)
    schedule.create(params.Schedule(name="mine", interval_s=9), "medloop", to)
    [other] = [row for row in kubeflow.state.recurring.values() if row["display_name"] == "weekly"]
    kubeflow.state.recurring["alien"] = other | {"recurring_run_id": "alien", "description": "somebody's"}
    shown = apply(to, NIGHTLY)
    assert shown == "- weekly: no longer in params.yaml"
    assert {row["description"].partition(",")[0] for row in kubeflow.state.recurring.values()} == {
        "medloop schedule nightly",
        "medloop schedule mine",
        "somebody's",
    }


def test_another_experiment_s_schedules_are_left_alone(kubeflow, to):
    apply(to, NIGHTLY, pipeline={"experiment": "ours"})
    apply(to, pipeline={"experiment": "theirs"})
    assert list(there(kubeflow)) == ["nightly"]


def test_without_consent_nothing_is_changed(kubeflow, to):
    assert apply(to, NIGHTLY, answer=False).startswith("+ nightly")
    assert kubeflow.changes() == []


def test_where_nobody_can_be_asked_nothing_is_changed_and_one_line_says_so(kubeflow, to, monkeypatch, capsys):
    declare(NIGHTLY)
    monkeypatch.setattr("sys.argv", ["medloop", "schedule", "apply", "--host", kubeflow.url])
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "medloop: nobody said yes, so nothing was changed: add --yes" in said
    assert "Aborted" not in said
    assert apply(to, NIGHTLY, answer=False).startswith("+ nightly")


def test_a_break_after_creating_leaves_both_and_the_next_apply_heals_it(kubeflow, to):
    apply(to, NIGHTLY)
    kubeflow.breaks["RecurringRunService_DeleteRecurringRun"] = 500
    changed = NIGHTLY | {"cron": "0 0 3 * * *"}
    with pytest.raises(Refused, match="500"):
        apply(to, changed)
    assert len(kubeflow.state.recurring) == 2
    kubeflow.breaks.clear()
    assert apply(to, changed) == "- nightly: 1 older beside the right one"
    assert there(kubeflow)["nightly"]["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * *"


@pytest.mark.parametrize(
    "break_at", ["RecurringRunService_CreateRecurringRun", "UploadPipelineVersion", "PipelineService_CreatePipeline"]
)
def test_a_break_before_creating_leaves_nothing_behind(kubeflow, to, break_at):
    kubeflow.breaks[break_at] = 500
    with pytest.raises(Refused, match="500"):
        apply(to, NIGHTLY)
    kept = kubeflow.state
    assert (kept.recurring, kept.versions, kept.pipelines, kept.experiments) == ({}, {}, {}, {})


def test_a_hundred_and_more_schedules_are_seen(kubeflow, to):
    apply(to, NIGHTLY)
    [row] = kubeflow.state.recurring.values()
    for number in range(120):
        name = f"old-{number}"
        text = row["description"].replace("nightly", name)
        kubeflow.state.recurring[name] = row | {"recurring_run_id": name, "display_name": name, "description": text}
    assert apply(to, NIGHTLY).count("\n") == 119
    assert list(there(kubeflow)) == ["nightly"]


def test_a_start_in_the_past_makes_no_difference_and_is_not_caught_up_with(kubeflow, to):
    now = datetime.now(UTC)
    past = WEEKLY | {"start": (now - timedelta(days=300)).isoformat()}
    apply(to, past)
    assert "start_time" not in there(kubeflow)["weekly"]["trigger"]["periodic_schedule"]
    assert apply(to, past) == ""
    ahead = WEEKLY | {"start": (now + timedelta(days=3)).isoformat(), "end": (now + timedelta(days=30)).isoformat()}
    assert "start: none -> 20" in apply(to, ahead)
    assert apply(to, ahead) == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"profile": "nix"}, "schedule nightly: unknown profile 'nix'; known: short"),
        ({"end": "2020-01-01T00:00:00Z"}, "schedule nightly fires no more: it ended at 2020-01-01 00:00:00 UTC"),
        ({"cron": "0 0 0 30 2 *"}, "schedule nightly never fires: there is no day for '0 0 0 30 2 *'"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused_and_nothing_is_changed(kubeflow, to, changes, message):
    with pytest.raises(Refused) as caught:
        apply(to, WEEKLY, NIGHTLY | changes)
    assert message in str(caught.value)
    assert kubeflow.changes() == []


def test_an_unreachable_kubeflow_is_named():
    with pytest.raises(Unreachable, match="does not answer"):
        apply(Connection("http://127.0.0.1:9"), NIGHTLY)


@pytest.mark.parametrize(
    ("connection", "message"), [({"token": "no"}, "401"), ({"token": "t0", "namespace": "taem"}, "namespace 'taem'")]
)
def test_a_closed_kubeflow_keeps_what_it_had(description, connection, message):
    with serving(description, token="t0", namespaces={"team"}) as kubeflow:
        with pytest.raises(Refused, match=message):
            apply(Connection(kubeflow.url, **({"namespace": "team"} | connection)), NIGHTLY)
        assert kubeflow.state.experiments == kubeflow.state.pipelines == {}


def test_schedules_go_to_the_namespace(description):
    with serving(description, namespaces={"team"}) as kubeflow:
        to = Connection(kubeflow.url, "team")
        apply(to, NIGHTLY)
        assert apply(to, NIGHTLY) == ""
        assert {each["namespace"] for each in kubeflow.state.pipelines.values()} == {"team"}


def medloop(monkeypatch, capsys, *arguments, code=0) -> str:
    monkeypatch.setattr("sys.argv", ["medloop", "schedule", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    assert (ended.value.code or 0) == code, said
    return said.out + said.err


def test_the_commands_one_by_one(kubeflow, monkeypatch, capsys):
    monkeypatch.setenv("MEDLOOP_KFP_HOST", kubeflow.url)
    say = lambda *arguments, **code: medloop(monkeypatch, capsys, *arguments, **code)  # noqa: E731
    assert say("list") == "no schedules in experiment 'medloop'\n"
    assert say("create", "mine", "--cron", "0 0 2 * * mon", "-p", "short").startswith(
        "created mine: cron 0 0 2 * * mon"
    )
    assert "there is a schedule 'mine' already" in say("create", "mine", "--interval", "60", code=2)
    assert say("pause", "mine") == "paused mine\n"
    assert "short    paused" in say("list")
    assert say("resume", "mine") == "resumed mine\n"
    assert say("update", "mine", "--interval", "3600", "--catch-up").startswith("updated mine: every 3600 s")
    [row] = there(kubeflow).values()
    assert row["trigger"] == {"periodic_schedule": {"interval_second": 3600}}
    assert row["no_catchup"] is False
    assert "by hand" in say("list")
    assert "no schedule 'yours' in experiment 'medloop'; known: mine" in say("delete", "yours", code=2)
    assert say("delete", "mine") == "deleted mine\n"
    assert kubeflow.state.recurring == {}
    assert "never fires" in say("create", "mine", "--cron", "0 0 0 30 2 *", code=2)
    assert "unknown profile" in say("create", "mine", "--interval", "60", "-p", "nix", code=2)


def test_apply_from_the_command_line_shows_before_it_acts(kubeflow, monkeypatch, capsys):
    monkeypatch.setenv("MEDLOOP_KFP_HOST", kubeflow.url)
    declare(NIGHTLY)
    assert "+ nightly" in medloop(monkeypatch, capsys, "apply", "--dry-run")
    assert kubeflow.changes() == []
    assert "1 changes made" in medloop(monkeypatch, capsys, "apply", "--yes")
    assert "nothing to change" in medloop(monkeypatch, capsys, "apply")
    assert "change it there" in medloop(monkeypatch, capsys, "update", "nightly", "--interval", "60", code=2)
    assert "apply` undoes it" in medloop(monkeypatch, capsys, "pause", "nightly")


def test_no_token_is_kept_on_the_cluster(description):
    with serving(description, token="hunter2") as kubeflow:
        apply(Connection(kubeflow.url, token="hunter2"), NIGHTLY)
        assert "hunter2" not in json.dumps([kubeflow.state.recurring, kubeflow.state.versions])
