"""A moving average of a network's weights, kept in a second network of the same form.

Its steps are short at first, so that it forgets the random weights that training began with. The statistics of
normalisations are averaged like weights; the states of random generators are left alone.
"""

from typing import Any

import keras
from keras import ops


class Average:
    """The average, and how it moves."""

    def __init__(self, network: keras.Model, kept: keras.Model, decay: float) -> None:
        self.network, self._decay = kept, decay
        for variable, value in zip(self.variables, variables(network), strict=True):
            variable.assign(ops.convert_to_numpy(value))  # a copy: JAX gives the buffers of both away

    @property
    def variables(self) -> list[keras.Variable]:
        """What is averaged, in the order of `variables`."""
        return variables(self.network)

    def moved(self, kept: Any, value: Any, step: Any) -> Any:
        """Return what becomes of the value `kept` of a variable when it is `value` after `step` steps, from one on."""
        if not keras.backend.is_float_dtype(keras.backend.standardize_dtype(kept.dtype)):
            return kept
        step = ops.cast(step, kept.dtype)
        decay = ops.minimum(ops.cast(self._decay, kept.dtype), (1 + step) / (10 + step))
        return decay * kept + (1 - decay) * value


def variables(network: keras.Model) -> list[keras.Variable]:
    """Return all variables of a network: first those that are trained."""
    return [*network.trainable_variables, *network.non_trainable_variables]
