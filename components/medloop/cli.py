"""The command line: one command per stage and per operation. Carries no logic, and imports it in the bodies."""

import functools
import inspect
import sys
from collections.abc import Callable, Iterator
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
stack = typer.Typer(
    help="PostgreSQL, S3 and MLflow servers on this machine.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(stack, name="stack")
schedule = typer.Typer(help="Runs that come back.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(schedule, name="schedule")

Profile = Annotated[str | None, typer.Option("--profile", "-p", help="profiles/NAME.yaml, laid over params.yaml")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", "-S", help="KEY=VALUE over params.yaml, e.g. train.epochs=3")
]

Engine = Annotated[str | None, typer.Option(help="docker, podman or buildah; default: the first that is installed")]
Host = Annotated[str | None, typer.Option(help="address of the Kubeflow Pipelines API; default: MEDLOOP_KFP_HOST")]
Namespace = Annotated[str | None, typer.Option(help="Kubeflow profile to run in, where there are many users")]
TokenFile = Annotated[Path | None, typer.Option(help="holds a bearer token; else MEDLOOP_KFP_TOKEN")]
ServiceAccount = Annotated[bool, typer.Option("--service-account/", help="the token that Kubernetes mounts in a pod")]
CaCert = Annotated[Path | None, typer.Option(help="PEM bundle of the authorities to trust; default: the public ones")]
Experiment = Annotated[str | None, typer.Option(help="default: pipeline.experiment")]
OneRun = Annotated[str | None, typer.Argument(help="its id; default: the latest runs")]
Cron = Annotated[str | None, typer.Option(help="six fields, seconds first, UTC, e.g. '0 30 2 * * mon'")]
Interval = Annotated[int | None, typer.Option("--interval", help="seconds from one run to the next")]
CatchUp = Annotated[bool | None, typer.Option("--catch-up/--no-catch-up", help="make up for each time that was missed")]
AtATime = Annotated[int | None, typer.Option("--max-concurrency", help="runs at a time")]
Moment = Annotated[str | None, typer.Option(help="a time, e.g. 2027-01-01T00:00:00Z")]
Package = Annotated[Path | None, typer.Option(help="compiled before; it must fit the parameters")]
StackFolder = Annotated[Path, typer.Option("--folder", help="holds the stack's data, secrets and logs")]
STACK = Path(".medloop/stack")


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


def _connected(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a Kubeflow in place of `to`, which is a function that resolves them."""

    def connected(
        host: Host = None,
        namespace: Namespace = None,
        token_file: TokenFile = None,
        service_account: ServiceAccount = False,
        ca_cert: CaCert = None,
        **own: Any,
    ) -> None:
        def to() -> Any:
            from medloop_pipelines import connection

            return connection.resolve(
                host=host,
                namespace=namespace,
                token_file=token_file,
                service_account=service_account,
                ca_cert=ca_cert,
            )

        command(to, **own)

    own, theirs = (list(inspect.signature(function).parameters.values()) for function in (command, connected))
    both = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (*own[1:], *theirs[:-1])]
    functools.update_wrapper(connected, command)
    connected.__signature__ = inspect.Signature(both)  # type: ignore[attr-defined]
    connected.__annotations__ = {each.name: each.annotation for each in both}
    return connected


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
def register(profile: Profile = None, settings: Settings = None) -> None:
    """Find or create the model's version in the MLflow registry."""
    from medloop.stages.register import register as stage

    params = _params(profile, settings)
    with _recorded("register") as record:
        record |= stage(
            params.base,
            params.register,
            models=_models(params.train.architectures),
            validation=VALIDATION,
            evaluation=EVALUATION,
        )
    state = "registered" if record["new"] else "registered before"
    typer.echo(f"{record['model']} version {record['version']}: {state}, on {record['server']}")


@app.command()
def repro(
    profile: Profile = None, settings: Settings = None, force: Annotated[bool, typer.Option("--force")] = False
) -> None:
    """Run `dvc repro`, with a profile laid over params.yaml, and say where to look next."""
    from medloop import workspace

    workspace.repro(profile, settings or [], force=force)
    typer.echo(workspace.summary(ARTIFACTS, profile))


@app.command("params")
def show_params(profile: Profile = None, settings: Settings = None) -> None:
    """Print every parameter with its value and meaning."""
    from medloop import params, workspace

    typer.echo(params.describe(workspace.effective(profile, settings or [])))


@app.command()
def models(profile: Profile = None, settings: Settings = None) -> None:
    """List the registered versions with aliases and metrics."""
    from medloop.operations.models import models as operation

    typer.echo(operation(_params(profile, settings).base))


@app.command()
def promote(
    version: Annotated[str | None, typer.Argument(help="number or alias; default: the challenger")] = None,
    profile: Profile = None,
    settings: Settings = None,
) -> None:
    """Make a version the champion, if it fulfils `promote:` in params.yaml."""
    from medloop.operations.promote import promote as operation

    params = _params(profile, settings)
    decision = operation(params.base, params.promote, version=version or params.register.alias, samples=SAMPLES)
    typer.echo(decision.reason)
    if not decision.ok:
        raise typer.Exit(Refused.exit_code)


@app.command()
def rollback(profile: Profile = None, settings: Settings = None) -> None:
    """Bring the previous champion back."""
    from medloop.operations.rollback import rollback as operation

    typer.echo(operation(_params(profile, settings).base))


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

    typer.echo(operation(_params(profile, settings).base, model=model, source=source, output=output, paths=paths))


@app.command()
def trace(
    model: Annotated[str, typer.Argument(help="an alias, a version number or a models:/ address")] = "champion",
    samples: Annotated[bool, typer.Option("--samples", help="from its samples up to every version")] = False,
    start: Annotated[str | None, typer.Option("--from", help="a digest: up from there to every version")] = None,
    profile: Profile = None,
) -> None:
    """Print the chain of a version: evaluation, model, arrays, samples, data; digests, code, packages, runs."""
    from medloop.operations import trace as operation

    if start:
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
@_connected
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

    params = _params(profile, settings)
    run = medloop_pipelines.submit(params, to(), package=package, experiment=experiment, name=name)
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


@stack.command("up")
def stack_up(
    folder: StackFolder = STACK,
    ports: Annotated[
        list[str] | None, typer.Option("--port", help="NAME=NUMBER, NAME one of postgres, s3, mlflow; kept for later")
    ] = None,
) -> None:
    """Start what does not run yet, and return when all of it answers."""
    from medloop.stack import control

    control.up(folder, ports or [], typer.echo)


@stack.command("status")
def stack_status(folder: StackFolder = STACK) -> None:
    """Say of each part whether it answers, and where; exit with 4 unless all do."""
    from medloop.errors import Unreachable
    from medloop.stack import control

    answers, text = control.status(folder)
    typer.echo(text)
    if not answers:
        raise typer.Exit(Unreachable.exit_code)


@stack.command("down")
def stack_down(folder: StackFolder = STACK) -> None:
    """Stop it; its data stay."""
    from medloop.stack import control

    control.down(folder, typer.echo)


@stack.command("user")
def stack_user(
    name: str,
    role: Annotated[str, typer.Option(help="reader: sees all; writer: trains, registers and promotes too")] = "reader",
    folder: StackFolder = STACK,
) -> None:
    """Make a user of the MLflow server, with a password in a private file."""
    from medloop.stack import users

    typer.echo(users.add(folder, name, role))


@pipeline.command("status")
@_connected
def pipeline_status(to: Any, run: OneRun = None, experiment: Experiment = None) -> None:
    """Say how a run stands step by step; without one, list the latest."""
    from medloop_pipelines import runs

    typer.echo(runs.status(to(), run) if run else runs.listing(to(), experiment or _params().pipeline.experiment))


@pipeline.command("logs")
@_connected
def pipeline_logs(to: Any, run: str) -> None:
    """Say which steps of a run failed, why, and where their logs are."""
    from medloop_pipelines import runs

    typer.echo(runs.logs(to(), run))


@pipeline.command("cancel")
@_connected
def cancel_run(to: Any, run: str) -> None:
    """End a run."""
    from medloop_pipelines import runs

    typer.echo(runs.cancel(to(), run))


@schedule.command("create")
@_connected
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
    typer.echo(operation.create(wanted, experiment or _params().pipeline.experiment, to()))


@schedule.command("update")
@_connected
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
    typer.echo(operation.update(name, given, experiment or _params().pipeline.experiment, to()))


@schedule.command("list")
@_connected
def list_schedules(to: Any, experiment: Experiment = None) -> None:
    """List medloop's schedules on a Kubeflow with their next times."""
    from medloop_pipelines import schedule as operation

    typer.echo(operation.listing(experiment or _params().pipeline.experiment, to()))


@schedule.command("pause")
@_connected
def pause_schedule(to: Any, name: str, experiment: Experiment = None) -> None:
    """Keep a schedule from starting runs."""
    from medloop_pipelines import schedule as operation

    typer.echo(operation.pause(name, experiment or _params().pipeline.experiment, to()))


@schedule.command("resume")
@_connected
def resume_schedule(to: Any, name: str, experiment: Experiment = None) -> None:
    """Let a paused schedule start runs again."""
    from medloop_pipelines import schedule as operation

    typer.echo(operation.resume(name, experiment or _params().pipeline.experiment, to()))


@schedule.command("delete")
@_connected
def delete_schedule(to: Any, name: str, experiment: Experiment = None) -> None:
    """Delete a schedule; runs that it started stay."""
    from medloop_pipelines import schedule as operation

    typer.echo(operation.delete(name, experiment or _params().pipeline.experiment, to()))


@schedule.command("apply")
@_connected
def apply_schedules(
    to: Any,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show the difference alone")] = False,
) -> None:
    """Make the schedules on a Kubeflow those that params.yaml declares, after showing the difference."""
    from medloop_pipelines import schedule as operation

    def confirm(difference: str) -> bool:
        typer.echo(difference)
        return not dry_run and (yes or typer.confirm("make these changes?"))

    typer.echo(operation.apply(_params(), to(), confirm=confirm))


@schedule.command("serve")
def serve_schedules() -> None:
    """Run the schedules of params.yaml on this machine, until SIGTERM."""
    from medloop.scheduling import service

    service.serve(_params().schedule, say=typer.echo)


@schedule.command("history")
def schedule_history() -> None:
    """List the latest runs of `serve` on this machine and how they ended."""
    from medloop.scheduling import history

    rows = history.latest()
    typer.echo("\n".join("  ".join(row) for row in rows) or "no runs yet")


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


def _base(profile: str | None) -> Any:
    """Return `base:` of params.yaml, None in a folder without one."""
    return _params(profile).base if profile or Path("params.yaml").exists() else None


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


def _models(architectures: tuple[str, ...]) -> dict[str, Path]:
    return {architecture: MODELS / architecture for architecture in architectures}


@contextmanager
def _recorded(name: str) -> Iterator[dict[str, Any]]:
    from medloop import provenance

    with provenance.recorded(ARTIFACTS / "runs" / name) as record:
        yield record
