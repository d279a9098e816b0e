"""Plug-ins are modules found by their file name: sources, tasks, models, expectations."""

import importlib
import pkgutil
from types import ModuleType

from medloop.errors import Refused


def names(package: ModuleType) -> list[str]:
    """Return the names of the modules in `package`, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__))


def check(package: ModuleType, name: str) -> None:
    """Raise Refused, listing those that exist, if `package` has no module `name`."""
    known = names(package)
    if name not in known:
        kind = package.__name__.rpartition(".")[2].removesuffix("s")
        raise Refused(f"unknown {kind} {name!r}; known: {', '.join(known)}")


def load(package: ModuleType, name: str) -> ModuleType:
    """Return the module `package.name`; raise Refused, listing those that exist, if there is none."""
    check(package, name)
    return importlib.import_module(f"{package.__name__}.{name}")
