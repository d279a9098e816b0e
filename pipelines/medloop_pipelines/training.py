"""The training loop as a Kubeflow pipeline, built for the parameters that are read when compiling."""

import re
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from kfp import dsl, kubernetes

from medloop import __version__, components, evidence, kubeflow, provenance, workspace
from medloop.errors import Refused
from medloop.fetching import data
from medloop.notify import VARIABLES
from medloop.params import STAGES, Params, Pipeline, Section, Stage, TrainJob, dump
from medloop.trainer import SHARED
from medloop_pipelines import images

BACKOFF = "30s"
KEY_FOLDER, STATE_FOLDER = "/var/run/medloop", "/var/lib/medloop"  # in a step's container


def training_pipeline(params: Params, *, scheduled: bool = False, here: bool = False) -> Any:
    """Return the KFP pipeline of `params`; it has no inputs, since its tasks depend on what it was built for.

    Args:
        params: what it is built for.
        here: whether it is for this machine, where what a step writes outlives it.
        scheduled: whether it first looks for anything new, and at the end compares what it registers with the champion.

    Raises:
        Refused: more architectures than the components have inputs for.
    """
    _check(params)

    @dsl.pipeline(name=_name(params), description=description(params))
    def pipeline() -> None:
        with _told_of_its_end(params):
            _scheduled_loop(params, here=here) if scheduled else _loop(params)

    return pipeline


def _scheduled_loop(params: Params, *, here: bool) -> None:
    """Look whether anything is new; if so run the loop, and compare what it registers with the champion."""
    settings = _settings(params)
    look = components.look(params=dump(params.base, params.ingest), settings=settings)
    _dressed(look, images.of("ingest", params.pipeline), params).set_caching_options(False)
    with dsl.If(look.outputs["Output"] != "", name="something-new"):
        kept = params.base.model_name if here or params.pipeline.state_claim else ""
        samples, register = _loop(params, kept, watermark=look.outputs["Output"], settings=settings)
        text = dump(params.base, params.promote)
        promote = components.promote(params=text, version=register.outputs["Output"], samples=samples)
        _dressed(promote, images.of("register", params.pipeline), params).set_caching_options(False)


def _settings(params: Params) -> str:
    """Return a digest of all that decides a result beside the data and the code in an image."""
    sections = {stage: getattr(params, stage).model_dump(mode="json") for stage in STAGES}
    used = {stage: images.of(stage, params.pipeline) for stage in STAGES}
    return provenance.json_digest([params.base.model_dump(mode="json"), sections, used])


def _loop(params: Params, kept: str = "", **origin: Any) -> tuple[Any, dsl.PipelineTask]:
    """Put the stages together, and return the samples and the task that registers.

    Args:
        params: what the stages are told.
        kept: name under which the samples of one run are kept for the next.
        origin: what `register` is told beside them.
    """
    samples = _ingested(params, kept)

    validate = _task("validate", params, samples=samples)
    validation = validate.outputs["validation"]

    preprocess = _preprocessed(params, samples=samples, validation=validation)
    arrays, holdout = preprocess.outputs["arrays"], preprocess.outputs["holdout"]

    trained = [_train(architecture, params, arrays) for architecture in params.train.architectures]
    models = {f"model_{number}": task.outputs["model"] for number, task in enumerate(trained, start=1)}

    evaluate = _task("evaluate", params, holdout=holdout, validation=validation, **models)
    evaluation = evaluate.outputs["evaluation"]

    # The run's id changes from run to run: no step may have it but this one, which never comes out of the cache.
    origin |= {"git_commit": evidence.commit() or "", "kfp_run_id": dsl.PIPELINE_JOB_ID_PLACEHOLDER}
    register = _task("register", params, validation=validation, evaluation=evaluation, **models, **origin)
    return samples, register.set_caching_options(False)  # it asks a server that KFP cannot see


def _ingested(params: Params, kept: str) -> Any:
    """Return the samples; ingest reads a folder that KFP cannot see, and may not come out of its cache."""
    parts = {}
    if params.pipeline.shards > 1:
        with _shards("ingest", params) as shard:
            part = _part("ingest", params, shard, kept=kept).set_caching_options(False)
        parts["parts"] = dsl.Collected(part.outputs["part"])
    return _task("ingest", params, kept=kept, **parts).set_caching_options(False).outputs["samples"]


def _preprocessed(params: Params, **inputs: Any) -> dsl.PipelineTask:
    parts = {}
    if params.pipeline.shards > 1:
        with _shards("preprocess", params) as shard:
            part = _part("preprocess", params, shard, **inputs)
        parts = {f"{name}_parts": dsl.Collected(part.outputs[name]) for name in ("arrays", "holdout")}
    return _task("preprocess", params, **inputs, **parts)


def _shards(stage: Stage, params: Params) -> dsl.ParallelFor:
    return dsl.ParallelFor(list(range(params.pipeline.shards)), name=f"{stage}-shards")


def _part(stage: Stage, params: Params, shard: Any, **inputs: Any) -> dsl.PipelineTask:
    """Return the task of one shard of `stage`, in its image and with its resources."""
    text, component = dump(params.base, getattr(params, stage)), getattr(components, f"{stage}_part")
    task = component(params=text, shard=shard, shards=params.pipeline.shards, **inputs)
    return _dressed(task, images.of(stage, params.pipeline), params)


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
    name, section = f"train-{architecture}", params.train.only(architecture)
    if section.nodes == 1:
        return _on_accelerator(_task("train", params, section=section, arrays=arrays).set_display_name(name), params)
    pipeline = params.pipeline  # the step itself only waits: its nodes have what it would have had
    job = TrainJob(
        runtime=pipeline.trainer.runtime,
        image=images.of("train", pipeline),
        cpu=pipeline.cpu,
        memory=pipeline.memory,
        accelerator=pipeline.accelerator,
        environment=pipeline.environment,
    )
    task = _task("train", params, section=section, arrays=arrays, job=job.model_dump_json()).set_display_name(name)
    return kubernetes.mount_pvc(task, pvc_name=pipeline.trainer.claim, mount_path=SHARED)


def _task(stage: Stage, params: Params, section: Section | None = None, **inputs: Any) -> dsl.PipelineTask:
    """Return the task of `stage`, with the image and the resources that `pipeline:` in params.yaml gives it."""
    text = dump(params.base, section or getattr(params, stage))
    return _dressed(getattr(components, stage)(params=text, **inputs), images.of(stage, params.pipeline), params)


def _dressed(task: dsl.PipelineTask, image: str, params: Params) -> dsl.PipelineTask:
    task.set_container_image(image)
    task.set_env_variable(kubeflow.VERSION, __version__)
    if digest := images.digest(image):
        task.set_env_variable("MEDLOOP_IMAGE_DIGEST", digest)
    else:  # KFP's cache goes by the name of the image, and a tag may have moved
        task.set_caching_options(False)
    _with_what_the_cluster_holds(task, params.pipeline)
    task.set_cpu_request(params.pipeline.cpu).set_cpu_limit(params.pipeline.cpu)
    task.set_memory_request(params.pipeline.memory).set_memory_limit(params.pipeline.memory)
    if params.pipeline.retries:
        task.set_retry(params.pipeline.retries, backoff_duration=BACKOFF)
    return task


def _with_what_the_cluster_holds(task: dsl.PipelineTask, pipeline: Pipeline) -> None:
    """Give a task the variables, secrets and the volume that `pipeline:` names."""
    for name, value in pipeline.environment.items():
        task.set_env_variable(name, value)
    for secret, names in pipeline.secrets.items():
        kubernetes.use_secret_as_env(task, secret, {name: name for name in names})
    if pipeline.key_secret:
        kubernetes.use_secret_as_volume(task, pipeline.key_secret, KEY_FOLDER)
        task.set_env_variable("MEDLOOP_KEY_FILE", f"{KEY_FOLDER}/pseudonym.key")
    if pipeline.state_claim:
        kubernetes.mount_pvc(task, pipeline.state_claim, STATE_FOLDER)
        task.set_env_variable("MEDLOOP_STATE", STATE_FOLDER)


def _on_accelerator(task: dsl.PipelineTask, params: Params) -> dsl.PipelineTask:
    pipeline = params.pipeline
    if pipeline.accelerator:
        count = params.train.gpus_per_node or pipeline.accelerator_count
        task.set_accelerator_type(pipeline.accelerator).set_accelerator_limit(count)
    for label, value in pipeline.node_selector.items():
        kubernetes.add_node_selector(task, label, value)
    for toleration in pipeline.tolerations:
        kubernetes.add_toleration(task, **toleration.model_dump())
    return task


def check_cluster(params: Params, *, scheduled: bool = False) -> None:
    """Refuse parameters under which each step on a cluster makes pseudonyms under its own key, where that matters.

    It does for patients' data, for shards that have to fit together, and for runs that have to know each other's data.
    """
    alone = params.pipeline.shards == 1 and not scheduled
    own = params.ingest.dvc is None and params.ingest.root == str(data.NOTHING)
    if params.pipeline.key_secret is None and not (alone and own):
        raise Refused(
            "pipeline.key_secret must name the Kubernetes secret with the pseudonym key, got null: "
            "kubectl create secret generic medloop-key --from-file=pseudonym.key=FILE, and set it to medloop-key"
        )


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
