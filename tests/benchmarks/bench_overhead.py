"""What `dvc repro` costs beside the stages: wall time against the seconds inside them, on a clean copy of the default.

    python tests/benchmarks/bench_overhead.py

Prints, for each stage, the seconds inside it and those before it (start of the process and imports), and the rest: DVC
itself. Keras's backend is imported inside `train`, while the arrays are read: its share is printed apart.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from support import Project

STAGES = ("ingest", "validate", "preprocess", "train-cnn", "train-lstm", "train-attention", "evaluate", "register")


def backend_import_seconds() -> float:
    """Return what importing Keras on its backend takes in a process of its own."""
    code = "from medloop.training import backend; backend.start('tensorflow', 0)"
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    """Run the default loop once in an empty folder and print where the time went."""
    with tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder))
        started = time.perf_counter()
        project.run("medloop", "repro", timeout=1800)
        wall = time.perf_counter() - started
        runs = {name: json.loads((project.folder / f"artifacts/runs/{name}/run.json").read_text()) for name in STAGES}
        started = time.perf_counter()
        project.run("medloop", "repro")
        again = time.perf_counter() - started
    inside = sum(run["seconds"] for run in runs.values())
    print(f"{'stage':<18}{'inside s':>9}{'before s':>9}{'MiB':>8}")
    for name, run in runs.items():
        before = run["since_process_start_seconds"] - run["seconds"]
        print(f"{name:<18}{run['seconds']:>9.1f}{before:>9.1f}{run['peak_memory_mib']:>8.0f}")
    print(f"wall {wall:.0f} s, inside the stages {inside:.0f} s, the rest {wall - inside:.0f} s (wanted: at most 60)")
    print(f"Keras's backend, inside each training: {backend_import_seconds():.1f} s; nothing changed: {again:.1f} s")


if __name__ == "__main__":
    main()
