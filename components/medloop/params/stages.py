"""The parameters that decide results: `base:`, one section a stage, and `promote:`."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from medloop.params.section import UNSHOWN, Name, Section, Share

Stage = Literal["ingest", "validate", "preprocess", "train", "evaluate", "register"]
STAGES: tuple[Stage, ...] = get_args(Stage)
Side = Annotated[int, Field(ge=1, le=4096)]
Edge = Annotated[int, Field(ge=2, le=512)]
Spacing = Annotated[float, Field(gt=0, le=100)]


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


class Base(Section):
    """`base:`, what every stage shares."""

    task: Name = Field("classification", description="a file of medloop/tasks")
    kind: Name = Field("image", description="of sample, a file of medloop/kinds; the source must hold such samples")
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
        if re.match(r"https?://[^/@]+@|\w+://[^/@]*:[^/@]*@", repo):
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
    question: str | None = Field(None, description="the clinical one that the data set stands for: of card and report")
    order: tuple[str, ...] | None = Field(
        None, description="the classes from the lowest to the highest, for task ordinal; null: as the source has them"
    )
    leaks: Literal["refuse", "drop", "report"] = Field("refuse", description="what happens to samples on two sides")
    leak_thresholds: LeakThresholds = LeakThresholds()
    max_rejected: Share = Field(0.0, description="share of samples that may be unreadable before the run stops")
    workers: int = Field(0, ge=0, description="decoding processes; 0: one per core")

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        scheme, mark, address = self.root.partition("://")
        if scheme == "s3" and "@" in address.partition("/")[0]:
            problem = "root must not hold an access key, for parameters are shown: AWS_ACCESS_KEY_ID and its secret do"
            raise PydanticCustomError(UNSHOWN, problem)
        if mark and (scheme != "s3" or not re.match("s3://[^/]+(/|$)", self.root)):
            raise ValueError(f"root must be a local path or s3://BUCKET/PREFIX, got {self.root}")
        if self.dvc and self.root != "data/none":
            raise ValueError(f"with dvc the root must be data/none, got {self.root}")
        return self


class Validate(Section):
    """`validate:`"""

    suite: Name = Field("image", description="a file of medloop/expectations")
    min_samples_per_class: int = Field(
        5, ge=0, description="in every split; fewer is critical; 0, for task multilabel: some labels may be absent"
    )
    min_class_share: Share = Field(0.05, description="of the rarest class in train; less is a warning")
    max_missing: Share = Field(0.2, description="share of nulls in site, sex, age_years, spacing_mm; more is a warning")
    max_saturated: Share = Field(
        0.5, description="share of an image's pixels at its minimum or maximum; more is a warning"
    )
    max_empty: Share = Field(0.5, description="share of masks without any object; more is a warning")
    size_px: tuple[int, int] | None = Field(None, description="rows and columns that every sample must have; null: any")
    bit_depths: tuple[int, ...] = Field(tuple(range(8, 17)), description="bits stored that a sample may have")


class Windows(Section):
    """`preprocess.sequence:`, for samples of kind sequence."""

    window: int | None = Field(None, ge=1, description="moments of the model's input; null: each sample whole")
    stride: int = Field(1, ge=1, description="moments from one window to the next, both within one sample")
    horizon: int = Field(
        0, ge=0, description="moments from a window's end to the value of the first lead to predict; 0: none"
    )
    unequal: Literal["refuse", "pad"] = Field(
        "refuse", description="samples of unequal length without a window; pad: zeros, and a channel that tells them"
    )
    block: int = Field(
        1800, ge=1, description="moments that the bootstrap draws together, of recordings that are split in time"
    )

    @model_validator(mode="after")
    def _horizon_of_a_window(self) -> Self:
        if self.horizon and self.window is None:
            raise ValueError(f"a horizon needs a window to follow, got horizon {self.horizon} and no window")
        return self


class Volumes(Section):
    """`preprocess.volume:`, for samples of kind volume."""

    size: tuple[Edge, Edge, Edge] = Field(
        (32, 32, 32), description="voxels of the model's input: depth (up), height (to the front), width (to the right)"
    )
    spacing_mm: tuple[Spacing, Spacing, Spacing] | None = Field(
        None, description="resampled to it, then cut or padded about the middle; null: scaled to fit whole, as cubes"
    )
    channels: Literal[1] = Field(1, description="gray")
    window: tuple[float, float] | None = Field(
        None, description="values that become 0 and 255, e.g. Hounsfield units; null: clip_percentiles say them"
    )
    clip_percentiles: tuple[float, float] = Field((0.0, 100.0), description="of each volume, where there is no window")
    anisotropic: Literal["refuse", "keep"] = Field(
        "refuse", description="voxels with unequal sides without spacing_mm; keep: as if they were cubes"
    )
    missing: Literal["refuse", "keep"] = Field(
        "refuse", description="voxels of unknown spacing; keep: as if they had spacing_mm, or were cubes"
    )

    @model_validator(mode="after")
    def _low_below_high(self) -> Self:
        low, high = self.clip_percentiles
        if not 0 <= low < high <= 100:
            raise ValueError(f"clip_percentiles must be two of 0 to 100, the lower one first, got {low} and {high}")
        if self.window and not self.window[0] < self.window[1]:
            raise ValueError(f"window must be two values, the lower one first, got {list(self.window)}")
        return self


class Tables(Section):
    """`preprocess.table:`, for samples of kind table; all that is fitted is fitted on train."""

    missing: Literal["refuse", "median", "indicator"] = Field(
        "refuse", description="values that are missing; median: it takes their place; indicator: and a number tells it"
    )
    categorical: tuple[str, ...] = Field((), description="variables whose numbers name a category: one column for each")
    clip: tuple[float, float] | None = Field(None, description="least and greatest value, before the logarithm")
    log1p: bool = Field(False, description="log(1 + x) of what is not categorical")
    standardise: Literal["none", "record"] = Field(
        "none", description="record: each to zero mean and unit variance over its numbers, as is done with microarrays"
    )
    most_varied: int | None = Field(None, ge=1, description="keep so many of these, whose variance is largest")
    resamples: int = Field(100, ge=0, description="halves of the patients that rank the variables; 0: no ranking")

    @model_validator(mode="after")
    def _low_below_high(self) -> Self:
        if self.clip and not self.clip[0] < self.clip[1]:
            raise ValueError(f"clip must be two values, the lower one first, got {list(self.clip)}")
        if self.clip and self.log1p and self.clip[0] <= -1:
            raise ValueError(f"clip must lie above -1 where logarithms are taken, got {list(self.clip)}")
        return self


class Preprocess(Section):
    """`preprocess:`"""

    table: Tables = Tables()
    sequence: Windows = Windows()
    volume: Volumes = Volumes()
    size_px: tuple[Side, Side] = Field((64, 64), description="rows and columns of the model's input")
    channels: Literal[1, 3] = Field(1, description="1: gray, 3: RGB")
    clip_percentiles: tuple[float, float] = Field(
        (0.0, 100.0), description="of each image; mapped to 0 and 255, (0, 100) keeps the full range of its bit depth"
    )
    larger: Literal["resize", "slide"] = Field(
        "resize", description="of masks and boxes: images are fitted into one input, or taken in windows of its size"
    )
    overlap: float = Field(0.5, ge=0, le=0.9, description="share of a window that its neighbour covers, for slide")

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
    crop: float = Field(
        0.0, ge=0, lt=0.9, description="share of height and width cut off at most, uniform; the rest is enlarged to all"
    )
    elastic: float = Field(
        0.0, ge=0, lt=0.1, description="share of height and width by which 3 x 3 places move, uniform in plus or minus"
    )
    contrast: float = Field(0.0, ge=0, lt=1, description="share, uniform in plus or minus")
    noise: float = Field(0.0, ge=0, lt=1, description="standard deviation, of the normalised image")


class Views(Section):
    """`train.tta:`, views of an image whose logits are averaged; part of the model, wherever it is used."""

    flip_horizontal: bool = Field(False, description="and each view mirrored; only where left and right look alike")
    flip_vertical: bool = Field(False, description="and each view upside down; only where up and down look alike")
    shift_px: int = Field(
        0, ge=0, le=64, description="four more, moved up, down, left and right, edges repeated; 0: none"
    )


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
    keep: Literal["best", "last"] = Field(
        "best",
        description="the epoch whose weights are the model; last: where few patients validate, the best one is chance",
    )
    class_weights: Literal["none", "balanced"] = Field(
        "balanced",
        description="every class counts the same in the loss; under balanced sampling it does anyway; of several "
        "labels, those with each and those without it; task segmentation has Dice for it, detection focal loss",
    )
    sampling: Literal["natural", "balanced"] = Field(
        "natural", description="balanced: an epoch shows as many samples of every class, rare ones several times"
    )
    loss: Literal["cross_entropy", "focal"] = Field(
        "cross_entropy",
        description="focal: what the network is sure of counts less; task segmentation adds soft Dice to either, "
        "detection takes focal loss always",
    )
    focal_gamma: float = Field(2.0, ge=0, le=10, description="how much less, for loss focal")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of each label that goes to all classes alike")
    mixup: float = Field(
        0.0, ge=0, le=10, description="alpha: mixes each image and label with another's by Beta(alpha, alpha); 0: none"
    )
    ema: float = Field(
        0.0, ge=0, lt=1, description="decay a step of the average of weights that is validated and saved; 0: none"
    )
    normalisation: Literal["image", "sample", "train", "clipped", "none"] = Field(
        "image",
        description="zero mean and unit variance, per sample (image says the same) or over train; clipped: over train, "
        "and what lies beyond all of train is held at its utmost",
    )
    mixed_precision: bool = Field(False, description="mixed_bfloat16")
    require_gpu: bool = Field(False, description="refuse to train without a GPU")
    nodes: int = Field(1, ge=1, le=1024, description="hosts that share every batch; more than one: Kubeflow Trainer")
    gpus_per_node: int = Field(0, ge=0, le=64, description="GPUs of each node that share its part; 0: one device")
    members: int = Field(
        1, ge=1, le=100, description="networks of one architecture, base.seed and up, whose mean is the model"
    )
    folds: int = Field(
        0, ge=0, le=20, description="members trained by cross-validation on train and validation data; 0: none"
    )
    augment: Augment = Augment()
    tta: Views = Views()
    hyper: dict[str, dict[str, Any]] = Field({}, description="by architecture: keyword arguments of its `build`")

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len(set(self.architectures)) < len(self.architectures):
            raise ValueError(f"architectures must differ, got {', '.join(self.architectures)}")
        return self

    @model_validator(mode="after")
    def _seeds_or_folds(self) -> Self:
        if self.folds == 1 or (self.folds and self.members > 1):
            raise ValueError(
                "folds must be 0 or at least 2, and members 1 with them, for each fold makes one; "
                f"got folds {self.folds}, members {self.members}"
            )
        return self

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.devices == 1:
            return self
        if self.backend not in ("jax", "auto"):
            raise ValueError(
                f"nodes {self.nodes} and gpus_per_node {self.gpus_per_node} need backend jax or auto, "
                f"got {self.backend}, which trains on one device here"
            )
        if self.batch_size % self.devices:
            raise ValueError(
                f"batch_size must be a multiple of the {self.devices} devices that share it "
                f"(nodes {self.nodes}, gpus_per_node {self.gpus_per_node}), got {self.batch_size}"
            )
        return self

    @property
    def devices(self) -> int:
        """The devices that share every batch, on all nodes together."""
        return self.nodes * max(1, self.gpus_per_node)

    def only(self, architecture: str) -> "Train":
        """Return the same parameters with what belongs to other architectures left out."""
        hyper = {architecture: self.hyper[architecture]} if architecture in self.hyper else {}
        return self.model_copy(update={"architectures": (architecture,), "hyper": hyper})


class Evaluate(Section):
    """`evaluate:`"""

    target_sensitivity: float | None = Field(
        0.9, gt=0, lt=1, description="the threshold reaches it on validation data; null: the likeliest class is decided"
    )
    positive_class: str | None = Field(None, description="the class that sensitivity speaks of; null: the last one")
    resamples: int = Field(2000, ge=100, le=100_000, description="of the bootstrap over patients")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="of every interval")
    worst_errors: int = Field(12, ge=0, le=100, description="images in the report")
    tolerance_px: float = Field(
        2.0, ge=0, le=100, description="task segmentation: up to which an edge counts as found, pixels of the arrays"
    )
    tolerance_mm: float = Field(2.0, ge=0, le=100, description="likewise in mm, where the spacing is known")


class Register(Section):
    """`register:`"""

    alias: Name = Field("challenger", description="alias of a new version")


class Promote(Section):
    """`promote:`"""

    floor: Share = Field(0.7, description="of the gating metric on test data")
    margin: float = Field(0.02, ge=0, lt=1, description="non-inferiority margin on the gating metric")
    max_kid_ratio: float = Field(
        2.0, ge=0, le=100, description="task generation, in place of floor: KID to test images, of that of train images"
    )
    max_near: Share = Field(
        0.0, description="task generation: share of images nearer to a train image than these are to each other"
    )
    min_samples: int = Field(50, ge=2, description="fewer test patients: cannot decide")
    min_per_class: int = Field(10, ge=1, description="fewer test samples of a class: cannot decide")
    resamples: int = Field(2000, ge=100, le=100_000)
    automatic: bool = Field(
        False, description="a scheduled run promotes what it registers, if it fulfils all this; else it only compares"
    )
