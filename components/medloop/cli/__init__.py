"""The command line: one command per stage and per operation. Carries no logic, and imports it in the bodies."""

import sys
from typing import Annotated

import typer

from medloop.cli import images, operations, pipeline, registry, schedule, stack, stages
from medloop.errors import Refused

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for commands in (stages.app, operations.app):
    app.add_typer(commands)
for name, commands in (
    ("pipeline", pipeline.app),
    ("images", images.app),
    ("stack", stack.app),
    ("registry", registry.app),
    ("schedule", schedule.app),
):
    app.add_typer(commands, name=name)


def _show_version(asked: bool) -> None:
    if asked:
        from medloop import __version__

        typer.echo(f"medloop {__version__}")
        raise typer.Exit


@app.callback()
def medloop(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """From labelled medical images to a registered, promoted model."""


def main() -> None:
    """Run the command line; what a user can mend is printed as one message, without a traceback."""
    try:
        app()
    except Refused as error:
        typer.echo(f"medloop: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        typer.echo("medloop: interrupted; the last good outputs are in place", err=True)
        sys.exit(130)
    except Exception as error:  # its text may hold a patient's name: shown to nobody but the owner of this folder
        typer.echo(f"medloop: unexpected {type(error).__name__}; {_kept(error)}", err=True)
        sys.exit(1)


def _kept(error: Exception) -> str:
    from medloop import privacy

    try:
        return f"the traceback is in {privacy.keep_traceback(error)}"
    except OSError as full:
        return f"its traceback could not be kept: {full.strerror}"
