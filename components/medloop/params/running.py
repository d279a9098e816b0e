"""The parameters that say where and when the stages run: `pipeline:` and `schedule:`."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from medloop import cron
from medloop.params.section import UNSHOWN, Name, Section
from medloop.params.stages import Stage

Channel = Literal["webhook", "slack", "email"]
KubernetesName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,252}$")]
SECRET_VARIABLE = re.compile("SECRET|PASS|PWD|TOKEN|CREDENTIAL|_KEY$|APIKEY|CONNECTION_STRING|(?<!ENDPOINT)_URL$")
WITH_PASSWORD = re.compile(r"https?://[^/@]+@|\w+://[^/@]*:[^/@]*@")


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
    secret: KubernetesName = Field(
        "medloop-notify",
        description="Kubernetes secret that holds the variables of the channels, e.g. MEDLOOP_WEBHOOK_URL",
    )


class Trainer(Section):
    """`pipeline.trainer:`, where Kubeflow Trainer finds what `train.nodes` above 1 needs."""

    runtime: KubernetesName = Field("medloop-train", description="TrainingRuntime, in the run's namespace")
    claim: KubernetesName = Field("medloop-train", description="ReadWriteMany volume that nodes share")


class TrainJob(Section):
    """What the step `train` needs to know beside its parameters when it starts a TrainJob."""

    runtime: str
    image: str
    cpu: str
    memory: str
    accelerator: str | None = None
    environment: dict[str, str] = Field({})


class Pipeline(Section):
    """`pipeline:`, how Kubeflow runs the stages."""

    accelerator: str | None = Field(None, description="resource name of a GPU, e.g. nvidia.com/gpu; null: none")
    accelerator_count: int = Field(1, ge=1, le=16)
    node_selector: dict[str, str] = Field({}, description="labels that a training node must carry")
    tolerations: tuple[Toleration, ...] = Field((), description="taints that a training task puts up with")
    cpu: str = Field("2", pattern=r"^\d+(\.\d+)?m?$", description="cores a task may use")
    memory: str = Field("8Gi", pattern=r"^\d+(\.\d+)?([KMGT]i?)?$", description="bytes a task may use")
    retries: int = Field(1, ge=0, le=10)
    shards: int = Field(1, ge=1, le=1000, description="steps side by side that ingest and preprocess are cut into")
    experiment: str = Field("medloop", min_length=1, max_length=128, description="that runs and schedules belong to")
    images: dict[Stage, str] = Field(
        {}, description="by stage: image reference in place of the default; one by digest may be cached"
    )
    environment: dict[str, str] = Field(
        {}, description="variables of every step, e.g. MLFLOW_TRACKING_URI; no secret, for Kubeflow shows them"
    )
    secrets: dict[KubernetesName, tuple[str, ...]] = Field(
        {}, description="by Kubernetes secret: its keys, each one a variable of every step, e.g. AWS_SECRET_ACCESS_KEY"
    )
    key_secret: KubernetesName | None = Field(
        None, description="Kubernetes secret whose key pseudonym.key is the pseudonym key; null: for data/none alone"
    )
    state_claim: KubernetesName | None = Field(
        None, description="volume claim that every step mounts as $MEDLOOP_STATE; null: nothing outlives a step"
    )
    notify: Notify = Notify()
    trainer: Trainer = Trainer()

    @field_validator("environment")
    @classmethod
    def _no_secret(cls, variables: dict[str, str]) -> dict[str, str]:
        for name, value in variables.items():
            if SECRET_VARIABLE.search(name) or WITH_PASSWORD.search(value):
                problem = (
                    f"{name} looks like a secret, and Kubeflow shows variables: name its secret in pipeline.secrets"
                )
                raise PydanticCustomError(UNSHOWN, problem)
        return variables


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
        if self.start and self.end and self.after(self.start - timedelta(microseconds=1)) is None:
            window = f"{_shown(self.start)} and {_shown(self.end)}"
            raise ValueError(f"schedule {self.name} has no firing between start and end: {self.cron!r}, {window}")
        return self

    def over(self, now: datetime) -> str | None:
        """Return why it does not fire after `now`, and what to do; None: it does."""
        if self.after(now) is not None:
            return None
        ended = self.end is not None and self.end <= now
        why = "it ended at" if ended else "there is no firing between now and its end,"
        return f"{why} {_shown(self.end) if self.end else 'never'}: move its end, or take it out of params.yaml"

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


def _shown(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
