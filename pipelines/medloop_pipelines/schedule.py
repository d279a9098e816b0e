"""`medloop schedule`: recurring runs one by one, and `apply`, which makes the cluster match params.yaml.

Kubeflow cannot change a recurring run, so that a changed schedule is created anew before the old one is deleted: who
is interrupted in between leaves both, and the next `apply` takes the old one away.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import kfp

import medloop_pipelines
from medloop import params as parameters
from medloop import workspace
from medloop.errors import Refused
from medloop.params import Params, Schedule
from medloop_pipelines import plans, recurring, runs
from medloop_pipelines.connection import Connection, kubeflow
from medloop_pipelines.recurring import Found, Package
from medloop_pipelines.training import check_cluster


def apply(params: Params, to: Connection, *, confirm: Callable[[str], bool]) -> str:
    """Make the cluster match `schedule:` of `params`, and say what was done.

    Args:
        params: params.yaml; each schedule lays its own profile over it.
        to: where Kubeflow is.
        confirm: shown the difference, says whether to go on.

    Raises:
        Refused: a schedule that cannot be (nothing was changed then), or Kubeflow refused one.
    """
    now, experiment = datetime.now(UTC), params.pipeline.experiment
    with _compiled(params.schedule) as packages, kubeflow(to) as client:
        for each in params.schedule:
            _check_future(each, now)
        there = recurring.found(client, runs.experiment_id(client, experiment, to.namespace))
        wanted = {each.name: (each, packages[each.name].version) for each in params.schedule}
        changes = plans.plan(wanted, there, now)
        if not changes:
            return f"nothing to change: {len(wanted)} schedules in experiment {experiment!r} are as params.yaml says"
        if not confirm("\n".join(change.says for change in changes)):
            return "nothing was changed"
        for change in changes:
            _do(client, change, packages, experiment, to.namespace)
    return f"{len(changes)} changes made in experiment {experiment!r}"


def create(schedule: Schedule, experiment: str, to: Connection) -> str:
    """Create a schedule that params.yaml does not declare; `apply` leaves it alone."""
    now = datetime.now(UTC)
    _check_future(schedule, now)
    with _compiled((schedule,)) as packages, kubeflow(to) as client:
        there = recurring.found(client, runs.experiment_id(client, experiment, to.namespace))
        if any(each.schedule.name == schedule.name for each in there):
            raise Refused(f"there is a schedule {schedule.name!r} already: `medloop schedule update` changes it")
        package = packages[schedule.name]
        recurring.create(client, schedule, package, experiment=experiment, namespace=to.namespace, declared=False)
    return f"created {schedule.name}: {plans.described(schedule, now)}"


def update(name: str, changes: dict[str, Any], experiment: str, to: Connection) -> str:
    """Put a changed schedule, running the newest version of the pipeline, in the place of one made by `create`."""
    now = datetime.now(UTC)
    with kubeflow(to) as client:
        old = _named(client, name, experiment, to)
        if any(each.declared for each in old):
            raise Refused(f"schedule {name!r} is declared in params.yaml: change it there and `medloop schedule apply`")
        content = old[-1].schedule.model_dump() | changes
        content |= {"cron": None} if changes.get("interval_s") else {}
        content |= {"interval_s": None} if changes.get("cron") else {}
        content |= {"start": None} if content["start"] and content["start"] <= now else {}
        schedule = parameters.checked(Schedule, content, where="schedule")
        _check_future(schedule, now)
        with _compiled((schedule,)) as packages:
            package = packages[name]
            recurring.create(client, schedule, package, experiment=experiment, namespace=to.namespace, declared=False)
        for each in old:
            client.delete_recurring_run(each.id)
    return f"updated {name}: {plans.described(schedule, now)}"


def listing(experiment: str, to: Connection) -> str:
    """Return medloop's schedules in the experiment, one a line."""
    now = datetime.now(UTC)
    with kubeflow(to) as client:
        there = recurring.found(client, runs.experiment_id(client, experiment, to.namespace))
    head = ("schedule", "when", "profile", "state", "next (UTC)", "version", "origin")
    rows = [
        (
            each.schedule.name,
            each.schedule.cron or f"every {each.schedule.interval_s} s",
            each.schedule.profile or "-",
            "on" if each.schedule.enabled else "paused",
            plans.next_time(each.schedule, now),
            each.version,
            "params.yaml" if each.declared else "by hand",
        )
        for each in there
    ]
    return runs.table(head, rows) if rows else f"no schedules in experiment {experiment!r}"


def pause(name: str, experiment: str, to: Connection) -> str:
    """Keep a schedule from starting runs until `resume`."""
    with kubeflow(to) as client:
        there = _named(client, name, experiment, to)
        for each in there:
            client.disable_recurring_run(each.id)
    return f"paused {name}{_remark(there, enabled=False)}"


def resume(name: str, experiment: str, to: Connection) -> str:
    """Let a paused schedule start runs again."""
    with kubeflow(to) as client:
        there = _named(client, name, experiment, to)
        for each in there:
            client.enable_recurring_run(each.id)
    return f"resumed {name}{_remark(there, enabled=True)}"


def delete(name: str, experiment: str, to: Connection) -> str:
    """Delete a schedule; runs that it started stay."""
    with kubeflow(to) as client:
        there = _named(client, name, experiment, to)
        for each in there:
            client.delete_recurring_run(each.id)
    kept = "; `medloop schedule apply` makes it again while params.yaml declares it" if there[0].declared else ""
    return f"deleted {name}{kept}"


@contextmanager
def _compiled(schedules: tuple[Schedule, ...]) -> Iterator[dict[str, Package]]:
    """Yield each schedule's pipeline by its name; raise Refused before anything is asked of Kubeflow."""
    with TemporaryDirectory() as folder:
        packages = {}
        for each in schedules:
            params = workspace.scheduled(each)
            check_cluster(params, scheduled=True)
            path = Path(folder) / f"{each.name}.yaml"
            medloop_pipelines.compile(params, path, scheduled=True)
            packages[each.name] = Package(path, re.sub("[^a-z0-9]+", "-", params.base.model_name))
        yield packages


def _do(
    client: kfp.Client, change: plans.Change, packages: dict[str, Package], experiment: str, namespace: str | None
) -> None:
    if change.create:
        package = packages[change.create.name]
        recurring.create(client, change.create, package, experiment=experiment, namespace=namespace, declared=True)
    for each in change.delete:
        client.delete_recurring_run(each)
    if change.enable:
        client.enable_recurring_run(change.enable)
    if change.disable:
        client.disable_recurring_run(change.disable)


def _check_future(schedule: Schedule, now: datetime) -> None:
    if why := schedule.over(now):
        raise Refused(f"schedule {schedule.name} fires no more: {why}")


def _named(client: kfp.Client, name: str, experiment: str, to: Connection) -> list[Found]:
    there = recurring.found(client, runs.experiment_id(client, experiment, to.namespace))
    if matching := [each for each in there if each.schedule.name == name]:
        return matching
    known = ", ".join(sorted({each.schedule.name for each in there})) or "none"
    raise Refused(f"no schedule {name!r} in experiment {experiment!r}; known: {known}")


def _remark(there: list[Found], *, enabled: bool) -> str:
    state = "enabled: true" if not enabled else "enabled: false"
    return f"; `medloop schedule apply` undoes it where params.yaml says {state}" if there[0].declared else ""
