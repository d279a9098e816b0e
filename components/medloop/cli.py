"""The command line: one command per stage and per operation. Carries no logic, and imports it in the bodies."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from medloop.errors import Refused

ARTIFACTS = Path("artifacts")
SAMPLES, VALIDATION = ARTIFACTS / "samples", ARTIFACTS / "validation"
ARRAYS, HOLDOUT = ARTIFACTS / "arrays", ARTIFACTS / "holdout"
MODELS, EVALUATION = ARTIFACTS / "models", ARTIFACTS / "evaluation"

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
pipeline = typer.Typer(help="The same stages as a Kubeflow pipeline.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(pipeline, name="pipeline")
images = typer.Typer(
    help="The container images of the steps and of the model server.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(images, name="images")

Profile = Annotated[str | None, typer.Option("--profile", "-p", help="profiles/NAME.yaml, laid over params.yaml")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", "-S", help="KEY=VALUE over params.yaml, e.g. train.epochs=3")
]

Engine = Annotated[str | None, typer.Option(help="docker, podman or buildah; default: the first that is installed")]
Package = Annotated[Path | None, typer.Option(help="compiled before; it must fit the parameters")]


def _show_version(asked: bool) -> None:
    if asked:
        from medloop import __version__

        typer.echo(f"medloop {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """From labelled medical images to a registered, promoted model."""


@app.command()
def ingest() -> None:
    """Decode the source into packed samples with pseudonyms and splits."""
    from medloop.stages.ingest import ingest as stage

    params = _params()
    with _recorded("ingest"):
        stage(params.base, params.ingest, samples=SAMPLES)


@app.command()
def validate() -> None:
    """Check the samples; a critical failure stops the pipeline."""
    from medloop.stages.validate import validate as stage

    params = _params()
    with _recorded("validate"):
        stage(params.base, params.validate, samples=SAMPLES, validation=VALIDATION)


@app.command()
def preprocess() -> None:
    """Make fixed-shape arrays, the test set apart from the rest."""
    from medloop.stages.preprocess import preprocess as stage

    params = _params()
    with _recorded("preprocess"):
        stage(params.base, params.preprocess, samples=SAMPLES, validation=VALIDATION, arrays=ARRAYS, holdout=HOLDOUT)


@app.command()
def train(architecture: str) -> None:
    """Train one architecture of params.yaml."""
    from medloop.stages.train import train as stage

    params = _params()
    with _recorded(f"train-{architecture}"):
        stage(params.base, params.train.only(architecture), arrays=ARRAYS, model=MODELS / architecture)


@app.command()
def evaluate() -> None:
    """Choose on validation data, open the test set once, write the report."""
    from medloop.stages.evaluate import evaluate as stage

    params = _params()
    with _recorded("evaluate"):
        stage(
            params.base,
            params.evaluate,
            models=_models(params.train.architectures),
            holdout=HOLDOUT,
            validation=VALIDATION,
            evaluation=EVALUATION,
        )


@app.command()
def register() -> None:
    """Find or create the model's version in the MLflow registry."""
    from medloop.stages.register import register as stage

    params = _params()
    with _recorded("register") as record:
        record |= stage(
            params.base,
            params.register,
            models=_models(params.train.architectures),
            validation=VALIDATION,
            evaluation=EVALUATION,
        )


@app.command()
def repro(
    profile: Profile = None, settings: Settings = None, force: Annotated[bool, typer.Option("--force")] = False
) -> None:
    """Run `dvc repro`, with a profile laid over params.yaml, and say where to look next."""
    from medloop import workspace

    workspace.repro(profile, settings or [], force=force)
    typer.echo(workspace.summary(ARTIFACTS))


@app.command("params")
def show_params(profile: Profile = None) -> None:
    """Print every parameter with its value and meaning."""
    from medloop import params, workspace

    typer.echo(params.describe(workspace.effective(profile, [])))


@app.command()
def models(profile: Profile = None) -> None:
    """List the registered versions with aliases and metrics."""
    from medloop.operations.models import models as operation

    typer.echo(operation(_params(profile).base))


@app.command()
def promote(
    version: Annotated[str | None, typer.Argument(help="number or alias; default: the challenger")] = None,
    profile: Profile = None,
) -> None:
    """Make a version the champion, if it fulfils `promote:` in params.yaml."""
    from medloop.operations.promote import promote as operation

    params = _params(profile)
    decision = operation(params.base, params.promote, version=version or params.register.alias, samples=SAMPLES)
    typer.echo(decision.reason)
    if not decision.ok:
        raise typer.Exit(Refused.exit_code)


@app.command()
def rollback(profile: Profile = None) -> None:
    """Bring the previous champion back."""
    from medloop.operations.rollback import rollback as operation

    typer.echo(operation(_params(profile).base))


@app.command()
def predict(
    source: Annotated[Path, typer.Argument(help="an image, a folder of images or DICOM files, a samples folder")],
    output: Annotated[Path, typer.Argument(help=".csv or .parquet")],
    model: Annotated[str, typer.Option(help="an alias, a version number or a models:/ address")] = "champion",
    paths: Annotated[bool, typer.Option("--paths", help="add each file's path: it may hold a patient's name")] = False,
    profile: Profile = None,
) -> None:
    """Write what a registered model says of images."""
    from medloop.operations.predict import predict as operation

    typer.echo(operation(_params(profile).base, model=model, source=source, output=output, paths=paths))


@pipeline.command("compile")
def compile_pipeline(
    output: Annotated[Path, typer.Argument()] = Path("pipeline.yaml"),
    profile: Profile = None,
    settings: Settings = None,
) -> None:
    """Write the pipeline as the IR YAML that every Kubeflow takes."""
    import medloop_pipelines

    medloop_pipelines.compile(_params(profile, settings), output)
    typer.echo(f"compiled to {output}")


@pipeline.command("run")
def run_pipeline(
    runner: Annotated[
        str, typer.Option(help="each step a process (subprocess) or a container (docker)")
    ] = "subprocess",
    root: Annotated[Path, typer.Option(help="folder for the outputs")] = ARTIFACTS / "pipeline",
    package: Package = None,
    profile: Profile = None,
    settings: Settings = None,
) -> None:
    """Run the pipeline on this machine."""
    import medloop_pipelines

    medloop_pipelines.run(_params(profile, settings), root, package=package, runner=runner)


@pipeline.command("submit")
def submit_pipeline(
    host: Annotated[str, typer.Option(help="address of the Kubeflow Pipelines API")],
    namespace: Annotated[str | None, typer.Option(help="Kubeflow profile to run in")] = None,
    package: Package = None,
    profile: Profile = None,
    settings: Settings = None,
) -> None:
    """Start the pipeline on a Kubeflow cluster."""
    import medloop_pipelines

    run = medloop_pipelines.submit(_params(profile, settings), host, namespace=namespace, package=package)
    typer.echo(f"submitted run {run}")


@images.command("build")
def build_images(
    targets: Annotated[list[str] | None, typer.Argument(help="light, train, serve; default: all")] = None,
    base_image: Annotated[str | None, typer.Option(help="Debian or Ubuntu with Python 3.11 to 3.13, venv, pip")] = None,
    train_base_image: Annotated[str | None, typer.Option(help="the same for train, e.g. one of NVIDIA's")] = None,
    train_lock: Annotated[str, typer.Option(help="train: for a GPU; train-cpu")] = "train",
    index: Annotated[str | None, typer.Option(envvar="PIP_INDEX_URL", help="address of the package index")] = None,
    engine: Engine = None,
) -> None:
    """Build images from the locks, each with its software bill of materials in dist/sbom."""
    from medloop_pipelines import building

    bases = {"base_image": base_image, "train_base_image": train_base_image}
    for target in targets or building.TARGETS:
        found = building.engine(engine)
        typer.echo(building.build(target, engine=found, **bases, train_lock=train_lock, index=index))


@images.command("list")
def list_images(engine: Engine = None) -> None:
    """List the images that were built here."""
    from medloop_pipelines import building

    found = building.engine(engine)
    for target in building.TARGETS:
        typer.echo(building.inspect(target, engine=found) or f"{building.reference(target):24} not built")


@images.command("push")
def push_images(
    registry: Annotated[str, typer.Argument(help="e.g. ghcr.io/team")],
    targets: Annotated[list[str] | None, typer.Argument(help="default: all")] = None,
    engine: Engine = None,
) -> None:
    """Push images, and print their references by digest, for `pipeline.images` in params.yaml."""
    from medloop_pipelines import building

    for target in targets or building.TARGETS:
        typer.echo(building.push(target, registry, engine=building.engine(engine)))


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


def _params(profile: str | None = None, settings: list[str] | None = None) -> Any:
    from medloop import params

    if profile is None and not settings:
        return params.read()
    from medloop import workspace

    return params.check(workspace.effective(profile, settings or []), where="params.yaml")


def _models(architectures: tuple[str, ...]) -> dict[str, Path]:
    return {architecture: MODELS / architecture for architecture in architectures}


@contextmanager
def _recorded(name: str) -> Iterator[dict[str, Any]]:
    from medloop import provenance

    with provenance.recorded(ARTIFACTS / "runs" / name) as record:
        yield record
