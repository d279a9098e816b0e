"""The errors that a user can mend, and the exit codes that stand for them."""

from collections.abc import Iterable


class Refused(ValueError):
    """A parameter, a file or a sample was refused; the message names it, what came, and the remedy.

    The command line prints the message alone, without a traceback, and exits with `exit_code`.
    """

    exit_code = 2


class Unreachable(Refused):
    """A server did not answer; the results on disk are kept."""

    exit_code = 4


class Conflict(Refused):
    """Somebody else changed what this decision rested on."""

    exit_code = 3


def some(names: Iterable[str], limit: int = 5) -> str:
    """Return the first few of pseudonyms, or of reasons, for a message."""
    known = list(names)
    return ", ".join(known[:limit]) + (", ..." if len(known) > limit else "")
