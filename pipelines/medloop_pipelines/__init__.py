"""The Kubeflow side of medloop: what `medloop pipeline compile`, `run` and `submit` do."""

from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from kfp.compiler import Compiler

from medloop import workspace
from medloop.errors import Refused
from medloop.params import Params
from medloop_pipelines import runners
from medloop_pipelines.connection import Connection
from medloop_pipelines.training import check_cluster, description, training_pipeline


def compile(params: Params, output: Path, *, scheduled: bool = False, here: bool = False) -> None:  # noqa: A001 - the word of KFP
    """Write the pipeline of `params` to `output`, the IR that every Kubeflow takes; same `params`, same bytes.

    A `scheduled` one does nothing where nothing is new, and compares what it registers with the champion.

    Raises:
        Refused: `output` does not end in .yaml or cannot be written, or a name in `params` is unknown.
    """
    if output.suffix != ".yaml":
        raise Refused(f"a compiled pipeline is a .yaml file, got {output}")
    pipeline = training_pipeline(params, scheduled=scheduled, here=here)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        Compiler().compile(pipeline, str(output))
    except OSError as error:
        raise Refused(f"{output} cannot be written: {error.strerror}") from None


def run(
    params: Params,
    root: Path = Path("artifacts/pipeline"),
    *,
    package: Path | None = None,
    runner: str = "subprocess",
    scheduled: bool = False,
) -> None:
    """Run the pipeline of `params` on this machine, each step a process or a container, outputs below `root`.

    A `scheduled` one does as a schedule's run does on a cluster.

    Raises:
        Refused: a step failed, `package` was compiled for other parameters, or `runner` is unknown.
        Unreachable: no container engine answers.
    """
    if runner not in runners.LOCAL:
        raise Refused(f"unknown runner {runner!r}; known: {', '.join(runners.LOCAL)}")
    workspace.check_one_machine(params)
    if package is None:
        params, package = _here(params), root / "pipeline.yaml"
        compile(params, package, scheduled=scheduled, here=True)
    runners.LOCAL[runner](_checked(package, params), root)


def submit(
    params: Params,
    to: Connection,
    *,
    package: Path | None = None,
    experiment: str | None = None,
    name: str | None = None,
) -> str:
    """Start the pipeline of `params` on the Kubeflow at `to`, and return the run's id.

    Args:
        params: what the pipeline is built for.
        to: where Kubeflow is.
        package: compiled before; it must fit `params`.
        experiment: that the run belongs to; None: `pipeline.experiment` of `params`.
        name: of the run; None: the model's, with the time.

    Raises:
        Unreachable: nothing answers there.
        Refused: the parameters name no key, `package` was compiled for others, or Kubeflow refused it; nothing is left
            behind.
    """
    check_cluster(params)
    with TemporaryDirectory() as folder:
        if package is None:
            package = Path(folder) / f"{params.base.model_name}.yaml"
            compile(params, package)
        return runners.cluster(
            _checked(package, params),
            to,
            experiment=experiment or params.pipeline.experiment,
            name=name or f"{params.base.model_name} {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC",
        )


def _here(params: Params) -> Params:
    """Return parameters without what a cluster holds, and without retries: a step that fails here fails again."""
    without = {"retries": 0, "environment": {}, "secrets": {}, "key_secret": None, "state_claim": None}
    return params.model_copy(update={"pipeline": params.pipeline.model_copy(update=without)})


def _checked(package: Path, params: Params) -> Path:
    """Return `package` after comparing it with `params`: its tasks, one per architecture, were made when compiling."""
    came = _pipeline_info(package).get("description", "")
    if came != description(params):
        raise Refused(
            f"{package} was compiled for other parameters: wanted {description(params)!r}, it says {came!r}; "
            "compile it again (`medloop pipeline compile`)"
        )
    return package


def _pipeline_info(package: Path) -> dict[str, Any]:
    try:
        spec = next(yaml.safe_load_all(package.read_text()))
        return dict(spec["pipelineInfo"])
    except FileNotFoundError:
        raise Refused(f"no file {package}: make it with `medloop pipeline compile`") from None
    except (yaml.YAMLError, KeyError, TypeError, StopIteration, UnicodeDecodeError):
        raise Refused(f"{package} is no compiled pipeline") from None
