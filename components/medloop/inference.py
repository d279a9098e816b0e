"""From a model's arrays to its outputs, on ONNX Runtime.

Stands alone: it is shipped inside every registered model, where there is no medloop.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime

onnxruntime.disable_telemetry_events()

DTYPES = {"tensor(uint8)": np.dtype(np.uint8), "tensor(float)": np.dtype(np.float32)}


class Network:
    """A `model.onnx`: arrays in, outputs out."""

    def __init__(self, path: Path, threads: int = 0) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads  # 0: one per core
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        [only] = self._session.get_inputs()
        self._input, self.dtype = only.name, DTYPES[only.type]

    def outputs(self, arrays: np.ndarray, batch_size: int = 256) -> np.ndarray:
        """Return (N, outputs) float32, or maps (N, H, W, outputs), for arrays (N, ...) of `dtype`."""
        parts = list(self.parts(arrays, batch_size))
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    def parts(self, arrays: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
        """Yield the outputs of `batch_size` arrays after the other: those of all may be too large to hold."""
        for first in range(0, len(arrays), batch_size):
            yield self._session.run(None, {self._input: np.asarray(arrays[first : first + batch_size])})[0]
