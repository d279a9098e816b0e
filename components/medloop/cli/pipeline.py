"""`medloop pipeline`: the same stages as a Kubeflow pipeline."""

from pathlib import Path
from typing import Annotated, Any

import typer

from medloop.cli.options import ARTIFACTS, Experiment, Profile, Settings, connected, read

Package = Annotated[Path | None, typer.Option(help="compiled before; it must fit the parameters")]
Scheduled = Annotated[
    bool, typer.Option("--scheduled", help="as schedules run it: first look for anything new, at the end compare")
]
OneRun = Annotated[str | None, typer.Argument(help="its id; default: the latest runs")]

app = typer.Typer(help="The same stages as a Kubeflow pipeline.", no_args_is_help=True, rich_markup_mode=None)


@app.command("compile")
def compile_pipeline(
    output: Annotated[Path, typer.Argument()] = Path("pipeline.yaml"),
    scheduled: Scheduled = False,
    profile: Profile = None,
    settings: Settings = None,
) -> None:
    """Write the pipeline as the IR YAML that every Kubeflow takes."""
    import medloop_pipelines

    medloop_pipelines.compile(read(profile, settings), output, scheduled=scheduled)
    typer.echo(f"compiled to {output}")


@app.command("run")
def run_pipeline(
    runner: Annotated[
        str, typer.Option(help="each step a process (subprocess) or a container (docker)")
    ] = "subprocess",
    root: Annotated[Path, typer.Option(help="folder for the outputs")] = ARTIFACTS / "pipeline",
    package: Package = None,
    scheduled: Scheduled = False,
    profile: Profile = None,
    settings: Settings = None,
) -> None:
    """Run the pipeline on this machine."""
    import medloop_pipelines

    medloop_pipelines.run(read(profile, settings), root, package=package, runner=runner, scheduled=scheduled)


@app.command("submit")
@connected
def submit_pipeline(
    to: Any,
    package: Package = None,
    experiment: Experiment = None,
    name: Annotated[str | None, typer.Option(help="of the run; default: the model's name and the time")] = None,
    profile: Profile = None,
    settings: Settings = None,
) -> None:
    """Start the pipeline on a Kubeflow cluster."""
    import medloop_pipelines

    params = read(profile, settings)
    run = medloop_pipelines.submit(params, to(), package=package, experiment=experiment, name=name)
    typer.echo(f"submitted run {run}")


@app.command("status")
@connected
def pipeline_status(to: Any, run: OneRun = None, experiment: Experiment = None) -> None:
    """Say how a run stands step by step; without one, list the latest."""
    from medloop_pipelines import runs

    typer.echo(runs.status(to(), run) if run else runs.listing(to(), experiment or read().pipeline.experiment))


@app.command("logs")
@connected
def pipeline_logs(to: Any, run: str) -> None:
    """Say which steps of a run failed, why, and where their logs are."""
    from medloop_pipelines import runs

    typer.echo(runs.logs(to(), run))


@app.command("cancel")
@connected
def cancel_run(to: Any, run: str) -> None:
    """End a run."""
    from medloop_pipelines import runs

    typer.echo(runs.cancel(to(), run))
