"""One of several equal shares of the work, done in a step of its own, and what makes the shares fit together."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medloop import provenance
from medloop.errors import Refused


@dataclass(frozen=True)
class Shard:
    """One of `count` shards, counted from 0."""

    number: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.count:
            raise Refused(f"a shard must be one of 0 to {self.count - 1}, got {self.number} of {self.count}")

    def owns(self, pseudonym: str) -> bool:
        """Tell whether what has this pseudonym belongs here, whatever else there is."""
        return int(pseudonym, 16) % self.count == self.number

    def rows(self, total: int) -> slice:
        """Return which of `total` rows belong here."""
        return slice(total * self.number // self.count, total * (self.number + 1) // self.count)


def check(folders: Sequence[Path], wanted: Mapping[str, Any]) -> list[Path]:
    """Return the folders of all shards in their order, after a look at their lineage.

    Args:
        folders: what each shard wrote.
        wanted: what their lineage must say, as the step that puts them together would.

    Raises:
        Refused: a shard is damaged, was made with something else than is `wanted`, is missing, or came twice.
    """
    found: dict[int, Path] = {}
    counts = Counter[int]()
    for folder in folders:
        lineage = provenance.verify(folder)
        number, count = lineage.get("shard", [None, None])
        if differing := [name for name, value in wanted.items() if lineage.get(name) != value]:
            raise Refused(
                f"shard {number} of {count} was made with other {' and '.join(differing)} than the step that puts the "
                "shards together: run the pipeline again, every step in the same image with the same key"
            )
        if number in found:
            raise Refused(f"shard {number} of {count} came twice: run the pipeline again")
        found[number], counts[count] = folder, counts[count] + 1
    if len(counts) > 1:
        raise Refused(f"shards of {' and of '.join(map(str, sorted(counts)))} do not fit together: run it again")
    [count] = counts
    if missing := sorted(set(range(count)) - found.keys()):
        raise Refused(f"shard {', '.join(map(str, missing))} of {count} is missing: run the pipeline again")
    return [found[number] for number in range(count)]
