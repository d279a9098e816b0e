"""Where arrays lie when several devices train one network: the state whole on each, every batch in parts."""

from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from medloop import params

BATCH = "batch"


class Spread:
    """The devices of all nodes in one row. What is computed on them is what one device would compute."""

    def __init__(self, devices: list[Any]) -> None:
        self._mesh = Mesh(np.array(devices), (BATCH,))
        self.whole = NamedSharding(self._mesh, PartitionSpec())

    def state(self, arrays: Any) -> Any:
        """Place whole arrays, the same on every node, on every device."""
        return jax.tree.map(lambda array: self._placed(self.whole, array), arrays)

    def batch(self, arrays: Any, axis: int) -> Any:
        """Place this node's part of a batch, whose samples lie along `axis`, on its own devices."""
        parts = NamedSharding(self._mesh, PartitionSpec(*[None] * axis, BATCH))
        return jax.tree.map(lambda array: self._placed(parts, array), arrays)

    def own(self, arrays: Any) -> Any:
        """Return what lies whole on every device as arrays of this node alone."""
        return jax.tree.map(lambda array: array.addressable_data(0), arrays)

    @staticmethod
    def _placed(sharding: NamedSharding, array: Any) -> jax.Array:
        return jax.make_array_from_process_local_data(sharding, np.asarray(array))


def over(section: params.Train) -> Spread:
    """Return the devices that share every batch."""
    of_node: dict[int, list[Any]] = {}
    for device in jax.devices():
        of_node.setdefault(device.process_index, []).append(device)
    return Spread([device for node in sorted(of_node) for device in of_node[node][: max(1, section.gpus_per_node)]])


def from_first(arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Return the arrays of node 0, on every node."""
    return list(multihost_utils.broadcast_one_to_all(arrays))
