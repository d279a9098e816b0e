"""What runs on each node of a TrainJob: the stage `train`, on what the step of the pipeline left in a shared folder."""

import contextlib
import json
import os
import sys
import threading
import time
from pathlib import Path

from medloop import __version__, kubeflow, params
from medloop.errors import Refused
from medloop.training import seat

REQUEST, ARRAYS, MODEL, STATE, LEASE = "request.json", "arrays", "model", "state", "lease"  # in the shared folder
FAILURES = f"{STATE}/failures/nodes"
ORPHAN_S = 600.0  # without a sign of the step that waits for the job, after which nobody does
LOOK_S = 5.0


def ask(folder: Path, base: params.Base, section: params.Train) -> None:
    """Write down what the nodes shall train."""
    request = {"medloop": __version__, "params": params.dump(base, section)}
    (folder / REQUEST).write_text(json.dumps(request))


def main(path: str) -> None:
    """Train as one of the nodes; why it failed, if it did, is left in the folder at `path`."""
    folder = Path(path)
    os.environ |= {"MEDLOOP_STATE": str(folder / STATE), "MEDLOOP_RUN": Path(FAILURES).name}
    hosts = os.environ.get("HOSTNAME", "unknown")
    name = f"node-{os.environ.get(seat.JAX[2]) or f'on-{hosts}'}"
    with kubeflow.step(name):
        base, section = _request(folder)
        if here := seat.find(section, os.environ):
            os.environ |= dict(zip(seat.JAX, (here.address, str(here.nodes), str(here.node)), strict=True))
            name = f"node-{here.node}"
    threading.Thread(target=_watch, args=(folder / LEASE,), daemon=True).start()
    with kubeflow.step(name):
        from medloop.stages.train import train

        train(base, section, arrays=folder / ARRAYS, model=folder / MODEL)


def _request(folder: Path) -> tuple[params.Base, params.Train]:
    request = json.loads((folder / REQUEST).read_text())
    if request["medloop"] != __version__:
        raise Refused(
            f"this node has medloop {__version__}, the step that started it {request['medloop']}: give both one image "
            "(pipeline.images)"
        )
    return params.parse(request["params"], params.Train)


def _watch(lease: Path, patience: float = ORPHAN_S) -> None:
    """End this process when nobody has renewed the lease for `patience` seconds of this machine's clock."""
    seen: str | None = None
    since = time.monotonic()
    while time.monotonic() - since < patience:
        now = seen
        with contextlib.suppress(OSError):  # not there, or the volume does not answer: no sign
            now = lease.read_text()
        if now != seen:
            seen, since = now, time.monotonic()
        time.sleep(min(LOOK_S, patience))
    print("medloop: the step that waits for this job is gone, so the node stops", file=sys.stderr, flush=True)  # noqa: T201
    os._exit(Refused.exit_code)
