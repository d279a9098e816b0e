"""`medloop images`: the container images of the steps and of the model server."""

from typing import Annotated

import typer

Engine = Annotated[str | None, typer.Option(help="docker, podman or buildah; default: the first that is installed")]

app = typer.Typer(
    help="The container images of the steps and of the model server.", no_args_is_help=True, rich_markup_mode=None
)


@app.command("build")
def build_images(
    targets: Annotated[list[str] | None, typer.Argument(help="light, train, serve, stack; default: all")] = None,
    base_image: Annotated[str | None, typer.Option(help="Debian or Ubuntu with Python 3.11 to 3.13, venv, pip")] = None,
    train_base_image: Annotated[str | None, typer.Option(help="the same for train, e.g. one of NVIDIA's")] = None,
    train_lock: Annotated[str, typer.Option(help="train: for a GPU; train-cpu")] = "train",
    index: Annotated[str | None, typer.Option(envvar="PIP_INDEX_URL", help="address of the package index")] = None,
    engine: Engine = None,
) -> None:
    """Build images from the locks, each with its software bill of materials in dist/sbom."""
    from medloop_pipelines import building

    bases = {"base_image": base_image, "train_base_image": train_base_image}
    wanted, found = building.named(targets), building.engine(engine)
    for target in wanted:
        typer.echo(building.build(target, engine=found, **bases, train_lock=train_lock, index=index))


@app.command("list")
def list_images(engine: Engine = None) -> None:
    """List the images that were built here."""
    from medloop_pipelines import building

    found = building.engine(engine)
    for target in building.TARGETS:
        typer.echo(building.inspect(target, engine=found) or f"{building.reference(target):24} not built")


@app.command("push")
def push_images(
    registry: Annotated[str, typer.Argument(help="e.g. ghcr.io/team")],
    targets: Annotated[list[str] | None, typer.Argument(help="default: all")] = None,
    engine: Engine = None,
) -> None:
    """Push images, and print their references by digest, for `pipeline.images` in params.yaml."""
    from medloop_pipelines import building

    wanted, found = building.named(targets), building.engine(engine)
    for target in wanted:
        typer.echo(building.push(target, registry, engine=found))
