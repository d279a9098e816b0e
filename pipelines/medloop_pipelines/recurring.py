"""Schedules as Kubeflow keeps them: recurring runs of a version of the pipeline, known by their description."""

import contextlib
import hashlib
import io
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import kfp
import kfp_server_api

from medloop.errors import Refused
from medloop.params import Schedule
from medloop_pipelines import runs

PAGE, PAGES = 100, 100
DECLARED, BY_HAND = "declared in params.yaml", "made by `medloop schedule create`"
MARK = re.compile(rf"medloop schedule (\S+), profile (\S+), ({DECLARED}|{BY_HAND})")
NO_PROFILE = "none"


@dataclass(frozen=True)
class Package:
    """A compiled pipeline, and the names under which Kubeflow keeps it: one version for each content."""

    path: Path
    pipeline: str

    @property
    def version(self) -> str:
        return f"{self.pipeline}-{hashlib.sha256(self.path.read_bytes()).hexdigest()[:16]}"


@dataclass(frozen=True)
class Found:
    """A recurring run that medloop made."""

    id: str
    schedule: Schedule
    version: str
    declared: bool


def found(client: kfp.Client, experiment: str | None) -> list[Found]:
    """Return medloop's recurring runs in an experiment, those of others left out; several may have one name."""
    rows: list[Any] = []
    token = ""
    for _ in range(PAGES if experiment else 0):
        page = client.list_recurring_runs(page_token=token, page_size=PAGE, experiment_id=experiment)
        rows += page.recurring_runs or []
        token = page.next_page_token
        if not token:
            break
    versions: dict[str, str] = {}
    return [_read(client, row, versions) for row in rows if MARK.fullmatch(row.description or "")]


def create(
    client: kfp.Client, schedule: Schedule, package: Package, *, experiment: str, namespace: str | None, declared: bool
) -> str:
    """Create a recurring run of `package` and return its id; where it fails, nothing that was made for it stays.

    A start in the past is left out: with `catch_up`, Kubeflow would run all that has been due since then once more.
    """
    start = schedule.start if schedule.start and schedule.start > datetime.now(UTC) else None
    with runs.undoing() as undo, contextlib.redirect_stdout(io.StringIO()):  # the client prints addresses of pages
        in_experiment = runs.made_if_missing(client, experiment, namespace, undo)
        pipeline_id, version_id = _uploaded(client, package, namespace, undo)
        made = client.create_recurring_run(
            in_experiment,
            schedule.name,
            description=f"medloop schedule {schedule.name}, profile {schedule.profile or NO_PROFILE}, "
            + (DECLARED if declared else BY_HAND),
            start_time=start and start.isoformat(),
            end_time=schedule.end and schedule.end.isoformat(),
            interval_second=schedule.interval_s,
            cron_expression=schedule.cron,
            max_concurrency=schedule.max_concurrency,
            no_catchup=not schedule.catch_up,
            pipeline_id=pipeline_id,
            version_id=version_id,
            enabled=schedule.enabled,
        )
    return str(made.recurring_run_id)


def _uploaded(client: kfp.Client, package: Package, namespace: str | None, undo: runs.Undo) -> tuple[str, str]:
    """Return the ids of the pipeline and of the version, each made where it is missing."""
    pipeline_id = _pipeline(client, package.pipeline, namespace)
    if pipeline_id is None:
        body = kfp_server_api.V2beta1Pipeline(display_name=package.pipeline, name=package.pipeline, namespace=namespace)
        pipeline_id = str(client.pipelines.pipeline_service_create_pipeline(body).pipeline_id)
        undo.append(lambda: client.delete_pipeline(pipeline_id))
    known = client.list_pipeline_versions(pipeline_id, filter=_named(package.version)).pipeline_versions
    if known:
        return pipeline_id, str(known[0].pipeline_version_id)
    made = client.upload_pipeline_version(str(package.path), package.version, pipeline_id=pipeline_id)
    undo.append(lambda: client.delete_pipeline_version(pipeline_id, made.pipeline_version_id))
    return pipeline_id, str(made.pipeline_version_id)


def _pipeline(client: kfp.Client, name: str, namespace: str | None) -> str | None:
    listed = client.list_pipelines(filter=_named(name), namespace=namespace).pipelines or []
    if len(listed) > 1:
        raise Refused(f"Kubeflow has {len(listed)} pipelines named {name!r}: delete all but one")
    return str(listed[0].pipeline_id) if listed else None


def _named(name: str) -> str:
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]})


def _read(client: kfp.Client, row: Any, versions: dict[str, str]) -> Found:
    match = MARK.fullmatch(row.description)
    assert match
    cron, periodic = row.trigger.cron_schedule, row.trigger.periodic_schedule
    trigger = cron or periodic
    schedule = Schedule.model_construct(  # as it stands there, whether or not it would be taken today
        name=match[1],
        profile=None if match[2] == NO_PROFILE else match[2],
        cron=cron.cron if cron else None,
        interval_s=int(periodic.interval_second) if periodic else None,
        catch_up=not row.no_catchup,
        max_concurrency=int(row.max_concurrency),
        start=_moment(trigger.start_time),
        end=_moment(trigger.end_time),
        enabled=row.status == "ENABLED",
    )
    return Found(row.recurring_run_id, schedule, _version(client, row, versions), match[3] == DECLARED)


def _version(client: kfp.Client, row: Any, known: dict[str, str]) -> str:
    """Return the name of the version that a recurring run starts."""
    reference = row.pipeline_version_reference
    if reference is None:
        return "unknown"
    key = reference.pipeline_version_id
    if key not in known:
        try:
            known[key] = str(client.get_pipeline_version(reference.pipeline_id, key).display_name)
        except kfp_server_api.ApiException as error:
            if error.status != 404:
                raise
            known[key] = "deleted"
    return known[key]


def _moment(value: datetime | None) -> datetime | None:
    return value if value and value.timestamp() > 0 else None  # protobuf's empty time is 1970
