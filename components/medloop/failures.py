"""What went wrong in a pipeline run, left by the step where it did: Kubeflow tells the last step only that one failed.

Notes lie in $MEDLOOP_STATE, which all steps of a run share. A run is known by $MEDLOOP_RUN, on a cluster by the part
that the names of its pods have in common.
"""

import json
import logging
import os
import re
import shutil
from pathlib import Path

POD = "KFP_POD_NAME"
log = logging.getLogger(__name__)


def leave(step: str, reason: str) -> None:
    """Write down why a step of this run failed; outside of any run nothing is written.

    Where the state cannot be written to, that is said in the log, and the step ends as it would have.
    """
    folder = _folder()
    if folder is None:
        return
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = folder / f".{step}.{os.getpid()}"
        partial.write_text(json.dumps({"step": step, "reason": reason}))
        partial.replace(folder / f"{step}.json")
    except OSError as error:
        log.warning("No note for the last step: $MEDLOOP_STATE cannot be written to (%s).", error.strerror)


def withdraw(step: str) -> None:
    """Take back what an earlier try of a step left."""
    folder = _folder()
    if folder is not None:
        (folder / f"{step}.json").unlink(missing_ok=True)


def read(folder: Path | None = None) -> list[tuple[str, str]]:
    """Return the failed steps with their reasons: of this run, or of the one whose notes lie in `folder`."""
    folder = folder or _folder()
    notes = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))] if folder else []
    return [(note["step"], note["reason"]) for note in notes]


def clear() -> None:
    """Remove the notes of this run."""
    folder = _folder()
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


def _folder() -> Path | None:
    run = os.environ.get("MEDLOOP_RUN") or re.sub(r"-system-container-.*|-\d+$", "", os.environ.get(POD, ""))
    return Path(os.environ.get("MEDLOOP_STATE") or ".medloop") / "failures" / run if run else None
