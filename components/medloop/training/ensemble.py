"""Several networks as one, and what each says of the samples that it never saw."""

from collections.abc import Sequence
from types import ModuleType

import keras
import numpy as np
from keras import ops

from medloop import params
from medloop.training import engine, judging, views
from medloop.training.members import Member


def mean(networks: Sequence[keras.Model]) -> keras.Model:
    """Return a network whose outputs are the mean of those of `networks`; the network itself if there is one."""
    if len(networks) == 1:
        return networks[0]
    first = networks[0]
    name = first.name
    for number, network in enumerate(networks):
        network.name = f"{name}_{number}"  # one network holds no two layers of one name
    [like] = first.inputs
    given = keras.Input(like.shape[1:], dtype=like.dtype, name=like.name)
    outputs = ops.stack([network(given) for network in networks])  # (members, B, .., K)
    return keras.Model(given, ops.mean(outputs, axis=0), name=name)


def out_of_fold(
    networks: Sequence[keras.Model], members: Sequence[Member], section: params.Views, task: ModuleType
) -> np.ndarray:
    """Return the outputs (N, K) of the whole development data, each row from the network that never saw it."""
    parts = []
    for network, member in zip(networks, members, strict=True):
        predict, unseen = engine.Predictor(views.averaged(network, section)), member.arrays.val
        parts.append(judging.outputs(predict.parts(unseen.inputs), unseen.labels, task))
    outputs = np.empty((sum(map(len, parts)), parts[0].shape[1]), parts[0].dtype)
    for part, member in zip(parts, members, strict=True):
        outputs[member.rows] = part
    return outputs
