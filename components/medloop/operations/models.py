"""List the versions of the registered model."""

from typing import Any

from medloop import params
from medloop.tracking import registry
from medloop.tracking.connection import address, server

COLUMNS = ("version", "aliases", "architecture", "test", "interval", "validation", "leaks", "data")


def models(base: params.Base) -> str:
    """Return a table of the versions, the latest first: aliases and the gating metric on their test set."""
    rows = listed(base)
    if not rows:
        return f"{base.model_name} has no versions on {address()} yet: `medloop register`"
    table = [COLUMNS, *(tuple(str(row[name]) for name in COLUMNS) for row in rows)]
    widths = [max(len(line[index]) for line in table) for index in range(len(COLUMNS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table]
    return "\n".join([f"{base.model_name} on {address()}", *lines])


def listed(base: params.Base) -> list[dict[str, Any]]:
    """Return a row for each version, the latest first."""
    with server() as client:
        return [_row(version) for version in reversed(registry.versions(client, base.model_name))]


def _row(version: registry.Version) -> dict[str, Any]:
    tags = {name.removeprefix("medloop."): value for name, value in version.tags.items()}
    ends = [f"{float(tags[f'gate_{end}']):.3f}" if f"gate_{end}" in tags else "-" for end in ("value", "low", "high")]
    return {
        "version": version.number,
        "aliases": ", ".join(sorted(version.aliases)) or "-",
        "architecture": tags.get("architecture", "-"),
        "test": f"{tags.get('gate', '')} {ends[0]}",
        "interval": f"{ends[1]} to {ends[2]}",
        "validation": tags.get("validation", "-"),
        "leaks": tags.get("leaks", "-"),
        "data": tags.get("dataset", "-") + (" (simulated)" if tags.get("simulated") == "true" else ""),
        "tags": version.tags,
    }
