"""The epochs: train, score on validation data, keep the best, stop early, survive a kill."""

import functools
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from types import ModuleType
from typing import Any, Protocol

import keras
import numpy as np
from tqdm import tqdm

from medloop import params
from medloop.errors import Refused
from medloop.training import backend, data, engine, feeding, judging, memory, network
from medloop.training.average import Average
from medloop.training.checkpoint import Checkpoint, State
from medloop.training.team import ALONE, Team

BAR = "{desc}: {n:.1f}/{total} epochs [{bar:20}] {elapsed}<{remaining}, {rate_inv_fmt}{postfix}"


class Log(Protocol):
    """Takes the metrics of an epoch while training goes on."""

    def log(self, metrics: dict[str, float], step: int) -> None: ...


def fit(
    spec: network.Spec,
    arrays: data.Arrays,
    task: ModuleType,
    section: params.Train,
    *,
    seed: int,
    checkpoint: Checkpoint,
    log: Log,
    team: Team = ALONE,
) -> tuple[keras.Model, State]:
    """Return a trained network with the weights of its best epoch on validation data, and how it got there.

    Of several nodes this is the first one, which decides for all; the others `follow`.

    Raises:
        Refused: the network cannot be built, a loss is no number, or a batch does not fit into memory.
    """
    made = _built(spec, task, section)
    net = made.judged
    predict, train = engine.Predictor(net), _for_loss(arrays.train, task, spec)
    weights = _weights(arrays, section)
    state, best = checkpoint.restore(made.variables)
    if team.nodes > 1:
        _as_first(state, made.variables, team)
    for entry in state.history:
        log.log(entry, step=int(entry["epoch"]))
    with _bar(spec.architecture, section.epochs, state.epoch) as bar:
        while not finished(state, section):
            epoch = state.epoch + 1
            made.optimizer.learning_rate = rate(section, epoch)
            segments = _segments(train, weights, task, section, seed=seed, epoch=epoch, node=team.node)
            loss = _train(made, segments, len(weights) / team.nodes, bar)
            entry = {"loss": loss, **_validate(predict, arrays, task, spec), "learning_rate": rate(section, epoch)}
            team.agree(entry)
            _refuse_nan(spec.architecture, epoch, entry)
            state = advanced(state, entry, task.GATE, section.keep)
            if state.best_epoch == epoch:
                best = [keras.ops.convert_to_numpy(variable) for variable in net.variables]
            checkpoint.save(state, made.variables, best)
            log.log(state.history[-1], step=epoch)
            bar.set_postfix_str(_postfix(state, entry, task.GATE))
            if bar.disable:  # a log has no use for a bar that is redrawn
                bar.write(f"{spec.architecture} {epoch}/{section.epochs} epochs, {bar.postfix}", file=sys.stderr)
    for variable, value in zip(net.variables, best, strict=True):
        variable.assign(value)
    return _in_float32(spec, net) if section.mixed_precision else net, state


def follow(
    spec: network.Spec, arrays: data.Arrays, task: ModuleType, section: params.Train, *, seed: int, team: Team
) -> State:
    """Train with this node's part of every batch, as the first node decides, and return how it got there.

    Raises:
        Refused: the network cannot be built, a loss is no number, or a batch does not fit into memory.
    """
    made = _built(spec, task, section)
    train, weights = _for_loss(arrays.train, task, spec), _weights(arrays, section)
    state = _as_first(State(), made.variables, team)
    with _bar(spec.architecture, section.epochs, state.epoch) as bar:
        while not finished(state, section):
            epoch = state.epoch + 1
            made.optimizer.learning_rate = rate(section, epoch)
            segments = _segments(train, weights, task, section, seed=seed, epoch=epoch, node=team.node)
            _train(made, segments, len(weights) / team.nodes, bar)
            entry = team.agree(None)
            _refuse_nan(spec.architecture, epoch, entry)
            state = advanced(state, entry, task.GATE, section.keep)
    return state


def _segments(
    train: data.Split, weights: np.ndarray, task: ModuleType, section: params.Train, *, seed: int, epoch: int, node: int
) -> Iterator[data.Segment]:
    """Return one epoch as the networks of a task take it."""
    found = data.epoch_segments(train, weights, section, seed=seed, epoch=epoch, node=node)
    return feeding.segments(found, task, [seed, epoch, node]) if judging.of_images(task) else found


def rate(section: params.Train, epoch: int) -> float:
    """Return the learning rate of an epoch, counted from one."""
    if section.schedule == "constant":
        return section.learning_rate
    return section.learning_rate * (1 + math.cos(math.pi * (epoch - 1) / section.epochs)) / 2


def advanced(state: State, entry: dict[str, float], gate: str, keep: str = "best") -> State:
    """Return the state after one more epoch; of equally good epochs the first is the best, or else the last is kept.

    Where the gating metric takes more than a network's outputs, the lower loss on validation data is the better epoch.
    """
    epoch, score = state.epoch + 1, _score(entry, gate)
    better = score > state.best_score or keep == "last"
    return State(
        epoch=epoch,
        best_epoch=epoch if better else state.best_epoch,
        best_score=score if better else state.best_score,
        history=[*state.history, {"epoch": epoch, **entry}],
    )


def _score(entry: dict[str, float], gate: str) -> float:
    return entry[f"val_{gate}"] if f"val_{gate}" in entry else -entry["val_loss"]


def finished(state: State, section: params.Train) -> bool:
    """Return whether all epochs are done, or `patience` of them brought no better score."""
    return state.epoch >= section.epochs or state.epoch - state.best_epoch >= section.patience


@dataclass(frozen=True)
class _Made:
    """What trains, and all its state."""

    judged: keras.Model  # what is validated and saved: the network that trains, or the average of its weights
    optimizer: keras.Optimizer
    advance: engine.Advance
    variables: list[Any]
    afresh: Callable[[], engine.Advance] | None  # makes the same again, untrained; None: it is one of several


def _built(spec: network.Spec, task: ModuleType, section: params.Train) -> _Made:
    net = network.build(spec)
    average = Average(net, network.build(spec), section.ema) if section.ema else None
    decay = section.weight_decay  # AdamW takes the time of it for 0 too
    adam = functools.partial(keras.optimizers.AdamW, weight_decay=decay) if decay else keras.optimizers.Adam
    optimizer = adam(section.learning_rate)
    loop = backend.kind(spec.architecture) in backend.LOOPED
    devices = None
    if section.devices > 1:
        from medloop.training import spread  # brings JAX

        devices = spread.over(section)
    loss = task.loss(section)
    advance = engine.trainer(net, optimizer, loss, loop=loop, spread=devices, average=average)
    kept = average.network if average else net
    averages = average.network.variables if average else []
    afresh = (lambda: _built(spec, task, section).advance) if section.devices == 1 else None
    return _Made(kept, optimizer, advance, [*net.variables, *optimizer.variables, *averages], afresh)


def _weights(arrays: data.Arrays, section: params.Train) -> np.ndarray:
    return data.sample_weights(arrays.train.labels, len(arrays.classes), section.class_weights, section.sampling)


def _as_first(state: State, variables: list[Any], team: Team) -> State:
    """Return the state of the first node, and set the variables as they are there."""
    from medloop.training import spread

    team.meet()
    values = spread.from_first([keras.ops.convert_to_numpy(variable) for variable in variables])
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    return State(**team.agree(asdict(state)))


def _train(made: _Made, segments: Iterator[data.Segment], count: float, bar: Any) -> float:
    """Return the mean loss over the samples of one epoch, `count` of them on this node.

    It ends early when the loss is no number.

    Raises:
        Refused: a batch does not fit into memory.
    """
    losses: list[float] = []  # of each batch
    done, before = 0, bar.n
    for segment in segments:
        try:
            losses += made.advance(segment).tolist()
        except Exception as error:
            if not memory.exhausted(error):
                raise
            raise memory.refused(segment, made.afresh) from None
        if not math.isfinite(losses[-1]):
            return math.nan
        done += segment[1].shape[0] * segment[1].shape[1]
        bar.update(min(1.0, done / count) - (bar.n - before))
    bar.n = round(before) + 1
    return math.fsum(losses) * segment[1].shape[1] / count


def _for_loss(split: data.Split, task: ModuleType, spec: network.Spec) -> data.Split:
    return replace(split, labels=task.scaled(split.labels, spec.target))


def _validate(predict: engine.Predictor, arrays: data.Arrays, task: ModuleType, spec: network.Spec) -> dict[str, float]:
    split, loss = arrays.val, math.nan
    if judging.of_images(task):
        return {
            "val_loss": float(judging.outputs(predict.parts(judging.inputs(split, task)), split.labels, task).mean())
        }
    if judging.of_maps(task):
        plain = task.loss(params.Train(architectures=(spec.architecture,)))
        outputs, loss = judging.outputs_and_loss(predict.parts(split.inputs), split.labels, task, plain)
    else:
        outputs = predict(split.inputs)
    if not np.isfinite(outputs).all():
        return {"val_loss": math.nan, f"val_{task.GATE}": math.nan}
    if not judging.of_maps(task):
        loss = float(task.loss()(task.scaled(split.labels, spec.target), outputs))
    said = task.said(outputs, {"target": spec.target, "classes": arrays.classes})
    return {"val_loss": loss, f"val_{task.GATE}": task.score(judging.labels(split, task, arrays.classes), said)}


def _refuse_nan(architecture: str, epoch: int, entry: dict[str, float]) -> None:
    bad = [name for name, value in entry.items() if not math.isfinite(value)]
    if bad:
        raise Refused(
            f"training {architecture} broke down: {bad[0]} is not a number in epoch {epoch} at learning rate "
            f"{entry['learning_rate']:g}; lower train.learning_rate (a tenth is a good try), or set "
            "train.normalisation: image"
        )


def _postfix(state: State, entry: dict[str, float], gate: str) -> str:
    watched = f"val_{gate}" if f"val_{gate}" in entry else "val_loss"
    return f"loss {entry['loss']:.4f}, {watched} {entry[watched]:.4f}, best {abs(state.best_score):.4f}"


def _bar(name: str, epochs: int, done: int) -> Any:
    return tqdm(total=epochs, initial=done, desc=name, bar_format=BAR, unit="epoch", dynamic_ncols=True, disable=None)


def _in_float32(spec: network.Spec, trained: keras.Model) -> keras.Model:
    """Return the same network with the same weights in float32, which is what ONNX and serving take."""
    keras.config.set_dtype_policy("float32")
    keras.utils.clear_session()
    plain = network.build(spec)
    plain.set_weights(trained.get_weights())
    return plain
