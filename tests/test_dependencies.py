"""dvc.yaml names, for each stage, every module of medloop that the stage imports, and no other.

Imports are read off the source, those inside functions and in processes of their own too, and followed through medloop.
A stage that loads a plug-in may load any, so that what each of them imports counts.
"""

import ast
import re
from functools import cache
from pathlib import Path

import pytest
import yaml

from medloop import provenance

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "components" / "medloop"
PLUGINS = {"answers", "expectations", "kinds", "models", "pages", "sources", "tasks"}
ALWAYS_RUNS = {"register"}
SENDS_ONLY = {"medloop.tracking.listen"}  # a process that takes metrics from training and gives nothing back


def stages():
    return yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def source(module):
    """Return the file of a dotted name below medloop, or None where there is none."""
    path = PACKAGE.joinpath(*module.split(".")[1:])
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def name(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imported(module):
    """Return the medloop modules that `module` names, plug-ins that it loads among them."""
    found = set()
    for node in ast.walk(ast.parse(source(module).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("plugins.load", "load"):
            package = ast.unparse(node.args[0])
            assert package in PLUGINS, f"{module} loads a plug-in of {package}"
            found |= {name(path) for path in (PACKAGE / package).glob("*.py")}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):  # python -m, in a process of its own
            found |= {node.value} - SENDS_ONLY
    return {each for each in found if each.startswith("medloop.") and source(each)}


def reached(stage):
    """Return the files of medloop that a stage may import, fronts and __init__ files left out."""
    seen, waiting = set(), {f"medloop.stages.{stage}"}
    while waiting:
        module = waiting.pop()
        seen.add(module)
        parents = {module.rpartition(".")[0]} - {"medloop"}
        waiting |= {each for each in imported(module) | parents if not provenance.is_front(each)} - seen
    files = {source(module).relative_to(ROOT).as_posix() for module in seen}
    return {file for file in files if not file.endswith("__init__.py")}


def covers(dependency, file):
    pattern = "[^/]+".join(re.escape(part) for part in re.split(r"\$\{[^}]+\}", dependency))
    return bool(re.fullmatch(f"{pattern}(/.*)?", file))


def compared(stage, dependencies):
    """Return the files that no dependency covers, and the dependencies on code that cover no file."""
    code = [dependency for dependency in dependencies if dependency.startswith("components/")]
    files = reached(stage)
    missing = {file for file in files if not any(covers(dependency, file) for dependency in code)}
    return missing, {dependency for dependency in code if not any(covers(dependency, file) for file in files)}


@pytest.mark.parametrize("stage", sorted(set(stages()) - ALWAYS_RUNS))
def test_a_stage_depends_on_the_modules_that_it_imports(stage):
    missing, idle = compared(stage, stages()[stage]["deps"])
    assert missing == set(), "a change of these would go unnoticed"
    assert idle == set(), "a change of these would run the stage for nothing"


@pytest.mark.parametrize("stage", sorted(ALWAYS_RUNS))
def test_a_stage_that_always_runs_needs_no_code_among_its_dependencies(stage):
    assert stages()[stage]["always_changed"] is True


def test_a_missing_and_an_idle_dependency_are_noticed():
    front, needed = "components/medloop/cli/stages.py", "components/medloop/inference.py"
    files = reached("evaluate")
    assert compared("evaluate", files) == (set(), set())
    assert compared("evaluate", files - {needed} | {front}) == ({needed}, {front})


def test_imports_in_functions_plug_ins_and_processes_count():
    assert "components/medloop/training/checkpoint.py" in reached("train")
    assert "components/medloop/training/exporter.py" in reached("train")
    assert not any("/tracking/" in file for file in reached("train"))
    assert "components/medloop/imaging.py" in reached("ingest")
    assert {file.rpartition("/")[2] for file in reached("train") if "/models/" in file} >= {"cnn.py", "lstm.py"}


def test_a_stage_s_section_is_among_its_parameters_whole():
    """`train` alone names its keys one by one, so that another architecture leaves the others be."""
    from medloop.params import Train

    named = {parameter.split(".")[1] for parameter in stages()["train"]["params"] if parameter.startswith("train.")}
    assert named | {"architectures"} == set(Train.model_fields)
    for stage in set(stages()) - {"train"}:
        assert stage in stages()[stage]["params"]
