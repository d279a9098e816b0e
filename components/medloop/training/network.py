"""The network that is trained and saved: raw inputs, normalisation, architecture, outputs."""

import inspect
import json
from dataclasses import dataclass, field
from typing import Any, get_type_hints

import keras
import numpy as np
from pydantic import TypeAdapter, ValidationError

from medloop import kinds, models, plugins
from medloop.errors import Refused

MIN_VARIANCE = 1e-6  # of an image whose pixels go from 0 to 1: a constant image becomes zeros


@dataclass(frozen=True)
class Spec:
    """All that decides the form of a network."""

    architecture: str
    input_shape: tuple[int, ...]
    outputs: int
    hyper: dict[str, Any]
    normalisation: dict[str, Any]  # as `data.normalisation` gives it, its constants per channel
    kind: str = "image"  # of sample
    dtype: str = "uint8"  # of the inputs
    target: dict[str, float] = field(default_factory=dict)  # constants of the task, fitted on train


def build(spec: Spec) -> keras.Model:
    """Return a network from inputs (B, ...) of the type that they have to outputs (B, outputs) float32.

    An architecture of several inputs is given the same one as each of them.

    Raises:
        Refused: unknown architecture, a hyper-parameter that it does not take, or inputs that it cannot take.
    """
    plugin = plugins.load(models, spec.architecture)
    hyper = _checked(spec.architecture, plugin.build, spec.hyper)
    try:
        core = plugin.build(spec.input_shape, spec.outputs, **hyper)
    except ValueError as error:
        size, remedy = "x".join(map(str, spec.input_shape)), plugins.load(kinds, spec.kind).SIZED_BY
        raise Refused(
            f"{spec.architecture} cannot be built for {spec.kind}s of {size} with hyper-parameters {spec.hyper}: "
            f"{str(error).strip().splitlines()[0]}; change {remedy} or train.hyper.{spec.architecture}"
        ) from None
    given = keras.Input(spec.input_shape, dtype=spec.dtype, name=spec.kind)
    x = normalised(given, spec.normalisation)
    outputs = core([x] * len(core.inputs) if len(core.inputs) > 1 else x)
    return keras.Model(given, keras.ops.cast(outputs, "float32"), name=spec.architecture)


def normalised(given: Any, normalisation: dict[str, Any]) -> Any:
    """Return inputs as the architecture takes them: float32, on the scale that `normalisation` says."""
    x = keras.ops.cast(given, "float32")
    if normalisation.get("mask"):
        values, real = x[..., :-1], x[..., -1:]
        if normalisation["kind"] in ("image", "sample"):
            count = keras.ops.sum(real, axis=(1, 2), keepdims=True) * values.shape[-1]  # (B, 1, 1)
            centred = (values - keras.ops.sum(values * real, axis=(1, 2), keepdims=True) / count) * real
            variance = keras.ops.sum(keras.ops.square(centred), axis=(1, 2), keepdims=True) / count
            scaled = centred * keras.ops.rsqrt(variance + MIN_VARIANCE)
            return keras.ops.concatenate([scaled, real], axis=-1)
        plain = {name: value for name, value in normalisation.items() if name != "mask"}
        return keras.ops.concatenate([normalised(values, plain) * real, real], axis=-1)
    if normalisation["kind"] in ("train", "clipped"):
        # numpy's: a tensor of the backend would be exported as an input of the network
        if normalisation["kind"] == "clipped":
            low, high = (np.array(normalisation[name], np.float32) for name in ("low", "high"))
            x = keras.ops.minimum(keras.ops.maximum(x, low), high)
        mean, std = (np.array(normalisation[name], np.float32) for name in ("mean", "std"))
        return (x - mean) / std
    if keras.backend.standardize_dtype(given.dtype) == "uint8":
        x = x / 255.0
    if normalisation["kind"] == "none":
        return x
    return keras.layers.LayerNormalization(
        axis=tuple(range(1, len(x.shape))),
        center=False,
        scale=False,
        epsilon=MIN_VARIANCE,
        dtype="float32",
        name="standardise",
    )(x)


def _checked(architecture: str, build: Any, hyper: dict[str, Any]) -> dict[str, Any]:
    """Return the hyper-parameters as the types that the signature of `build` declares."""
    declared = [p for p in inspect.signature(build).parameters.values() if p.kind is p.KEYWORD_ONLY]
    hints = get_type_hints(build)
    accepted = ", ".join(f"{p.name}: {inspect.formatannotation(p.annotation)} = {p.default!r}" for p in declared)
    checked = {}
    for name, value in hyper.items():
        if name not in {p.name for p in declared}:
            raise Refused(
                f"train.hyper.{architecture}: unknown hyper-parameter {name!r}; {architecture} accepts {accepted}"
            )
        try:
            checked[name] = TypeAdapter(hints[name]).validate_json(json.dumps(value), strict=True)
        except ValidationError as error:
            wanted = error.errors()[0]["msg"]
            raise Refused(
                f"train.hyper.{architecture}.{name}: {wanted}, got {value!r}; {architecture} accepts {accepted}"
            ) from None
    return checked
