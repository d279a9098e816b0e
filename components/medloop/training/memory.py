"""Which batch fits into memory, where the one that was asked for does not."""

from collections.abc import Callable

from medloop.errors import Refused
from medloop.training.data import Segment
from medloop.training.engine import Advance

# of TensorFlow, of torch, and of XLA, whose error has one type for all that goes wrong
TYPES, SAID = ("ResourceExhaustedError", "OutOfMemoryError"), "RESOURCE_EXHAUSTED"


def exhausted(error: Exception) -> bool:
    """Return whether a backend says by this error that memory is full."""
    return type(error).__name__ in TYPES or SAID in str(error)


def refused(segment: Segment, afresh: Callable[[], Advance] | None) -> Refused:
    """Return the message for a segment (S, B, ..) that was too large: it says the batch that would fit.

    Half the batch is tried, and half of that, each on a network of its own that `afresh` makes: what ran out of memory
    may be left in pieces. None: one device of several cannot try, and half the batch is only a proposal.
    """
    batch = segment[0].shape[1]
    message = f"train.batch_size must be one that fits into memory, {batch} does not"
    if afresh is None:
        return Refused(f"{message}: try {max(1, batch // 2)}")
    for size in (batch >> halvings for halvings in range(1, batch.bit_length())):
        try:
            inputs, labels, weights = (array[:, :size] for array in segment)
            afresh()((inputs, labels, weights))
        except Exception as error:
            if not exhausted(error):
                raise
        else:
            return Refused(f"{message}: {size} does")
    return Refused(f"{message}, and nor does 1: take smaller samples (preprocess) or a smaller network (train.hyper)")
