"""Chooses the Keras backend before keras is imported, and imports it with nothing that training does not need.

This is the only place that sets `KERAS_BACKEND`.
"""

import ast
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medloop import models, pairing, params
from medloop.errors import Refused

FASTEST = {  # by a model file's KIND, measured on CPUs
    "convolution": "tensorflow",
    "residual": "jax",
    "recurrent": "jax",
    "transformer": "jax",
}
LOOPED = ("recurrent", "transformer")  # JAX compiles their loop over batches too; in it convolutions are slow on CPUs
REMEDY = {
    "tensorflow": "pip install tensorflow-cpu",
    "jax": "pip install jax",
    "torch": "pip install torch --index-url https://download.pytorch.org/whl/cpu",
}
DETERMINISTIC = "xla_gpu_deterministic_ops"  # else two runs of JAX on a GPU differ
UNUSED = ("matplotlib", "sklearn", "pandas")  # optional for keras and TensorFlow, seconds to import


def source(architecture: str) -> Path:
    """Return the file of an architecture without importing it; raise Refused where there is none."""
    return pairing.source(models, architecture)


def kind(architecture: str) -> str:
    """Return the KIND that a model file declares, "convolution" where it declares none, without importing it.

    Raises:
        Refused: no such architecture, or a kind that nobody knows.
    """
    found = "convolution"
    for node in ast.parse(source(architecture).read_text()).body:
        if isinstance(node, ast.Assign) and [getattr(target, "id", None) for target in node.targets] == ["KIND"]:
            found = ast.literal_eval(node.value)
    if found not in FASTEST:
        raise Refused(f"models/{architecture}.py: KIND must be one of {', '.join(FASTEST)}, got {found!r}")
    return found


def select(section: params.Train) -> str:
    """Return the backend that keras will run on.

    Raises:
        Refused: it is not installed, or keras runs on another one in this process already.
    """
    fastest = "jax" if section.devices > 1 else FASTEST[kind(section.architectures[0])]
    name = fastest if section.backend == "auto" else section.backend
    for needed, why in ((name, f"train.backend {name}"), ("tensorflow", "the export to ONNX")):
        if importlib.util.find_spec(needed) is None:
            raise Refused(f"{why} needs {needed}, which is not installed here: {REMEDY[needed]}")
    loaded = sys.modules.get("keras")
    if loaded is not None and loaded.backend.backend() != name:
        raise Refused(
            f"train.backend must be {loaded.backend.backend()} in this process, got {name}: keras keeps the backend "
            "that it was imported with; start a new process"
        )
    return name


def start(name: str, seed: int, *, gpus: int = 0, mixed_precision: bool = False) -> Any:
    """Import keras on the selected backend, make it deterministic, forget earlier models, and return it.

    Raises:
        Refused: here are fewer than `gpus` GPUs.
    """
    keras = _imported(name)
    keras.utils.clear_session()  # layer names count from one again
    keras.config.set_floatx("float32")  # ~/.keras/keras.json may say otherwise
    keras.config.set_image_data_format("channels_last")
    keras.config.set_dtype_policy("mixed_bfloat16" if mixed_precision else "float32")
    found = {"tensorflow": _start_tensorflow, "jax": _start_jax, "torch": _start_torch}[name]()
    if found < gpus:
        raise Refused(
            f"train.require_gpu or train.gpus_per_node asks for {gpus} GPU{'s' * (gpus > 1)} and {name} finds "
            f"{found or 'no GPU'}: install requirements/gpu.lock on a machine that has as many, or set "
            "train.require_gpu: false and train.gpus_per_node: 0"
        )
    with _hidden(*_foreign(name)):  # it would import TensorFlow for its seed, and keras remembers what was absent
        keras.utils.set_random_seed(seed)
    return keras


@contextmanager
def onnx_exporter(name: str) -> Iterator[Callable[[Path, Path], None]]:
    """Yield a function that writes a .keras file as ONNX, whatever backend trains.

    Keras exports from JAX and torch only by way of packages that pull in dozens more. A .keras file belongs to no
    backend: beside another one, a process with TensorFlow starts up while the network trains, and exports at the end.
    """
    if name == "tensorflow":
        yield _export_here
        return
    command = [sys.executable, "-m", "medloop.training.exporter"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True) as process:

        def export(source: Path, target: Path) -> None:
            said, _ = process.communicate(json.dumps([str(source), str(target)]))
            if process.returncode:
                raise RuntimeError(f"the export to ONNX failed: {said}")

        try:
            yield export
        finally:
            process.kill()


def _export_here(source: Path, target: Path) -> None:
    from medloop.training import export

    export.save_onnx(source, target)


def _imported(name: str) -> Any:
    os.environ["KERAS_BACKEND"] = name
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")  # a chain of small operations: more threads only wait
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if DETERMINISTIC not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --{DETERMINISTIC}=true".strip()
    if "keras" in sys.modules:
        return sys.modules["keras"]
    with _hidden(*UNUSED, *_foreign(name)), _quiet():
        if name == "tensorflow":
            importlib.import_module("tensorflow")
        return importlib.import_module("keras")


def _foreign(name: str) -> list[str]:
    return [other for other in REMEDY if other != name]


@contextmanager
def _hidden(*names: str) -> Iterator[None]:
    """Let optional imports of `names` fail inside; a module that is loaded already stays."""
    absent = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]  # None makes `import` raise ImportError
    try:
        yield
    finally:
        for name in absent:
            sys.modules.pop(name, None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what C++ libraries print while they load from stderr, unless loading them fails."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as said:
        kept = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            yield
        except BaseException:
            said.seek(0)
            os.write(kept, said.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _start_tensorflow() -> int:
    import tensorflow as tf

    tf.config.experimental.enable_op_determinism()
    return len(tf.config.list_physical_devices("GPU"))


def _start_jax() -> int:
    import jax

    return sum(device.platform in ("gpu", "cuda", "rocm") for device in jax.local_devices())


def _start_torch() -> int:
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    return torch.cuda.device_count() if torch.cuda.is_available() else 0
