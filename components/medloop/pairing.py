"""Which task, kind of sample and architecture go together: read off their files, without importing them."""

import ast
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from medloop import models, plugins, tasks
from medloop.errors import Refused

KINDS = "KINDS"  # of a task: the kinds of sample that it takes
TAKES = "TAKES"  # of an architecture, likewise
# of both: what a network gives of each sample: "numbers" where a file declares nothing, "map", "boxes" or "image"
GIVES = "GIVES"
IMAGES = ("image",)  # where a file declares nothing
NUMBERS = "numbers"
_SAID = {
    NUMBERS: "a few numbers of each sample",
    "map": "a map of each image",
    "boxes": "boxes of each image",
    "image": "images",
}


def check(task: str, kind: str, architectures: Sequence[str] = ()) -> None:
    """Raise Refused, listing what fits, where there is no such task, where it or an architecture does not take samples
    of a kind, or where a network does not give what the task needs.

    An architecture that does not exist is left to who loads it.
    """
    plugins.check(tasks, task)
    if kind not in declared(tasks, task, KINDS, IMAGES):
        fit = [name for name in plugins.names(tasks) if kind in declared(tasks, name, KINDS, IMAGES)]
        raise Refused(f"task {task} does not take samples of kind {kind}; tasks that do: {_listed(fit)}")
    for architecture in architectures:
        if architecture in plugins.names(models) and kind not in declared(models, architecture, TAKES, IMAGES):
            raise Refused(
                f"architecture {architecture} does not take samples of kind {kind} (task {task}); architectures that "
                f"do: {_listed(_fitting(task, kind))}; set train.architectures"
            )
        if architecture in plugins.names(models):
            _check_given(task, kind, architecture)


def _check_given(task: str, kind: str, architecture: str) -> None:
    wanted = given(tasks, task)
    if given(models, architecture) != wanted:
        raise Refused(
            f"task {task} needs networks that give {_SAID[wanted]}, architecture {architecture} does not; "
            f"architectures that do: {_listed(_fitting(task, kind))}; set train.architectures"
        )


def _fitting(task: str, kind: str) -> list[str]:
    """Return the architectures that take samples of a kind and give what a task needs, where it is one."""
    wanted = given(tasks, task) if task in plugins.names(tasks) else None
    return [
        name
        for name in plugins.names(models)
        if kind in declared(models, name, TAKES, IMAGES) and wanted in (None, given(models, name))
    ]


def declared(package: ModuleType, name: str, constant: str, default: Sequence[str]) -> tuple[str, ...]:
    """Return the names that a plug-in assigns to `constant`, else `default`."""
    found = assigned(package, name, constant)
    return tuple(default if found is None else found)


def given(package: ModuleType, name: str) -> str:
    """Return what the networks of a task, or of an architecture, give: "numbers", "map", "boxes" or "image"."""
    return assigned(package, name, GIVES) or NUMBERS


def assigned(package: ModuleType, name: str, constant: str) -> Any:
    """Return what a plug-in assigns to `constant`, or None."""
    for node in ast.parse(source(package, name).read_text()).body:
        if isinstance(node, ast.Assign) and [getattr(target, "id", None) for target in node.targets] == [constant]:
            return ast.literal_eval(node.value)
    return None


def hyper_parameters(architecture: str) -> list[str]:
    """Return what the `build` of an architecture may be given beside the shape of its input and its outputs."""
    for node in ast.parse(source(models, architecture).read_text()).body:
        if isinstance(node, ast.FunctionDef) and node.name == "build":
            return [argument.arg for argument in node.args.kwonlyargs]
    return []


def source(package: ModuleType, name: str) -> Path:
    """Return the file of a plug-in without importing it; raise Refused where there is none."""
    plugins.check(package, name)
    found = importlib.util.find_spec(f"{package.__name__}.{name}")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
