"""Where all that is random comes from: one stream of numbers for each use, patient and study."""

from enum import IntEnum

import numpy as np


class Use(IntEnum):
    """What a stream is for."""

    PERSON = 0
    BODY = 1
    STAND = 2
    DEVICE = 3


def stream(seed: int, patient: int, use: Use, study: int = 0) -> np.random.Generator:
    """Return a generator of its own: what one patient or study draws changes nothing in another."""
    return np.random.default_rng([use, study, patient, seed])
