"""`medloop registry`: backups of MLflow's databases and artifacts."""

from typing import Annotated

import typer

Place = Annotated[str, typer.Argument(help="where the backups lie: a folder, or s3://BUCKET/PREFIX")]

app = typer.Typer(
    help="Backups of the registry that PG..., AWS_... and MEDLOOP_BUCKET_MLFLOW point to.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("backup")
def registry_backup(
    place: Place,
    keep: Annotated[int, typer.Option(help="how many backups stay there, this one included")] = 14,
) -> None:
    """Copy MLflow's databases and artifacts, users and leases included; what is there already is not copied again."""
    from medloop.backup import making

    making.make(place, keep=keep, say=typer.echo)


@app.command("backups")
def registry_backups(
    place: Place,
    verify: Annotated[bool, typer.Option("--verify", help="read every file and compare its digest")] = False,
) -> None:
    """List the backups, oldest first."""
    from medloop.backup import making

    typer.echo(making.listing(place, verify=verify))


@app.command("restore")
def registry_restore(
    place: Place,
    backup: Annotated[str | None, typer.Option(help="its name, as `backups` lists it; default: the latest")] = None,
) -> None:
    """Bring a backup back into a fresh registry, after every file of it was verified."""
    from medloop.backup import restoring

    restoring.restore(place, backup, say=typer.echo)
