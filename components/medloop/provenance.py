"""Outputs that appear whole or not at all, each with the lineage that chains it to its inputs."""

import ast
import errno
import hashlib
import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from medloop import params
from medloop.errors import Refused

SCHEMA_VERSION = 1
LINEAGE = "lineage.json"
FRONTS = {  # no result depends on them: they carry no logic, or say when to run and how that ended
    "medloop.cli",
    "medloop.components",
    "medloop.cron",
    "medloop.failures",
    "medloop.kubeflow",
    "medloop.workspace",
}
PACKAGES = {  # importable name: distribution
    "cv2": "opencv-python-headless",
    "great_expectations": "great-expectations",
    "jax": "jax",
    "keras": "keras",
    "nibabel": "nibabel",
    "numpy": "numpy",
    "onnxruntime": "onnxruntime",
    "pandas": "pandas",
    "pydicom": "pydicom",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "tensorflow": "tensorflow-cpu",
    "torch": "torch",
}


def is_front(module: str) -> bool:
    """Tell whether a dotted name is one of `FRONTS`, or stands in one."""
    return ".".join(module.split(".")[:2]) in FRONTS


def sha256(path: Path) -> str:
    """Return the hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def own_code() -> str:
    """Return the digest of all of medloop's code, by which an image is known to hold the same."""
    root = Path(__file__).parent
    return json_digest({path.relative_to(root).as_posix(): sha256(path) for path in sorted(root.rglob("*.py"))})


def tree(folder: Path) -> dict[str, str]:
    """Return the digest of each file below `folder`, by its path there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256(path) for path in files}


def json_digest(content: Any) -> str:
    """Return the hex digest of `content` written as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def stated(base: params.Base, section: params.Section) -> dict[str, Any]:
    """Return the parameters of a stage as its lineage says them."""
    return dict(json.loads(params.dump(base, section)))


def model_digest(card: dict[str, Any]) -> str:
    """Return the digest that names a model: of its final card, which holds `weights_sha256`."""
    return json_digest({"weights_sha256": card["weights_sha256"], "card": card})


def write_json(path: Path, content: Any) -> None:
    """Write `content` with sorted keys, the same bytes for the same content."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def read_lineage(folder: Path) -> dict[str, Any]:
    """Return the lineage in `folder`; raise Refused where there is none, a damaged one, or another schema version."""
    path = folder / LINEAGE
    if not path.exists():
        raise Refused(f"no {LINEAGE} in {folder}: run the stage that makes it first (`dvc repro`)")
    try:
        lineage = json.loads(path.read_text())
    except ValueError:
        raise Refused(f"{path} is damaged: remove {folder} and run `dvc repro` again") from None
    if lineage.get("schema_version") != SCHEMA_VERSION:
        raise Refused(
            f"{path} has schema version {lineage.get('schema_version')}, this medloop reads {SCHEMA_VERSION}: "
            "run `dvc repro` again"
        )
    return lineage


def digest(folder: Path) -> str:
    """Return the digest of everything that a stage wrote to `folder`, as its lineage says."""
    return json_digest(read_lineage(folder)["outputs"])


def verify(folder: Path) -> dict[str, Any]:
    """Return the lineage in `folder` after comparing each file with its digest.

    Raises:
        Refused: a file is missing or has changed since the stage wrote it.
    """
    lineage = read_lineage(folder)
    for name, wanted in lineage["outputs"].items():
        path = folder / name
        came = sha256(path) if path.exists() else "no such file"
        if came != wanted:
            raise Refused(
                f"{path} does not match its digest: wanted {wanted[:12]}, got {came[:12]}; run `dvc repro --force`"
            )
    return lineage


@contextmanager
def writing(
    stage: str,
    base: params.Base,
    section: params.Section,
    *outputs: Path,
    inputs: Mapping[str, Path] | None = None,
    **facts: Any,
) -> Iterator[list[Path]]:
    """Yield a temporary folder for each of `outputs`; at the end seal them with their lineage and move them in.

    Whatever goes wrong inside, the last good outputs stay as they are. `facts` are added to the lineage; nothing in it
    may change from run to run.

    Raises:
        Refused: the disk is full.
    """
    partial = [path.parent / f".{path.name}.partial" for path in outputs]
    read = {name: read_lineage(path) for name, path in (inputs or {}).items()}
    lineage = {
        "schema_version": SCHEMA_VERSION,
        "stage": stage,
        "parameters": stated(base, section),
        "inputs": {name: json_digest(upstream["outputs"]) for name, upstream in read.items()},
        "upstream": _chain(read.values()),
        "image_digest": os.environ.get("MEDLOOP_IMAGE_DIGEST"),
        **facts,
    }
    try:
        for folder, path in zip(partial, outputs, strict=True):
            if _old(path).exists() and not path.exists():  # killed between the two renames
                _old(path).rename(path)
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        yield partial
        lineage |= {"code": _code(), "packages": _packages()}
        for folder in partial:
            write_json(folder / LINEAGE, lineage | {"outputs": tree(folder)})
        for folder, path in zip(partial, outputs, strict=True):
            replace(folder, path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
            raise Refused(
                f"no room on disk for the output of {stage}: {error.strerror}; free some space and run again"
            ) from None
        raise
    finally:
        for folder in partial:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def recorded(folder: Path) -> Iterator[dict[str, Any]]:
    """Write `folder/run.json` at the end: seconds, peak memory, and what the caller adds (ids of runs).

    It stands outside every output, since all of it changes from run to run.
    """
    record: dict[str, Any] = {}
    start = time.perf_counter()
    yield record
    record["seconds"] = round(time.perf_counter() - start, 3)
    record["since_process_start_seconds"] = round(time.clock_gettime(time.CLOCK_BOOTTIME) - _started(), 3)
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    record["peak_memory_mib"] = round(peak / 1024, 1)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "run.json", record)


def _started() -> float:
    """Return when this process began, in seconds since boot."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")


def _chain(read: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return by digest the lineages in `read` and all that stand above them: the way back to the samples."""
    chain: dict[str, Any] = {}
    for lineage in read:
        own = {key: value for key, value in lineage.items() if key != "upstream"}
        chain |= lineage["upstream"] | {json_digest(lineage["outputs"]): own}
    return chain


def _old(path: Path) -> Path:
    return path.parent / f".{path.name}.old"


def replace(new: Path, path: Path) -> None:
    """Put the folder `new` in the place of `path`, which is there, old or new, at all times but for a moment."""
    old = _old(path)
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    new.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def _code() -> dict[str, str]:
    """Return the digest of each medloop module that this process has imported, fronts left out."""
    loaded = {
        name: Path(str(module.__file__))
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] == "medloop" and not is_front(name) and getattr(module, "__file__", None)
    }
    return {name: sha256(path) for name, path in sorted(loaded.items())}


def code_behind(*modules: ModuleType | Path) -> dict[str, str]:
    """Return the digest of each of `modules`, or of their files, and of all of medloop that they import anywhere."""
    found = {}
    waiting = {module if isinstance(module, Path) else Path(str(module.__file__)) for module in modules}
    while waiting:
        path = waiting.pop()
        found[path] = sha256(path)
        files = (_file(name) for name in _imported(path, found[path]) if not is_front(name))
        waiting |= {file for file in files if file} - found.keys()
    root = Path(__file__).parent  # which is another one in the next environment
    return {os.path.relpath(path, root): found[path] for path in sorted(found)}


@cache
def _imported(path: Path, digest: str) -> set[str]:  # noqa: ARG001  what is remembered is of this content
    """Return the dotted names that a module may import."""
    names = set[str]()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def _file(name: str) -> Path | None:
    """Return where the module of a dotted name below medloop is, None where there is none."""
    package, *parts = name.split(".")
    if package != __package__:
        return None
    path = Path(__file__).parent.joinpath(*parts)
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def _packages() -> dict[str, str]:
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for module, distribution in PACKAGES.items():
        if module in sys.modules:
            try:
                found[distribution] = metadata.version(distribution)
            except metadata.PackageNotFoundError:  # e.g. tensorflow in place of tensorflow-cpu
                found[module] = metadata.version(module)
    return found
