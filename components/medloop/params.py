"""The schema of params.yaml: frozen, closed, with units in the descriptions."""

import difflib
import json
import re
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

import yaml
from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from medloop import cron
from medloop.errors import Refused

SCHEMA_VERSION = 1
Stage = Literal["ingest", "validate", "preprocess", "train", "evaluate", "register"]
UNSHOWN = "unshown"  # the kind of problem whose value no message may hold
Channel = Literal["webhook", "slack", "email"]
STAGES: tuple[Stage, ...] = get_args(Stage)

S = TypeVar("S", bound="Section")
Side = Annotated[int, Field(ge=1, le=4096)]
Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_+-]*$", max_length=64)]


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


class Section(BaseModel):
    """A part of params.yaml: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Base(Section):
    """`base:`, what every stage shares."""

    task: Name = Field("classification", description="a file of medloop/tasks")
    dataset: Name = Field("phantom", description="names the registered model: medloop-{task}-{dataset}")
    seed: int = Field(0, ge=0, lt=2**31, description="of everything random: phantom, weights, sample order, bootstrap")

    @property
    def model_name(self) -> str:
        return f"medloop-{self.task}-{self.dataset}"


class Split(Section):
    """`ingest.split:`, for sources without an official split: a hash of the patient's id decides."""

    salt: str = Field("medloop-1", min_length=1, description="public; changing it changes every patient's side")
    val: float = Field(0.15, gt=0, lt=1, description="share of patients")
    test: float = Field(0.25, gt=0, lt=1, description="share of patients")

    @model_validator(mode="after")
    def _leave_some_for_training(self) -> Self:
        if self.val + self.test >= 1:
            raise ValueError(f"val + test must stay below 1, got {self.val} + {self.test}")
        return self


class LeakThresholds(Section):
    """`ingest.leak_thresholds:`, when two images count as the same one."""

    candidate: float = Field(
        0.68, gt=0, lt=1, description="correlation of short descriptors above which a pair is compared on its pixels"
    )
    correlation: float = Field(0.95, gt=0, le=1, description="of the aligned pixels; both this and detail confirm")
    detail: float = Field(
        0.81, gt=0, le=1, description="correlation of the aligned images once their smooth part is taken away"
    )


class DvcReference(Section):
    """`ingest.dvc:`, data of a DVC project at one revision; DVC's own configuration says how to reach its remote."""

    repo: str = Field(min_length=1, description="address or path of the Git repository, as git takes it")
    path: str = Field(min_length=1, description="folder of the data in it")
    rev: str = Field(min_length=1, description="commit or tag; `dvc repro` does not see a branch move")

    @field_validator("repo")
    @classmethod
    def _without_a_secret(cls, repo: str) -> str:
        if re.match(r"\w+://[^/@]*:[^/@]*@", repo):
            problem = "repo must not hold a password or token, for parameters are shown: use SSH or a credential helper"
            raise PydanticCustomError(UNSHOWN, problem)
        return repo


class Ingest(Section):
    """`ingest:`"""

    source: Name = Field("phantom", description="a file of medloop/sources")
    root: Annotated[str, BeforeValidator(_text)] = Field(
        "data/none",
        description="folder that the source reads, here or as s3://BUCKET/PREFIX; data/none for none, or with dvc",
    )
    dvc: DvcReference | None = Field(None, description="in place of root: repo, path and rev of a DVC project's data")
    options: dict[str, dict[str, Any]] = Field({}, description="by source: what its own `Options` declares")
    split: Split = Split()
    leaks: Literal["refuse", "drop", "report"] = Field("refuse", description="what happens to samples on two sides")
    leak_thresholds: LeakThresholds = LeakThresholds()
    max_rejected: Share = Field(0.0, description="share of samples that may be unreadable before the run stops")
    workers: int = Field(0, ge=0, description="decoding processes; 0: one per core")

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        scheme, address, _ = self.root.partition("://")
        if address and (scheme != "s3" or not re.match("s3://[^/]+(/|$)", self.root)):
            raise ValueError(f"root must be a local path or s3://BUCKET/PREFIX, got {self.root}")
        if self.dvc and self.root != "data/none":
            raise ValueError(f"with dvc the root must be data/none, got {self.root}")
        return self


class Validate(Section):
    """`validate:`"""

    suite: Name = Field("image", description="a file of medloop/expectations")
    min_samples_per_class: int = Field(5, ge=1, description="in every split; fewer is critical")
    min_class_share: Share = Field(0.05, description="of the rarest class in train; less is a warning")
    max_missing: Share = Field(
        0.2, description="share of nulls in site, sex, age_years, pixel_spacing_mm; more is a warning"
    )
    max_saturated: Share = Field(
        0.5, description="share of an image's pixels at its minimum or maximum; more is a warning"
    )
    size_px: tuple[int, int] | None = Field(None, description="rows and columns that every sample must have; null: any")
    bit_depths: tuple[int, ...] = Field(tuple(range(8, 17)), description="bits stored that a sample may have")


class Preprocess(Section):
    """`preprocess:`"""

    size_px: tuple[Side, Side] = Field((64, 64), description="rows and columns of the model's input")
    channels: Literal[1, 3] = Field(1, description="1: gray, 3: RGB")
    clip_percentiles: tuple[float, float] = Field(
        (0.0, 100.0), description="of each image; mapped to 0 and 255, (0, 100) keeps the full range of its bit depth"
    )

    @model_validator(mode="after")
    def _low_below_high(self) -> Self:
        low, high = self.clip_percentiles
        if not 0 <= low < high <= 100:
            raise ValueError(f"clip_percentiles must be two of 0 to 100, the lower one first, got {low} and {high}")
        return self


class Augment(Section):
    """`train.augment:`, applied to training samples alone."""

    flip_horizontal: bool = Field(False, description="only where left and right are the same anatomy")
    flip_vertical: bool = Field(False, description="only where up and down are the same anatomy")
    rotate_deg: float = Field(0.0, ge=0, le=180, description="uniform in plus or minus")
    shift: float = Field(0.0, ge=0, lt=0.5, description="share of height and width, uniform in plus or minus")
    zoom: float = Field(0.0, ge=0, lt=0.5, description="share, uniform in plus or minus")
    contrast: float = Field(0.0, ge=0, lt=1, description="share, uniform in plus or minus")
    noise: float = Field(0.0, ge=0, lt=1, description="standard deviation, of the normalised image")


class Train(Section):
    """`train:`"""

    architectures: tuple[Name, ...] = Field(
        ("cnn", "lstm", "attention"), min_length=1, description="files of medloop/models"
    )
    backend: Literal["tensorflow", "jax", "torch", "auto"] = Field(
        "tensorflow", description="Keras backend; auto: per network"
    )
    epochs: int = Field(20, ge=1, le=10_000)
    batch_size: int = Field(32, ge=1, le=65_536)
    learning_rate: float = Field(1e-3, gt=0, le=1)
    schedule: Literal["constant", "cosine"] = Field("constant", description="learning rate over the epochs")
    weight_decay: float = Field(0.0, ge=0, le=1, description="decoupled, AdamW")
    patience: int = Field(
        5, ge=1, description="epochs without a better gating metric on validation before training stops"
    )
    class_weights: Literal["none", "balanced"] = "balanced"
    normalisation: Literal["image", "train", "none"] = Field(
        "image", description="zero mean and unit variance, per image or over train"
    )
    mixed_precision: bool = Field(False, description="mixed_bfloat16")
    require_gpu: bool = Field(False, description="refuse to train without a GPU")
    augment: Augment = Augment()
    hyper: dict[str, dict[str, Any]] = Field({}, description="by architecture: keyword arguments of its `build`")

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len(set(self.architectures)) < len(self.architectures):
            raise ValueError(f"architectures must differ, got {', '.join(self.architectures)}")
        return self

    def only(self, architecture: str) -> "Train":
        """Return the same parameters with what belongs to other architectures left out."""
        hyper = {architecture: self.hyper[architecture]} if architecture in self.hyper else {}
        return self.model_copy(update={"architectures": (architecture,), "hyper": hyper})


class Evaluate(Section):
    """`evaluate:`"""

    target_sensitivity: float = Field(
        0.9, gt=0, lt=1, description="the operating threshold reaches it on validation data"
    )
    positive_class: str | None = Field(None, description="the class that sensitivity speaks of; null: the last one")
    resamples: int = Field(2000, ge=100, le=100_000, description="of the bootstrap over patients")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="of every interval")
    worst_errors: int = Field(12, ge=0, le=100, description="images in the report")


class Register(Section):
    """`register:`"""

    alias: Name = Field("challenger", description="alias of a new version")


class Promote(Section):
    """`promote:`"""

    floor: Share = Field(0.7, description="of the gating metric on test data")
    margin: float = Field(0.02, ge=0, lt=1, description="non-inferiority margin on the gating metric")
    min_samples: int = Field(50, ge=2, description="fewer test patients: cannot decide")
    min_per_class: int = Field(10, ge=1, description="fewer test samples of a class: cannot decide")
    resamples: int = Field(2000, ge=100, le=100_000)
    automatic: bool = Field(False, description="a scheduled run promotes what it registers, if it fulfils all this")


class Toleration(Section):
    """One of `pipeline.tolerations:`, in the words of Kubernetes."""

    key: str | None = Field(None, description="of the taint; null: every taint")
    operator: Literal["Equal", "Exists"] = "Equal"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        None, description="null: every effect"
    )
    toleration_seconds: int | None = Field(None, ge=0, description="of a NoExecute taint; null: for ever")


class Notify(Section):
    """`pipeline.notify:`, who is told how a run ended; addresses and passwords are in the environment alone."""

    channels: tuple[Channel, ...] = Field((), description="none: nobody is told")
    when: Literal["failure", "always"] = "failure"
    secret: str = Field(
        "medloop-notify",
        pattern=r"^[a-z0-9][a-z0-9.-]{0,252}$",
        description="Kubernetes secret that holds the variables of the channels, e.g. MEDLOOP_WEBHOOK_URL",
    )


class Pipeline(Section):
    """`pipeline:`, how Kubeflow runs the stages."""

    accelerator: str | None = Field(None, description="resource name of a GPU, e.g. nvidia.com/gpu; null: none")
    accelerator_count: int = Field(1, ge=1, le=16)
    node_selector: dict[str, str] = Field({}, description="labels that a training node must carry")
    tolerations: tuple[Toleration, ...] = Field((), description="taints that a training task puts up with")
    cpu: str = Field("2", pattern=r"^\d+(\.\d+)?m?$", description="cores a task may use")
    memory: str = Field("8Gi", pattern=r"^\d+(\.\d+)?([KMGT]i?)?$", description="bytes a task may use")
    retries: int = Field(1, ge=0, le=10)
    experiment: str = Field("medloop", min_length=1, max_length=128, description="that runs and schedules belong to")
    images: dict[Stage, str] = Field(
        {}, description="by stage: image reference in place of the default; one by digest may be cached"
    )
    notify: Notify = Notify()


class Schedule(Section):
    """One of `schedule:`, a run that comes back: either by a cron line or by an interval, times in UTC."""

    name: Name = Field(description="of the schedule; no other one has it")
    profile: str | None = Field(None, description="profiles/NAME.yaml, laid over params.yaml; null: none")
    cron: str | None = Field(None, description="Kubeflow's six fields, seconds first, e.g. 0 30 2 * * mon")
    interval_s: int | None = Field(None, ge=1, le=10**8, description="seconds from one run to the next")
    catch_up: bool = Field(False, description="make up for each time that was missed, not just for the last one")
    max_concurrency: int = Field(1, ge=1, le=10, description="runs of this schedule at a time")
    start: AwareDatetime | None = Field(None, description="no run before, e.g. 2027-01-01T00:00:00Z; null: at once")
    end: AwareDatetime | None = Field(None, description="no run after; null: for ever")
    enabled: bool = Field(True, description="false: paused")

    @field_validator("cron")
    @classmethod
    def _six_fields(cls, line: str | None) -> str | None:
        if line is not None:
            cron.parse(line)
        return line

    @model_validator(mode="after")
    def _fires(self) -> Self:
        if (self.cron is None) == (self.interval_s is None):
            raise ValueError(f"schedule {self.name} needs either cron or interval_s")
        if self.start and self.end and self.end <= self.start:
            raise ValueError(f"schedule {self.name} ends before it starts")
        if self.cron is not None and cron.parse(self.cron).after(datetime.now(UTC)) is None:
            raise ValueError(f"schedule {self.name} never fires: there is no day for {self.cron!r}")
        return self

    def after(self, moment: datetime) -> datetime | None:
        """Return the first time to fire after `moment`; None once it has ended.

        An interval is counted from `start`, else from 1970, so that two who count it come to the same times.
        """
        if self.start and moment < self.start:
            moment = self.start - timedelta(microseconds=1)
        if self.cron is not None:
            found = cron.parse(self.cron).after(moment)
        else:
            origin, step = self.start or datetime.fromtimestamp(0, UTC), timedelta(seconds=self.interval_s or 1)
            found = origin + ((moment - origin) // step + 1) * step
        return None if found is None or (self.end and found > self.end) else found


with warnings.catch_warnings():  # pydantic warns that `validate` and `register` are names of its own classes
    warnings.simplefilter("ignore", UserWarning)

    class Params(Section):
        """The whole of params.yaml."""

        schema_version: Literal[1]
        base: Base = Base()
        ingest: Ingest = Ingest()
        validate: Validate = Validate()  # type: ignore[assignment]
        preprocess: Preprocess = Preprocess()
        train: Train = Train()
        evaluate: Evaluate = Evaluate()
        register: Register = Register()
        promote: Promote = Promote()
        pipeline: Pipeline = Pipeline()
        schedule: tuple[Schedule, ...] = ()

        @field_validator("schedule")
        @classmethod
        def _each_name_once(cls, schedules: tuple[Schedule, ...]) -> tuple[Schedule, ...]:
            names = [each.name for each in schedules]
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"two schedules are named {twice[0]!r}")
            return schedules


def read(path: Path = Path("params.yaml")) -> Params:
    """Return the checked parameters in `path`.

    Raises:
        Refused: the file is missing, is no YAML, or a key or value does not fit the schema.
    """
    return check(mapping(path), where=str(path))


def overlaid(path: Path, profile: Path) -> dict[str, Any]:
    """Return the mapping in `path` with the mapping in `profile` laid over it, key by key, checked by the schema."""
    merged = merge(mapping(path), mapping(profile))
    check(merged, where=str(profile))
    return merged


def check(content: dict[str, Any], *, where: str) -> Params:
    """Return `content` as parameters; raise Refused, naming the keys in `where` that do not fit."""
    return checked(Params, content, where=where)


def checked(kind: type[S], content: dict[str, Any], *, where: str) -> S:
    """Return `content` as a section of `kind`; raise Refused, naming the keys in `where` that do not fit."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise Refused("\n".join(f"{where}: {_readable(kind, problem)}" for problem in error.errors())) from None


def dump(base: Base, section: Section) -> str:
    """Return what one stage reads, as the JSON string that a Kubeflow task is given."""
    return json.dumps(
        {"base": base.model_dump(mode="json"), "section": section.model_dump(mode="json")}, sort_keys=True
    )


def parse(text: str, kind: type[S]) -> tuple[Base, S]:
    """Return the two sections that `dump` wrote."""
    content = json.loads(text)
    return Base.model_validate(content["base"]), kind.model_validate(content["section"])


def describe(content: dict[str, Any]) -> str:
    """Return one line a parameter: key, value, meaning."""
    return "\n".join(_described(check(content, where="params.yaml"), ""))


def mapping(path: Path) -> dict[str, Any]:
    """Return the keys and values in `path`, not yet checked."""
    try:
        content = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise Refused(f"no file {path}: run this from the project's folder") from None
    except yaml.YAMLError as error:
        raise Refused(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise Refused(f"{path} must hold keys and values, got {type(content).__name__}")
    return content


def _described(section: Section, prefix: str) -> Iterator[str]:
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from _described(value, f"{prefix}{name}.")
        else:
            shown = json.dumps(value, default=str)
            yield f"{prefix}{name}: {shown}" + (f"  # {field.description}" if field.description else "")


def merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return `over` laid over `under`, key by key."""
    merged = dict(under)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def _readable(kind: type[BaseModel], problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] != "extra_forbidden":
        message = problem["msg"].removeprefix("Value error, ")
        # a section's message says what came
        told = problem["type"] in ("missing", UNSHOWN) or isinstance(problem["input"], dict)
        return (f"{key}: " if key else "") + message + ("" if told else f", got {problem['input']!r}")
    known = _keys_beside(kind, problem["loc"])
    near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
    return f"unknown parameter {key}; {hint}"


def _keys_beside(section: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    for part in location[:-1]:
        inner = section.model_fields[part].annotation if part in section.model_fields else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        section = inner
    return sorted(section.model_fields)
