"""What a run and a version say of themselves on the tracking server: facts that follow from the files, and origins.

A fact can be computed again from what was logged. An origin (commit, data, images, the Kubeflow run) says where the
files came from.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from typing import Any

from medloop import params, provenance
from medloop.errors import Refused

DIGEST = "medloop.model_digest"
LINEAGE = "medloop.lineage_sha256"
DATA = "medloop.data_hash"
IMAGES = "medloop.image_digests"
COMMIT = "medloop.git_commit"
KUBEFLOW = "medloop.kfp_run_id"
WATERMARK = "medloop.watermark"  # of the data, as a scheduled run saw it before it began
SETTINGS = "medloop.settings"  # digest of the parameters and images of a scheduled run
LATEST = (KUBEFLOW, WATERMARK, SETTINGS)  # of the latest run that came to the same result
ORIGIN = (LINEAGE, DATA, IMAGES, COMMIT, *LATEST)
VERDICT = "medloop.verdict"  # of a version: how it compared with the champion, last
PENDING = "pending"  # in place of a verdict: a scheduled run came to this version, and has not compared it yet
CODE = ("components", "pipelines")


def facts(
    base: params.Base,
    lineage: Mapping[str, Any],
    card: Mapping[str, Any],
    metrics: Mapping[str, Any],
    validation: Mapping[str, Any],
) -> dict[str, str]:
    """Return the tags that follow from an evaluation's lineage, final card and metrics, and from validation's result.

    Raises:
        Refused: the lineage does not lead back to any samples.
    """
    samples, ingest = ingested(lineage)
    found = metrics["test"][metrics["gate"]]
    interval = {f"medloop.gate_{end}": repr(found[end]) for end in ("value", "low", "high") if found[end] is not None}
    tags = {
        DIGEST: provenance.model_digest(dict(card)),
        "medloop.architecture": card["architecture"],
        "medloop.task": base.task,
        "medloop.classes": json.dumps(card["classes"]),
        "medloop.dataset": base.dataset,
        "medloop.dataset_digest": samples,
        "medloop.test_sha256": metrics["test_sha256"],
        "medloop.validation": "passed" if validation["success"] is True else "failed",
        "medloop.leaks": metrics["leaks"]["regime"],
        "medloop.simulated": str(bool(card["simulated"])).lower(),
        "medloop.gate": metrics["gate"],
        **interval,
    }
    return tags | ({"medloop.key_fingerprint": ingest["key_fingerprint"]} if ingest.get("key_fingerprint") else {})


def given(git_commit: str, kfp_run_id: str, watermark: str = "", settings: str = "") -> dict[str, str]:
    """Return the tags that a Kubeflow run gives; what is empty is left out."""
    tags = {COMMIT: git_commit, KUBEFLOW: kfp_run_id, WATERMARK: watermark, SETTINGS: settings}
    return {name: value for name, value in tags.items() if value}


def origin(lineage: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, str]:
    """Return the tags that say where an evaluation came from; what is not known is left out.

    Args:
        lineage: of the evaluation.
        given: tags that a Kubeflow run knows better. Its `COMMIT`, of the project that the pipeline was compiled in,
            is for code that does not know its own.
    """
    images = {step["stage"]: step["image_digest"] for step in [*lineage["upstream"].values(), lineage]}
    images = {stage: digest for stage, digest in images.items() if digest}
    known = {
        LINEAGE: provenance.json_digest(lineage),
        DATA: ingested(lineage)[1].get("data_hash"),
        IMAGES: json.dumps(images, sort_keys=True) if images else None,
        **given,
        COMMIT: commit() or given.get(COMMIT),
    }
    return {name: value for name, value in known.items() if value}


def ingested(lineage: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the digest of the samples and the lineage of the stage that made them; raise Refused without any."""
    for digest, step in lineage["upstream"].items():
        if step["stage"] == "ingest":
            return digest, step
    raise Refused("the evaluation's lineage does not lead back to any samples: run `dvc repro`")


def flat(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the test metrics with their intervals, and the gating metric of every architecture on validation data.

    Of several labels each has its metrics too; what MLflow takes in no name becomes "_".
    """
    flat: dict[str, float | None] = {}
    for name, found in metrics["test"].items():
        flat |= {name: found["value"], f"{name}_low": found["low"], f"{name}_high": found["high"]}
    for label, entry in metrics.get("labels", {}).items():
        named = re.sub(r"[^\w\-. ]", "_", label, flags=re.ASCII)
        flat |= {f"label.{named}.{name}": found["value"] for name, found in entry["metrics"].items()}
    for rival, values in metrics.get("floors", {}).items():
        flat |= {f"floor.{rival}.{name}": found["value"] for name, found in values.items()}
    for architecture, found in metrics["architectures"].items():
        flat[f"validation.{architecture}.{metrics['gate']}"] = found[metrics["gate"]]["value"]
    return {name: value for name, value in flat.items() if value is not None}


def commit() -> str | None:
    """Return the commit of this code: $MEDLOOP_GIT_COMMIT of an image, else of the working folder where git knows one.

    It ends in -dirty where a file of the code differs from the commit.
    """
    if named := os.environ.get("MEDLOOP_GIT_COMMIT"):
        return named
    head = _git("rev-parse", "HEAD")
    return head and head + ("-dirty" if _git("status", "--porcelain", "--", *CODE) else "")


def _git(*arguments: str) -> str | None:
    git = shutil.which("git")
    if git is None:
        return None
    asked = subprocess.run([git, *arguments], capture_output=True, text=True, check=False)
    return asked.stdout.strip() if asked.returncode == 0 else None
