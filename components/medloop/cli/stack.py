"""`medloop stack`: PostgreSQL, S3 and MLflow servers on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from medloop.stack.settings import DEFAULT

StackFolder = Annotated[Path, typer.Option("--folder", help="holds the stack's data, secrets and logs")]

app = typer.Typer(
    help="PostgreSQL, S3 and MLflow servers on this machine.", no_args_is_help=True, rich_markup_mode=None
)


@app.command("up")
def stack_up(
    folder: StackFolder = DEFAULT,
    ports: Annotated[
        list[str] | None, typer.Option("--port", help="NAME=NUMBER, NAME one of postgres, s3, mlflow; kept for later")
    ] = None,
) -> None:
    """Start what does not run yet, and return when all of it answers."""
    from medloop.stack import control

    control.up(folder, ports or [], typer.echo)


@app.command("status")
def stack_status(folder: StackFolder = DEFAULT) -> None:
    """Say of each part whether it answers, and where; exit with 4 unless all do."""
    from medloop.errors import Unreachable
    from medloop.stack import control

    answers, text = control.status(folder)
    typer.echo(text)
    if not answers:
        raise typer.Exit(Unreachable.exit_code)


@app.command("down")
def stack_down(folder: StackFolder = DEFAULT) -> None:
    """Stop it; its data stay."""
    from medloop.stack import control

    control.down(folder, typer.echo)


@app.command("user")
def stack_user(
    name: str,
    role: Annotated[str, typer.Option(help="reader: sees all; writer: trains, registers and promotes too")] = "reader",
    folder: StackFolder = DEFAULT,
) -> None:
    """Make a user of the MLflow server, with a password in a private file."""
    from medloop.stack import users

    typer.echo(users.add(folder, name, role))
