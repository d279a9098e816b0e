"""Takes over from earlier samples what would come out the same: same file, label, options, key and code."""

import logging
from collections.abc import Sequence
from pathlib import Path

from medloop import packing, privacy, provenance
from medloop.errors import Refused

log = logging.getLogger(__name__)


def version(pseudonyms: privacy.Pseudonyms, md5s: Sequence[str | None], row: object) -> str | None:
    """Return a keyed digest of the files that an item is read from; None where it has none, or one is not at hand."""
    if not md5s or None in md5s:
        return None
    return pseudonyms.of("version", f"{' '.join(map(str, md5s))} {row!r}")


class Earlier:
    """Earlier samples, or none; those of another recipe count for none."""

    def __init__(self, folder: Path | None = None, recipe: str = "") -> None:
        self._places = dict[str, int]()  # of each item, by its pseudonym
        if folder is None or not (folder / packing.ITEMS).exists():
            return
        try:
            if provenance.read_lineage(folder).get("recipe") != recipe:
                return
            provenance.verify(folder)
            self._stored = packing.Stored(folder, "manifest.parquet")
        except Refused as error:
            log.warning("Nothing is taken over from earlier samples: %s", error)
            return
        except OSError as error:  # another run puts its own in their place
            log.warning("Nothing is taken over from earlier samples: they cannot be read (%s)", error.strerror)
            return
        self._places = {item: place for place, item in enumerate(self._stored.items["item"].to_pylist())}

    def entry(self, item: str, position: int, version: str | None, key: str) -> packing.Entry | None:
        """Return what came of an item, None where it has to be read; `key` names it in the private list."""
        if version is None or item not in self._places:
            return None
        found = self._stored.item(self._places[item])
        if found["version"] != version or found["reason"] is not None or not self._stored.holds(found):
            return None
        rows, flaws = self._stored.rows(found, key), tuple(found["flaws"])
        return packing.Entry(item, position, version, key, rows, flaws=flaws, taken=True)
