"""Each step in a container of its own against each a process: what it costs a step, and whether failures are seen.

    python tests/benchmarks/bench_containers.py

Needs a container engine and the images that `.ci/containers` builds. The two runners take turns on the same data: 80
small images, one architecture, one epoch, so that what is measured is hardly any work. Before, both runners of
containers, this one and kfp's, run a step that always fails, 40 times each.
"""

import json
import logging
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "infra/docker"))

from kfp_loses_exit_codes import count

import wards
from medloop_pipelines import building, containers

ROUNDS, FAILURES = 3, 40
STEPS = ("ingest", "validate", "preprocess", "train", "evaluate", "register")
ONE = ("--set", "train.architectures=[cnn]")


def main() -> None:
    logging.disable(logging.INFO)  # kfp tells of each step
    image = building.reference("light")
    theirs = count(image, FAILURES)
    with tempfile.TemporaryDirectory() as folder, containers.reliable([image], Path(folder)):
        ours = count(image, FAILURES)
    seen = f"this runner {FAILURES - ours} of {FAILURES}, kfp's {FAILURES - theirs}"
    print(f"a failing step, seen as one: {seen}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        overhead(Path(folder))


def overhead(folder: Path) -> None:
    """Print the seconds of a whole run either way, and what a container adds to a step."""
    project = wards.project(folder)
    seconds: dict[str, list[float]] = {"subprocess": [], "docker": []}
    for number in range(ROUNDS):
        for runner, found in seconds.items():
            root = f"artifacts/{runner}-{number}"
            began = time.perf_counter()
            project.run("medloop", "pipeline", "run", "--runner", runner, "--root", root, *ONE)
            found.append(time.perf_counter() - began)
            [run] = [path for path in (project.folder / root).iterdir() if path.is_dir()]
            assert {path.name for path in run.iterdir()} == set(STEPS), "a step is missing"
            digest = json.loads((run / "ingest/samples/lineage.json").read_text()).get("image_digest")
            assert bool(digest) == (runner == "docker"), "a step ran elsewhere"
            print(f"  {runner} {found[-1]:.1f} s", flush=True)
    processes, contained = (statistics.median(found) for found in seconds.values())
    pairs = zip(*seconds.values(), strict=True)
    more = statistics.median((docker - process) / len(STEPS) for process, docker in pairs)
    print(
        f"{len(STEPS)} steps, {ROUNDS} runs each way in turn: processes {processes:.1f} s, containers {contained:.1f} "
        f"s, {contained / processes:.2f}x; a step in a container takes {more:+.2f} s longer, the look into both images "
        "before the first step included",
        flush=True,
    )


if __name__ == "__main__":
    main()
