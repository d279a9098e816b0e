"""`medloop schedule`: runs that come back, on a Kubeflow or on this machine."""

from typing import Annotated, Any

import typer

from medloop.cli.options import Experiment, Profile, connected, read
from medloop.errors import Refused

Cron = Annotated[str | None, typer.Option(help="six fields, seconds first, UTC, e.g. '0 30 2 * * mon'")]
Interval = Annotated[int | None, typer.Option("--interval", help="seconds from one run to the next")]
CatchUp = Annotated[bool | None, typer.Option("--catch-up/--no-catch-up", help="make up for each time that was missed")]
AtATime = Annotated[int | None, typer.Option("--max-concurrency", help="runs at a time")]
Moment = Annotated[str | None, typer.Option(help="a time, e.g. 2027-01-01T00:00:00Z")]

app = typer.Typer(help="Runs that come back.", no_args_is_help=True, rich_markup_mode=None)


@app.command("create")
@connected
def create_schedule(
    to: Any,
    name: str,
    cron: Cron = None,
    interval: Interval = None,
    profile: Profile = None,
    catch_up: CatchUp = None,
    max_concurrency: AtATime = None,
    start: Moment = None,
    end: Moment = None,
    experiment: Experiment = None,
) -> None:
    """Create a schedule on a Kubeflow that params.yaml does not declare."""
    from medloop import params
    from medloop_pipelines import schedule as operation

    given = _given(cron, interval, profile, catch_up, max_concurrency, start, end)
    wanted = params.checked(params.Schedule, {"name": name} | given, where="schedule")
    typer.echo(operation.create(wanted, experiment or read().pipeline.experiment, to()))


@app.command("update")
@connected
def update_schedule(
    to: Any,
    name: str,
    cron: Cron = None,
    interval: Interval = None,
    profile: Profile = None,
    catch_up: CatchUp = None,
    max_concurrency: AtATime = None,
    start: Moment = None,
    end: Moment = None,
    experiment: Experiment = None,
) -> None:
    """Change a schedule made by `create`, and let it run the newest version of the pipeline."""
    from medloop_pipelines import schedule as operation

    given = _given(cron, interval, profile, catch_up, max_concurrency, start, end)
    typer.echo(operation.update(name, given, experiment or read().pipeline.experiment, to()))


@app.command("list")
@connected
def list_schedules(to: Any, experiment: Experiment = None) -> None:
    """List medloop's schedules on a Kubeflow with their next times."""
    from medloop_pipelines import schedule as operation

    typer.echo(operation.listing(experiment or read().pipeline.experiment, to()))


@app.command("pause")
@connected
def pause_schedule(to: Any, name: str, experiment: Experiment = None) -> None:
    """Keep a schedule from starting runs."""
    from medloop_pipelines import schedule as operation

    typer.echo(operation.pause(name, experiment or read().pipeline.experiment, to()))


@app.command("resume")
@connected
def resume_schedule(to: Any, name: str, experiment: Experiment = None) -> None:
    """Let a paused schedule start runs again."""
    from medloop_pipelines import schedule as operation

    typer.echo(operation.resume(name, experiment or read().pipeline.experiment, to()))


@app.command("delete")
@connected
def delete_schedule(to: Any, name: str, experiment: Experiment = None) -> None:
    """Delete a schedule; runs that it started stay."""
    from medloop_pipelines import schedule as operation

    typer.echo(operation.delete(name, experiment or read().pipeline.experiment, to()))


@app.command("apply")
@connected
def apply_schedules(
    to: Any,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show the difference alone")] = False,
) -> None:
    """Make the schedules on a Kubeflow those that params.yaml declares, after showing the difference."""
    from medloop_pipelines import schedule as operation

    def confirm(difference: str) -> bool:
        typer.echo(difference)
        try:
            return not dry_run and (yes or typer.confirm("make these changes?"))
        except typer.Abort:
            typer.echo()  # ends the line of the question
            raise Refused("nobody said yes, so nothing was changed: add --yes where nobody can be asked") from None

    typer.echo(operation.apply(read(), to(), confirm=confirm))


@app.command("serve")
def serve_schedules() -> None:
    """Run the schedules of params.yaml on this machine, until SIGTERM."""
    from medloop.scheduling import service

    service.serve(read().schedule, say=typer.echo)


@app.command("history")
def schedule_history(
    count: Annotated[int, typer.Option("--last", min=1, help="how many to list")] = 20,
) -> None:
    """List the latest runs of `serve` on this machine and how they ended."""
    from medloop.scheduling import history

    rows = history.latest(count)
    typer.echo("\n".join("  ".join(row) for row in rows) or "no runs yet")


def _given(
    cron: str | None,
    interval: int | None,
    profile: str | None,
    catch_up: bool | None,
    max_concurrency: int | None,
    start: str | None,
    end: str | None,
) -> dict[str, Any]:
    keys = ("cron", "interval_s", "profile", "catch_up", "max_concurrency", "start", "end")
    values = (cron, interval, profile, catch_up, max_concurrency, start, end)
    return {key: value for key, value in zip(keys, values, strict=True) if value is not None}
