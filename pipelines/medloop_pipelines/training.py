"""The training loop as a Kubeflow pipeline, built for the parameters that are read when compiling."""

import re
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from kfp import dsl, kubernetes

from medloop import components, evidence, provenance, workspace
from medloop.errors import Refused
from medloop.notify import VARIABLES
from medloop.params import Params, Section, Stage, dump
from medloop_pipelines import images

BACKOFF = "30s"


def training_pipeline(params: Params, *, scheduled: bool = False) -> Any:
    """Return the KFP pipeline of `params`; it has no inputs, since its tasks depend on what it was built for.

    Args:
        params: what it is built for.
        scheduled: whether it promotes what it registers, where `promote.automatic` says so.

    Raises:
        Refused: more architectures than the components have inputs for.
    """
    _check(params)

    @dsl.pipeline(name=_name(params), description=description(params))
    def pipeline() -> None:
        with _told_of_its_end(params):
            _loop(params, scheduled=scheduled)

    return pipeline


def _loop(params: Params, *, scheduled: bool) -> None:
    ingest = _task("ingest", params)
    # ingest reads a folder, and register asks a server, that KFP cannot see: neither may come out of its cache.
    ingest.set_caching_options(False)
    samples = ingest.outputs["samples"]

    validate = _task("validate", params, samples=samples)
    validation = validate.outputs["validation"]

    preprocess = _task("preprocess", params, samples=samples, validation=validation)
    arrays, holdout = preprocess.outputs["arrays"], preprocess.outputs["holdout"]

    trained = [_train(architecture, params, arrays) for architecture in params.train.architectures]
    models = {f"model_{number}": task.outputs["model"] for number, task in enumerate(trained, start=1)}

    evaluate = _task("evaluate", params, holdout=holdout, validation=validation, **models)
    evaluation = evaluate.outputs["evaluation"]

    # The run's id changes from run to run: no step may have it but this one, which never comes out of the cache.
    origin = {"git_commit": evidence.commit() or "", "kfp_run_id": dsl.PIPELINE_JOB_ID_PLACEHOLDER}
    register = _task("register", params, validation=validation, evaluation=evaluation, **models, **origin)
    register.set_caching_options(False)

    if scheduled and params.promote.automatic:
        text = dump(params.base, params.promote)
        promote = components.promote(params=text, version=register.outputs["Output"], samples=samples)
        _dressed(promote, images.of("register", params.pipeline), params).set_caching_options(False)


def _told_of_its_end(params: Params) -> AbstractContextManager[Any]:
    """Return what the loop stands in: an exit handler, where somebody is to be told."""
    how = params.pipeline.notify
    if not how.channels:
        return nullcontext()
    task = components.notify(params=dump(params.base, how), run=dsl.PIPELINE_JOB_ID_PLACEHOLDER)
    _dressed(task, images.of("ingest", params.pipeline), params).set_caching_options(False)
    names = [name for channel in how.channels for name in VARIABLES[channel]]
    kubernetes.use_secret_as_env(task, how.secret, {name: name for name in names})
    return dsl.ExitHandler(task, name="loop")


def description(params: Params) -> str:
    """Return what a compiled pipeline says of the parameters that it was built for."""
    read = params.model_dump(mode="json", exclude={"schedule"})
    return f"{params.base.model_name}, built for parameters {provenance.json_digest(read)}"


def _train(architecture: str, params: Params, arrays: Any) -> dsl.PipelineTask:
    task = _task("train", params, section=params.train.only(architecture), arrays=arrays)
    return _on_accelerator(task.set_display_name(f"train-{architecture}"), params)


def _task(stage: Stage, params: Params, section: Section | None = None, **inputs: Any) -> dsl.PipelineTask:
    """Return the task of `stage`, with the image and the resources that `pipeline:` in params.yaml gives it."""
    text = dump(params.base, section or getattr(params, stage))
    return _dressed(getattr(components, stage)(params=text, **inputs), images.of(stage, params.pipeline), params)


def _dressed(task: dsl.PipelineTask, image: str, params: Params) -> dsl.PipelineTask:
    task.set_container_image(image)
    if digest := images.digest(image):
        task.set_env_variable("MEDLOOP_IMAGE_DIGEST", digest)
    else:  # KFP's cache goes by the name of the image, and a tag may have moved
        task.set_caching_options(False)
    task.set_cpu_request(params.pipeline.cpu).set_cpu_limit(params.pipeline.cpu)
    task.set_memory_request(params.pipeline.memory).set_memory_limit(params.pipeline.memory)
    if params.pipeline.retries:
        task.set_retry(params.pipeline.retries, backoff_duration=BACKOFF)
    return task


def _on_accelerator(task: dsl.PipelineTask, params: Params) -> dsl.PipelineTask:
    pipeline = params.pipeline
    if pipeline.accelerator:
        task.set_accelerator_type(pipeline.accelerator).set_accelerator_limit(pipeline.accelerator_count)
    for label, value in pipeline.node_selector.items():
        kubernetes.add_node_selector(task, label, value)
    for toleration in pipeline.tolerations:
        kubernetes.add_toleration(task, **toleration.model_dump())
    return task


def _name(params: Params) -> str:
    """Return the model's name in the letters that KFP takes for a pipeline."""
    return re.sub("[^a-z0-9]+", "-", params.base.model_name)


def _check(params: Params) -> None:
    came = len(params.train.architectures)
    if came > components.MAX_MODELS:
        raise Refused(
            f"train.architectures: a Kubeflow pipeline takes at most {components.MAX_MODELS} side by side, got {came}; "
            "name fewer, or add inputs to evaluate and register in medloop/components.py"
        )
    workspace.check_names(params)
