"""From a model's arrays to probabilities and a decision, on ONNX Runtime.

Stands alone: it is shipped inside every registered model, where there is no medloop.
"""

from pathlib import Path

import numpy as np
import onnxruntime

onnxruntime.disable_telemetry_events()


class Network:
    """A `model.onnx`: images in, logits out."""

    def __init__(self, path: Path, threads: int = 0) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads  # 0: one per core
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def logits(self, images: np.ndarray, batch_size: int = 256) -> np.ndarray:
        """Return (N, outputs) float32 for images (N, H, W, C) uint8."""
        batches = range(0, len(images), batch_size)
        parts = [self._session.run(None, {self._input: np.asarray(images[i : i + batch_size])})[0] for i in batches]
        return np.concatenate(parts) if len(parts) > 1 else parts[0]


def probabilities(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Return the softmax of logits (N, classes) divided by the calibration `temperature`, float64."""
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    exponential = np.exp(scaled)
    return exponential / exponential.sum(axis=1, keepdims=True)


def decide(probability: np.ndarray, threshold: float | None, positive: int) -> np.ndarray:
    """Return the decided class index of each row of probabilities (N, classes).

    With two classes the positive one is decided where its probability reaches `threshold`; with more, the likeliest.
    """
    if threshold is None:
        return probability.argmax(axis=1)
    return np.where(probability[:, positive] >= threshold, positive, 1 - positive)
