"""What a killed run needs to go on as if nothing had happened: one file, replaced after every epoch."""

import json
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np


@dataclass
class State:
    """Where a run stands after `epoch` epochs."""

    epoch: int = 0
    best_epoch: int = 0
    best_score: float = -math.inf
    history: list[dict[str, float]] = field(default_factory=list)  # one entry an epoch


class Checkpoint:
    """A checkpoint under `folder`, named by everything that decides the course of the run."""

    def __init__(self, name: str, folder: Path | None = None) -> None:
        state = Path(os.environ.get("MEDLOOP_STATE") or ".medloop")
        self._folder = (folder or state / "checkpoints") / name
        self._path = self._folder / "state.npz"

    def save(self, state: State, now: Sequence[Any], best: Sequence[np.ndarray]) -> None:
        """Write the values of the variables `now` and those of the best epoch."""
        self._folder.mkdir(parents=True, exist_ok=True)
        arrays = {f"now_{i}": keras.ops.convert_to_numpy(variable) for i, variable in enumerate(now)}
        arrays |= {f"best_{i}": array for i, array in enumerate(best)}
        partial = self._folder / f"{os.getpid()}.partial"
        with partial.open("wb") as file:
            np.savez(file, state=np.array(json.dumps(asdict(state))), **arrays)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self._path)

    def restore(self, now: Sequence[Any]) -> tuple[State, list[np.ndarray]]:
        """Set the variables `now` and return the state with the best epoch's values; a fresh state where none is."""
        if not self._path.exists():
            return State(), []
        with np.load(self._path) as saved:
            for i, variable in enumerate(now):
                variable.assign(saved[f"now_{i}"])
            best = [saved[f"best_{i}"] for i in range(sum(key.startswith("best_") for key in saved.files))]
            return State(**json.loads(str(saved["state"]))), best

    def remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
