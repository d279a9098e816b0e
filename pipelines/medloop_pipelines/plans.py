"""What has to change on a cluster for it to hold the schedules that params.yaml declares; asks and changes nothing."""

from dataclasses import dataclass
from datetime import UTC, datetime

from medloop.params import Schedule
from medloop_pipelines.recurring import Found

SHOWN = ("profile", "cron", "interval_s", "start", "end", "catch_up", "max_concurrency")


@dataclass(frozen=True)
class Change:
    """What one schedule needs: a new recurring run, the end of old ones, a pause; `says` tells it to the user."""

    says: str
    create: Schedule | None = None
    delete: tuple[str, ...] = ()
    enable: str | None = None
    disable: str | None = None


def plan(wanted: dict[str, tuple[Schedule, str]], there: list[Found], now: datetime) -> list[Change]:
    """Return what makes the declared schedules on the cluster those that are `wanted`.

    Args:
        wanted: by name: the schedule, and the name of the version that it is to run.
        there: medloop's recurring runs; those that were made by hand under another name stay.
        now: a start before it has no effect any more, and is no difference.
    """
    changes = []
    for name, (schedule, version) in wanted.items():
        same = [each for each in there if each.schedule.name == name]
        right = [each for each in same if not _differences(each, schedule, version, now)]
        keep = right[0] if right else None
        old = tuple(each.id for each in same if each is not keep)
        if keep is None and same:
            said = "; ".join(_differences(same[-1], schedule, version, now))
            changes.append(Change(f"~ {name}: {said}", create=schedule, delete=old))
        elif keep is None:
            changes.append(Change(f"+ {name}: {described(schedule, now)}", create=schedule))
        elif old:
            changes.append(Change(f"- {name}: {len(old)} older beside the right one", delete=old))
        if keep and keep.schedule.enabled != schedule.enabled:
            word, key = ("resume", "enable") if schedule.enabled else ("pause", "disable")
            changes.append(Change(f"~ {name}: {word}", **{key: keep.id}))  # type: ignore[arg-type]
    gone = [each for each in there if each.declared and each.schedule.name not in wanted]
    return changes + [Change(f"- {each.schedule.name}: no longer in params.yaml", delete=(each.id,)) for each in gone]


def _differences(there: Found, schedule: Schedule, version: str, now: datetime) -> list[str]:
    pairs = [(key, shown(there.schedule, key, now), shown(schedule, key, now)) for key in SHOWN]
    pairs += [("version", there.version, version)]
    pairs += [("origin", "params.yaml" if there.declared else "by hand", "params.yaml")]
    return [f"{key}: {came} -> {wanted}" for key, came, wanted in pairs if came != wanted]


def shown(schedule: Schedule, key: str, now: datetime) -> str:
    """Return what a user is shown of one key; a start in the past is none."""
    value = getattr(schedule, key)
    if key == "start" and value and value <= now:
        return "none"
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
    return "none" if value is None else str(value)


def described(schedule: Schedule, now: datetime) -> str:
    """Return when a schedule runs, with what, and when next."""
    when = f"cron {schedule.cron}" if schedule.cron else f"every {schedule.interval_s} s"
    profile = f", profile {schedule.profile}" if schedule.profile else ""
    return f"{when}{profile}, {'next' if schedule.enabled else 'paused; next'} {next_time(schedule, now)} UTC"


def next_time(schedule: Schedule, now: datetime) -> str:
    """Return the first time after `now`, UTC."""
    moment = schedule.after(now)
    return f"{moment:%Y-%m-%d %H:%M:%S}" if moment else "never"
