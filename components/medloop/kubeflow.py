"""What a Kubeflow step adds to a stage: a readable failure, and what the KFP UI shows of the outputs."""

import json
import logging
import os
import shutil
import sys
import traceback
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medloop import __version__, failures, provenance
from medloop.errors import Refused

VERSION = "MEDLOOP_PIPELINE_VERSION"  # of the medloop that compiled the pipeline; a step's image may hold another
log = logging.getLogger(__name__)
ROC_POINTS = 200  # the UI draws each of them, and KFP keeps them as metadata


@contextmanager
def step(name: str) -> Iterator[None]:
    """End the process with one message where a stage fails, and without a traceback, as the command line does.

    The message is left for the step that notifies, under the step's `name`.
    """
    logging.raiseExceptions = False  # else a closed log prints a traceback, with the text of all errors on the way
    try:
        _check_version()
        yield
        failures.withdraw(name)
    except Refused as error:
        print(f"medloop: {error}", file=sys.stderr)  # noqa: T201
        failures.leave(name, str(error))
        sys.exit(error.exit_code)
    except Exception as error:  # its text may hold a patient's name, and a step's log is open to the whole team
        where = " > ".join(f"{frame.name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)[1:])
        print(f"medloop: unexpected {type(error).__name__} in {where}", file=sys.stderr)  # noqa: T201
        failures.leave(name, f"unexpected {type(error).__name__} in {where}")
        sys.exit(1)


def _check_version() -> None:
    """Refuse to run in an image of another medloop than the one that compiled the pipeline."""
    compiled = os.environ.get(VERSION) or __version__
    if compiled != __version__:
        raise Refused(
            f"this image holds medloop {__version__}, the pipeline was compiled by medloop {compiled}: name images of "
            f"{compiled} under pipeline.images, or compile and submit it with medloop {__version__}"
        )


def describe(artifact: Any, **facts: str) -> None:
    """Give a KFP artifact the digest of its folder, and `facts`, as metadata."""
    artifact.metadata |= {"digest": provenance.digest(Path(artifact.path)), **facts}


def data(samples: Any) -> dict[str, str]:
    """Return the hash of the data that a KFP artifact of samples was made of, where there was any."""
    found = provenance.read_lineage(Path(samples.path)).get("data_hash")
    return {"data_hash": found} if found else {}


def kept(name: str) -> Path | None:
    """Return where runs keep their latest samples for the next one: in $MEDLOOP_STATE, which all steps share."""
    return Path(os.environ.get("MEDLOOP_STATE") or ".medloop") / "samples" / name if name else None


def keep(samples: Path, name: str) -> None:
    """Keep a copy of the samples, or links to its files, in place of what was kept before under the name."""
    if (place := kept(name)) is None:
        return
    partial = place.with_name(f".{name}.{uuid.uuid4().hex}")
    try:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.copytree(samples, partial, copy_function=_link_or_copy)
        provenance.replace(partial, place)
    except (OSError, shutil.Error) as error:  # no room, or another run keeps its own: this one has done its work
        log.warning("The samples are not kept for the next run (%s).", getattr(error, "strerror", None) or "not copied")
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # on another disk, say
        shutil.copyfile(source, target)


def show(artifact: Any, result: Mapping[str, Any]) -> None:
    """Give a KFP artifact what `register` returned, as its content and as metadata, the origin flat."""
    known = {**{name: value for name, value in result.items() if name != "origin"}, **result["origin"]}
    provenance.write_json(Path(artifact.path), known)
    artifact.metadata |= known


def by_architecture(*models: Any) -> dict[str, Path]:
    """Return the folders of the KFP models that are there."""
    return {model.metadata["architecture"]: Path(model.path) for model in models if model is not None}


def table_of_checks(validation: Path) -> str:
    """Return the result of `validate` as a Markdown table."""
    result = json.loads((validation / "result.json").read_text())
    rows = [
        f"| {check['name']} | {check['level']} | {'passed' if check['success'] else 'FAILED'} "
        f"| {_cell(check['observed'])} | {_cell(check['wanted'])} |"
        for check in result["checks"]
    ]
    return "\n".join(["| check | level | result | observed | wanted |", "|---|---|---|---|---|", *rows, ""])


def test_metrics(evaluation: Path) -> dict[str, float]:
    """Return the metrics on the test set, each with the ends of its interval; undefined ones are left out."""
    metrics = json.loads((evaluation / "metrics.json").read_text())["test"]
    named = {
        name if end == "value" else f"{name}_{end}": value[end]
        for name, value in metrics.items()
        for end in ("value", "low", "high")
    }
    return {name: value for name, value in named.items() if value is not None}


def has_roc_curve(evaluation: Path) -> bool:
    """Tell whether one of the model's classes is the positive one."""
    return "positive_class" in json.loads((evaluation / "card.json").read_text())


def has_confusion_matrix(evaluation: Path) -> bool:
    """Tell whether the model decides on one class of several for each sample."""
    import pyarrow.parquet as pq

    return "decision" in pq.read_schema(evaluation / "predictions.parquet").names


def roc_curve(evaluation: Path) -> tuple[list[float], list[float], list[float]]:
    """Return false positive rates, true positive rates and thresholds of the positive class on the test set."""
    import numpy as np

    predictions, card = _predictions(evaluation)
    positive = card["classes"].index(card["positive_class"])
    score = predictions[f"p_{positive}"].to_numpy()
    truth = predictions["label"].to_numpy() == positive
    thresholds = np.quantile(score, np.linspace(1, 0, ROC_POINTS), method="nearest")
    thresholds = np.concatenate([[1.0 + 1e-9], np.unique(thresholds)[::-1]])  # from no alarm at all to alarms alone
    alarm = score >= thresholds[:, None]  # (T, N)
    return alarm[:, ~truth].mean(axis=1).tolist(), alarm[:, truth].mean(axis=1).tolist(), thresholds.tolist()


def confusion_matrix(evaluation: Path) -> tuple[list[str], list[list[int]]]:
    """Return the classes, and how many test samples of each (rows) were decided as each (columns)."""
    import numpy as np

    predictions, card = _predictions(evaluation)
    matrix = np.zeros((len(card["classes"]),) * 2, int)
    np.add.at(matrix, (predictions["label"].to_numpy(), predictions["decision"].to_numpy()), 1)
    return card["classes"], matrix.tolist()


def _predictions(evaluation: Path) -> tuple[Any, dict[str, Any]]:
    import pandas as pd

    return pd.read_parquet(evaluation / "predictions.parquet"), json.loads((evaluation / "card.json").read_text())


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
