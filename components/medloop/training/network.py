"""The network that is trained and saved: raw pixels, normalisation, architecture, logits."""

import inspect
import json
from dataclasses import dataclass
from typing import Any, get_type_hints

import keras
from pydantic import TypeAdapter, ValidationError

from medloop import models, plugins
from medloop.errors import Refused

MIN_VARIANCE = 1e-6  # of an image whose pixels go from 0 to 1: a constant image becomes zeros


@dataclass(frozen=True)
class Spec:
    """All that decides the form of a network."""

    architecture: str
    input_shape: tuple[int, int, int]
    outputs: int
    hyper: dict[str, Any]
    normalisation: dict[str, Any]  # {"kind": "image" | "none"}, or {"kind": "train", "mean": [...], "std": [...]}


def build(spec: Spec) -> keras.Model:
    """Return a network from images (B, H, W, C) uint8 to logits (B, outputs) float32.

    Raises:
        Refused: unknown architecture, a hyper-parameter that it does not take, or images that it cannot take.
    """
    plugin = plugins.load(models, spec.architecture)
    hyper = _checked(spec.architecture, plugin.build, spec.hyper)
    try:
        core = plugin.build(spec.input_shape, spec.outputs, **hyper)
    except ValueError as error:
        size = "x".join(map(str, spec.input_shape))
        raise Refused(
            f"{spec.architecture} cannot be built for images of {size} with hyper-parameters {spec.hyper}: "
            f"{str(error).strip().splitlines()[0]}; change preprocess.size_px or train.hyper.{spec.architecture}"
        ) from None
    image = keras.Input(spec.input_shape, dtype="uint8", name="image")
    logits = core(_normalised(image, spec.normalisation))
    return keras.Model(image, keras.ops.cast(logits, "float32"), name=spec.architecture)


def _normalised(image: Any, normalisation: dict[str, Any]) -> Any:
    x = keras.ops.cast(image, "float32")
    if normalisation["kind"] == "train":
        return (x - keras.ops.array(normalisation["mean"])) / keras.ops.array(normalisation["std"])
    x = x / 255.0
    if normalisation["kind"] == "none":
        return x
    return keras.layers.LayerNormalization(
        axis=(1, 2, 3), center=False, scale=False, epsilon=MIN_VARIANCE, dtype="float32", name="standardise"
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
