"""Takes over from earlier samples what would come out the same: same file, label, options, key and code."""

import logging
from collections.abc import Iterable
from pathlib import Path

from medloop import packing, privacy, provenance
from medloop.errors import Refused

log = logging.getLogger(__name__)


def version(pseudonyms: privacy.Pseudonyms, recipe: str, md5: str | None, row: object) -> str | None:
    """Return a keyed digest that is the same where the same samples come of an item; None for no file of its own."""
    return None if md5 is None else pseudonyms.of("version", f"{recipe} {md5} {row!r}")


class Earlier:
    """Earlier samples, or none."""

    def __init__(self, folder: Path | None = None) -> None:
        self._stored, self._items = None, {}
        if folder is None or not (folder / packing.ITEMS).exists():
            return
        try:
            provenance.verify(folder)
        except Refused as error:
            log.warning("Nothing is taken over from earlier samples: %s", error)
            return
        self._stored = packing.Stored(folder, "manifest.parquet")
        self._items = {(each["item"], each["version"]): each for each in self._stored.items if not each["reason"]}

    def rows(self, item: str, version: str | None, key: str) -> Iterable[packing.Row] | None:
        """Return the rows of an item, None where it has to be read; `key` names it in the private list."""
        found = self._items.get((item, version)) if version else None
        if self._stored is None or found is None or not self._stored.holds(found):
            return None
        return self._stored.rows(found, key)
