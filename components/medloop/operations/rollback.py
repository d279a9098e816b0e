"""Put the champion before this one back in its place."""

from medloop import params
from medloop.operations import champion


def rollback(base: params.Base) -> str:
    """Swap `champion` and `previous`, and say so; a second rollback swaps them back.

    Raises:
        Refused: there is no champion, or none before it, or its files are not those that were registered.
    """
    now, before = champion.swap(base.model_name)
    return f"version {now} is champion again, version {before} is now previous; another rollback returns to it"
