"""Runs many training steps per call, compiled by the backend that keras runs on.

`Model.fit` returns to Python after every batch, which costs a small network more than the batch itself. Here a whole
segment of an epoch is one call.
"""

import functools
import importlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from medloop.training.average import Average, variables
from medloop.training.data import Segment

PREDICT_BATCH = 256
MAP_PIXELS = 2**20  # of the images of a batch, where the network gives a map of each
PLACE_PIXELS = 64  # that a place stands for, where the network says something at many places of an image
Advance = Callable[[Segment], np.ndarray]


def trainer(
    network: keras.Model,
    optimizer: keras.Optimizer,
    loss: Any,
    *,
    loop: bool,
    spread: Any = None,
    average: Average | None = None,
) -> Advance:
    """Return a function that takes one optimiser step per batch of a segment, and returns the losses (S,).

    Args:
        network: from inputs (B, ...) to outputs (B, K).
        optimizer: of the network's weights.
        loss: of labels (B, ..), outputs (B, K) and weights (B, ..), a mean over the batch.
        loop: on JAX, compile the loop over batches too: right for recurrent networks; on a CPU convolutions inside a
            compiled loop run ten times slower.
        spread: on JAX, the devices that share every batch (a `Spread`); a segment then holds this node's part.
        average: of the network's weights; moves after every step.
    """
    optimizer.build(network.trainable_variables)
    name = keras.backend.backend()
    if name == "tensorflow":
        return _tensorflow_trainer(network, optimizer, loss, average)
    if name == "torch":
        return _torch_trainer(network, optimizer, loss, average)
    return _jax_trainer(network, optimizer, loss, loop, spread, average)


class Predictor:
    """From inputs (N, ...) to outputs (N, K), (N, A, K) or maps (N, H, W, K), float32, with today's weights."""

    def __init__(self, network: keras.Model) -> None:
        name = keras.backend.backend()
        make = {"tensorflow": _tensorflow_predictor, "jax": _jax_predictor, "torch": _torch_predictor}[name]
        self._predict, self._batch = make(network), batch_of(network.output_shape)

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Return the outputs of all inputs."""
        return np.concatenate([outputs for _, outputs in self.parts(inputs)])

    def parts(self, inputs: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield which inputs, and their outputs, one batch after the other: those of all may be too large to hold."""
        size = min(self._batch, len(inputs))
        for first in range(0, len(inputs), size):
            batch = np.asarray(inputs[first : first + size])
            missing = size - len(batch)  # another size would be compiled anew
            padded = np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)]) if missing else batch
            yield slice(first, first + len(batch)), self._predict(padded)[: len(batch)]


def batch_of(output_shape: tuple[int | None, ...]) -> int:
    """Return how many inputs are predicted at once by a network with outputs of a shape (None, ...)."""
    if len(output_shape) < 3:
        return PREDICT_BATCH
    sides = output_shape[1:3] if len(output_shape) > 3 else (output_shape[1], PLACE_PIXELS)
    return max(1, min(PREDICT_BATCH, MAP_PIXELS // math.prod(side or 1 for side in sides)))


def _tensorflow_trainer(
    network: keras.Model, optimizer: keras.Optimizer, loss: Any, average: Average | None
) -> Advance:
    tf = importlib.import_module("tensorflow")

    def steps_of(inputs: Any, labels: Any, weights: Any) -> Any:
        steps = tf.shape(inputs)[0]
        values = tf.TensorArray(tf.float32, steps)
        for i in tf.range(steps):
            with tf.GradientTape() as tape:
                value = loss(labels[i], network(inputs[i], training=True), weights[i]) + sum(network.losses)
            gradients = tape.gradient(value, network.trainable_weights)
            optimizer.apply(gradients, network.trainable_weights)
            _move(average, network, optimizer)
            values = values.write(i, value)
        return values.stack()

    @functools.cache
    def compiled(*kinds: Any) -> Any:
        signature = [tf.TensorSpec((None, None, *shape), dtype) for shape, dtype in kinds]
        return tf.function(steps_of, input_signature=signature)

    return lambda segment: compiled(*((array.shape[2:], array.dtype) for array in segment))(*segment).numpy()


def _tensorflow_predictor(network: keras.Model) -> Callable[[Any], np.ndarray]:
    tf = importlib.import_module("tensorflow")

    @tf.function(input_signature=[tf.TensorSpec((None, *network.input_shape[1:]), network.inputs[0].dtype)])
    def predict(images: Any) -> Any:
        return network(images, training=False)

    return lambda images: predict(images).numpy()


def _move(average: Average | None, network: keras.Model, optimizer: keras.Optimizer) -> None:
    if average:
        for kept, value in zip(average.variables, variables(network), strict=True):
            kept.assign(average.moved(kept, value, optimizer.iterations))


def _moved(average: Average | None, kept: list[Any], values: list[Any], step: Any) -> list[Any]:
    return [average.moved(*pair, step) for pair in zip(kept, values, strict=True)] if average else kept


def _jax_trainer(
    network: keras.Model,
    optimizer: keras.Optimizer,
    loss: Any,
    loop: bool,
    spread: Any,
    average: Average | None,
) -> Advance:
    jax = importlib.import_module("jax")
    [counter] = [i for i, variable in enumerate(optimizer.variables) if variable is optimizer.iterations]

    def loss_of(trained: Any, rest: Any, batch: Any) -> Any:
        images, labels, weights = batch
        logits, rest, penalties = network.stateless_call(trained, rest, images, training=True, return_losses=True)
        return loss(labels, logits, weights) + sum(penalties), rest

    def step(state: Any, batch: Any) -> Any:
        trained, rest, moments, kept = state
        (value, rest), gradients = jax.value_and_grad(loss_of, has_aux=True)(trained, rest, batch)
        trained, moments = optimizer.stateless_apply(moments, gradients, trained)
        return (trained, rest, moments, _moved(average, kept, [*trained, *rest], moments[counter])), value

    where = {"out_shardings": spread.whole} if spread else {}
    one = jax.jit(step, donate_argnums=0, **where)
    many = jax.jit(lambda state, batches: jax.lax.scan(step, state, batches), donate_argnums=0, **where)
    groups = (
        network.trainable_variables,
        network.non_trainable_variables,
        optimizer.variables,
        average.variables if average else [],
    )

    def advance(segment: Segment) -> np.ndarray:
        state: Any = tuple([variable.value for variable in group] for group in groups)
        if spread:
            state = spread.state(state)
        if loop:
            state, values = many(state, spread.batch(segment, axis=1) if spread else segment)
        else:
            values = []
            for batch in zip(*segment, strict=True):
                state, value = one(state, spread.batch(batch, axis=0) if spread else batch)
                values.append(value)
        if spread:
            state, values = spread.own(state), spread.own(values)
        for group, arrays in zip(groups, state, strict=True):
            for variable, array in zip(group, arrays, strict=True):
                variable.assign(array)
        return np.asarray(values, np.float32)

    return advance


def _jax_predictor(network: keras.Model) -> Callable[[Any], np.ndarray]:
    jax = importlib.import_module("jax")

    @jax.jit
    def predict(trained: Any, rest: Any, images: Any) -> Any:
        return network.stateless_call(trained, rest, images, training=False)[0]

    def logits(images: np.ndarray) -> np.ndarray:
        trained = [variable.value for variable in network.trainable_variables]
        rest = [variable.value for variable in network.non_trainable_variables]
        return np.asarray(predict(trained, rest, images))

    return logits


def _torch_trainer(network: keras.Model, optimizer: keras.Optimizer, loss: Any, average: Average | None) -> Advance:
    torch = importlib.import_module("torch")
    weights_of = network.trainable_weights

    def advance(segment: Segment) -> np.ndarray:
        values = []
        for images, labels, weights in zip(*segment, strict=True):
            network.zero_grad()
            value = loss(labels, network(images, training=True), weights) + sum(network.losses)
            value.backward()
            with torch.no_grad():
                optimizer.apply([weight.value.grad for weight in weights_of], weights_of)
                _move(average, network, optimizer)
            values.append(float(value.detach()))
        return np.asarray(values, np.float32)

    return advance


def _torch_predictor(network: keras.Model) -> Callable[[Any], np.ndarray]:
    torch = importlib.import_module("torch")

    def logits(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return network(images, training=False).cpu().numpy()

    return logits
