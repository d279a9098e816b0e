"""What is done with results: one command an operation."""

from pathlib import Path
from typing import Annotated, Any

import typer

from medloop.cli.options import ARTIFACTS, SAMPLES, Profile, Settings, read
from medloop.errors import Refused

app = typer.Typer()


@app.command()
def repro(
    profile: Profile = None, settings: Settings = None, force: Annotated[bool, typer.Option("--force")] = False
) -> None:
    """Run `dvc repro`, with a profile laid over params.yaml, and say where to look next."""
    from medloop import workspace

    workspace.repro(profile, settings or [], force=force)
    typer.echo(workspace.summary(ARTIFACTS, profile))


@app.command("params")
def showread(profile: Profile = None, settings: Settings = None) -> None:
    """Print every parameter with its value and meaning."""
    from medloop import params, workspace

    typer.echo(params.describe(workspace.effective(profile, settings or [])))


@app.command()
def models(profile: Profile = None, settings: Settings = None) -> None:
    """List the registered versions with aliases and metrics."""
    from medloop.operations.models import models as operation

    typer.echo(operation(read(profile, settings).base))


@app.command()
def promote(
    version: Annotated[str | None, typer.Argument(help="number or alias; default: the challenger")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="compare with the champion, and leave it in its place")
    ] = False,
    profile: Profile = None,
    settings: Settings = None,
) -> None:
    """Make a version the champion, if it fulfils `promote:` in params.yaml."""
    from medloop.operations.promote import promote as operation

    params = read(profile, settings)
    version = version or params.register.alias
    decision = operation(params.base, params.promote, version=version, samples=SAMPLES, move=not dry_run)
    typer.echo(decision.reason)
    if not decision.ok:
        raise typer.Exit(Refused.exit_code)


@app.command()
def rollback(profile: Profile = None, settings: Settings = None) -> None:
    """Bring the previous champion back."""
    from medloop.operations.rollback import rollback as operation

    typer.echo(operation(read(profile, settings).base))


@app.command()
def predict(
    source: Annotated[Path, typer.Argument(help="an image, a folder of images or DICOM files, a samples folder")],
    output: Annotated[Path, typer.Argument(help=".csv or .parquet")],
    model: Annotated[str, typer.Option(help="an alias, a version number or a models:/ address")] = "champion",
    paths: Annotated[bool, typer.Option("--paths", help="add each file's path: it may hold a patient's name")] = False,
    profile: Profile = None,
    settings: Settings = None,
) -> None:
    """Write what a registered model says of images."""
    from medloop.operations.predict import predict as operation

    typer.echo(operation(read(profile, settings).base, model=model, source=source, output=output, paths=paths))


@app.command()
def generate(
    folder: Annotated[Path, typer.Argument(help="a new or an empty folder")],
    model: Annotated[str, typer.Option(help="an alias or a version number")] = "champion",
    count: Annotated[int, typer.Option(help="images of each label")] = 16,
    label: Annotated[list[str] | None, typer.Option(help="a class, may be given again; none: all")] = None,
    seed: Annotated[int, typer.Option(help="of the first image; the others take the numbers that follow")] = 0,
    dicom: Annotated[bool, typer.Option("--dicom", help="write a DICOM file beside each PNG file")] = False,
    profile: Profile = None,
    settings: Settings = None,
) -> None:
    """Make synthetic images for teaching, each with its mark, with a registered model of task generation."""
    from medloop.operations.generate import generate as operation

    asked: dict[str, Any] = {"model": model, "count": count, "labels": label or (), "seed": seed, "dicom": dicom}
    typer.echo(operation(read(profile, settings).base, folder=folder, **asked))


@app.command()
def trace(
    model: Annotated[str, typer.Argument(help="an alias, a version number or a models:/ address")] = "champion",
    samples: Annotated[bool, typer.Option("--samples", help="from its samples up to every version")] = False,
    start: Annotated[str | None, typer.Option("--from", help="a digest: up from there to every version")] = None,
    profile: Profile = None,
) -> None:
    """Print the chain of a version: evaluation, model, arrays, samples, data; digests, code, packages, runs."""
    from medloop.operations import trace as operation

    if start is not None:
        typer.echo(operation.up(start))
    else:
        typer.echo((operation.of_samples if samples else operation.down)(_base(profile), model))


@app.command()
def verify(
    model: Annotated[str, typer.Argument(help="an alias, a version number or a models:/ address")] = "champion",
    profile: Profile = None,
) -> None:
    """Compute the chain of a version again, and name the first link that is broken."""
    from medloop.operations.verify import verify as operation

    for line in operation(_base(profile), model, artifacts=ARTIFACTS):
        typer.echo(line)
    typer.echo("every link holds")


def _base(profile: str | None) -> Any:
    """Return `base:` of params.yaml, None in a folder without one."""
    return read(profile).base if profile or Path("params.yaml").exists() else None
