"""The stages as Kubeflow components: each hands paths to a stage and shows what came out.

KFP ships the body of each function alone, so that imports stand inside. Images are set where the pipeline is put
together. A step takes models from several tasks, and KFP has no list for that outside of its own loops: hence the
numbered inputs, of which the pipeline uses as many as there are architectures.
"""

import functools

from kfp import dsl
from kfp.dsl import (
    HTML,
    Artifact,
    ClassificationMetrics,
    Dataset,
    Input,
    Markdown,
    Metrics,
    Model,
    Output,
    PipelineTaskFinalStatus,
)

MAX_MODELS = 8

component = functools.partial(dsl.component, base_image="medloop", install_kfp_package=False)


@component
def ingest(
    params: str,
    samples: Output[Dataset],
    parts: Input[list[Dataset]] = None,
    kept: str = "",
) -> None:
    """Decode the source into packed samples with pseudonyms and splits, or put together what `ingest_part` decoded.

    What was `kept` under a name by an earlier run is taken over where it would come out the same.
    """
    from pathlib import Path

    from medloop import kubeflow
    from medloop.params import Ingest, parse
    from medloop.stages.ingest import ingest, said

    with kubeflow.step("ingest"):
        report = ingest(
            *parse(params, Ingest),
            samples=Path(samples.path),
            parts=[Path(part.path) for part in parts or ()],
            previous=kubeflow.kept(kept),
        )
        if not parts:  # they have said it themselves
            print(said(report))  # noqa: T201
        kubeflow.keep(Path(samples.path), kept)
    kubeflow.describe(samples, **kubeflow.data(samples))


@component
def ingest_part(params: str, shard: int, shards: int, part: Output[Dataset], kept: str = "") -> None:
    """Decode one of several shards of the source."""
    from pathlib import Path

    from medloop import kubeflow
    from medloop.params import Ingest, parse
    from medloop.stages.ingest import ingest_part, said

    with kubeflow.step(f"ingest-part-{shard}"):
        report = ingest_part(
            *parse(params, Ingest),
            part=Path(part.path),
            shard=int(shard),
            shards=int(shards),
            previous=kubeflow.kept(kept),
        )
        print(said(report))  # noqa: T201
    kubeflow.describe(part)


@component
def validate(params: str, samples: Input[Dataset], validation: Output[Artifact], checks: Output[Markdown]) -> None:
    """Check the samples; a critical failure stops the pipeline."""
    from pathlib import Path

    from medloop import kubeflow
    from medloop.params import Validate, parse
    from medloop.stages.validate import validate

    with kubeflow.step("validate"):
        validate(*parse(params, Validate), samples=Path(samples.path), validation=Path(validation.path))
    kubeflow.describe(validation)
    Path(checks.path).write_text(kubeflow.table_of_checks(Path(validation.path)))


@component
def preprocess(
    params: str,
    samples: Input[Dataset],
    validation: Input[Artifact],
    arrays: Output[Dataset],
    holdout: Output[Dataset],
    arrays_parts: Input[list[Dataset]] = None,
    holdout_parts: Input[list[Dataset]] = None,
) -> None:
    """Make fixed-shape arrays, the test set apart from the rest, or put together what `preprocess_part` made."""
    from pathlib import Path

    from medloop import kubeflow
    from medloop.params import Preprocess, parse
    from medloop.stages.preprocess import preprocess

    with kubeflow.step("preprocess"):
        preprocess(
            *parse(params, Preprocess),
            samples=Path(samples.path),
            validation=Path(validation.path),
            arrays=Path(arrays.path),
            holdout=Path(holdout.path),
            arrays_parts=[Path(part.path) for part in arrays_parts or ()],
            holdout_parts=[Path(part.path) for part in holdout_parts or ()],
        )
    kubeflow.describe(arrays)
    kubeflow.describe(holdout)


@component
def preprocess_part(
    params: str,
    shard: int,
    shards: int,
    samples: Input[Dataset],
    validation: Input[Artifact],
    arrays: Output[Dataset],
    holdout: Output[Dataset],
) -> None:
    """Make the arrays of one of several shards, the test set apart from the rest."""
    from pathlib import Path

    from medloop import kubeflow
    from medloop.params import Preprocess, parse
    from medloop.stages.preprocess import preprocess_part

    with kubeflow.step(f"preprocess-part-{shard}"):
        preprocess_part(
            *parse(params, Preprocess),
            samples=Path(samples.path),
            validation=Path(validation.path),
            arrays=Path(arrays.path),
            holdout=Path(holdout.path),
            shard=int(shard),
            shards=int(shards),
        )
    kubeflow.describe(arrays)
    kubeflow.describe(holdout)


@component
def train(params: str, arrays: Input[Dataset], model: Output[Model], metrics: Output[Metrics], job: str = "") -> None:
    """Train the one architecture that `params` names: here, or on the nodes of the TrainJob that `job` describes."""
    from pathlib import Path

    from medloop import kubeflow
    from medloop.params import Train, TrainJob, parse

    base, section = parse(params, Train)
    with kubeflow.step(f"train-{section.architectures[0]}"):
        if job:
            from medloop.trainer import trainjob

            where = TrainJob.model_validate_json(job)
            result = trainjob.train(base, section, arrays=Path(arrays.path), model=Path(model.path), job=where)
        else:
            from medloop.stages.train import train

            result = train(base, section, arrays=Path(arrays.path), model=Path(model.path))
    kubeflow.describe(model, architecture=section.architectures[0], framework="keras")
    for name, value in result.items():
        metrics.log_metric(name, value)


@component
def evaluate(
    params: str,
    holdout: Input[Dataset],
    validation: Input[Artifact],
    evaluation: Output[Artifact],
    metrics: Output[Metrics],
    curves: Output[ClassificationMetrics],
    report: Output[HTML],
    model_1: Input[Model],
    model_2: Input[Model] | None = None,
    model_3: Input[Model] | None = None,
    model_4: Input[Model] | None = None,
    model_5: Input[Model] | None = None,
    model_6: Input[Model] | None = None,
    model_7: Input[Model] | None = None,
    model_8: Input[Model] | None = None,
) -> None:
    """Choose on validation data, open the test set once, write the report."""
    from pathlib import Path
    from shutil import copyfile

    from medloop import kubeflow
    from medloop.params import Evaluate, parse
    from medloop.stages.evaluate import evaluate

    with kubeflow.step("evaluate"):
        evaluate(
            *parse(params, Evaluate),
            models=kubeflow.by_architecture(model_1, model_2, model_3, model_4, model_5, model_6, model_7, model_8),
            holdout=Path(holdout.path),
            validation=Path(validation.path),
            evaluation=Path(evaluation.path),
        )
    kubeflow.describe(evaluation)
    for name, value in kubeflow.test_metrics(Path(evaluation.path)).items():
        metrics.log_metric(name, value)
    if kubeflow.has_roc_curve(Path(evaluation.path)):
        curves.log_roc_curve(*kubeflow.roc_curve(Path(evaluation.path)))
    if kubeflow.has_confusion_matrix(Path(evaluation.path)):
        curves.log_confusion_matrix(*kubeflow.confusion_matrix(Path(evaluation.path)))
    copyfile(Path(evaluation.path) / "report.html", report.path)


@component
def register(
    params: str,
    validation: Input[Artifact],
    evaluation: Input[Artifact],
    version: Output[Artifact],
    model_1: Input[Model],
    model_2: Input[Model] | None = None,
    model_3: Input[Model] | None = None,
    model_4: Input[Model] | None = None,
    model_5: Input[Model] | None = None,
    model_6: Input[Model] | None = None,
    model_7: Input[Model] | None = None,
    model_8: Input[Model] | None = None,
    git_commit: str = "",
    kfp_run_id: str = "",
    watermark: str = "",
    settings: str = "",
) -> str:
    """Find or create the model's version in the MLflow registry, and return it as `name/version`."""
    from pathlib import Path

    from medloop import evidence, kubeflow
    from medloop.params import Register, parse
    from medloop.stages.register import register

    with kubeflow.step("register"):
        result = register(
            *parse(params, Register),
            models=kubeflow.by_architecture(model_1, model_2, model_3, model_4, model_5, model_6, model_7, model_8),
            validation=Path(validation.path),
            evaluation=Path(evaluation.path),
            origin=evidence.given(git_commit, kfp_run_id, watermark, settings),
        )
    kubeflow.show(version, result)
    return f"{result['model']}/{result['version']}"


@component
def look(params: str, settings: str, finding: Output[Markdown]) -> str:
    """Compare the data with what the registered versions came of: its watermark, or "" if nothing is new.

    kfp's local runners take a condition on a step's one output alone.
    """
    from pathlib import Path

    from medloop import kubeflow
    from medloop.operations.look import look
    from medloop.params import Ingest, parse

    with kubeflow.step("look"):
        found = look(*parse(params, Ingest), settings=settings)
    print(found.reason)  # noqa: T201
    Path(finding.path).write_text(found.reason)
    return found.watermark if found.new else ""


@component
def promote(params: str, version: str, samples: Input[Dataset]) -> str:
    """Compare the version `name/number` with the champion, and return what came of it.

    It takes the champion's place, if it is fit for it, where `promote.automatic` says so.
    """
    from pathlib import Path

    from medloop import kubeflow
    from medloop.operations.promote import promote
    from medloop.params import Promote, parse

    with kubeflow.step("promote"):
        base, rule = parse(params, Promote)
        number = version.rpartition("/")[2]
        decision = promote(base, rule, version=number, samples=Path(samples.path), move=rule.automatic)
    print(decision.reason)  # noqa: T201
    return decision.reason


@component
def notify(params: str, run: str, status: PipelineTaskFinalStatus) -> None:
    """Tell people how the run ended, which step failed and why."""
    from medloop import failures, kubeflow, notify
    from medloop.params import Notify, parse

    base, section = parse(params, Notify)
    with kubeflow.step("notify"):
        notify.send(section, notify.report(base.model_name, status.state, failures.read(), run))
    failures.clear()
