"""Every front knows the same stages by the same names, and importing a light module brings in nothing heavy."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from medloop import components, params, plugins, stages
from medloop.cli import stages as commands
from medloop_pipelines import images

ROOT = Path(__file__).resolve().parents[1]
FANNED_OUT = {"ingest", "preprocess"}
WRITERS = {"ingest", "validate", "preprocess", "train", "evaluate"}
TRAINING = {"tensorflow", "keras", "jax", "torch"}
SERVERS = {"mlflow", "kfp", "kubernetes", "dvc", "boto3"}
HEAVY = TRAINING | SERVERS | {"great_expectations", "matplotlib", "sklearn", "scipy", "onnxruntime"}


def dvc():
    return yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def test_every_front_knows_the_same_stages():
    known = set(params.STAGES)
    assert set(plugins.names(stages)) == known
    assert set(dvc()) == known
    assert known | {"schema_version", "base", "promote", "pipeline", "schedule"} == set(params.Params.model_fields)
    assert {command.name or command.callback.__name__ for command in commands.app.registered_commands} == known
    assert {name for name in known if callable(getattr(components, name, None))} == known
    assert {f"{stage}_part" for stage in FANNED_OUT} <= set(vars(components))
    assert set(images.DEFAULT) == known


def test_the_parameters_of_the_repository_name_every_stage():
    assert set(yaml.safe_load((ROOT / "params.yaml").read_text())) == set(params.Params.model_fields)


@pytest.mark.parametrize("stage", params.STAGES)
def test_dvc_calls_the_command_of_that_name(stage):
    entry = dvc()[stage]
    assert entry["cmd"].split()[:2] == ["medloop", stage]
    sections = {parameter.partition(".")[0] for parameter in entry["params"]}
    assert {"base", stage} <= sections


@pytest.mark.parametrize("stage", sorted(WRITERS))
def test_dvc_keeps_the_last_good_output(stage):
    assert all(options == {"persist": True} for out in dvc()[stage]["outs"] for options in out.values())


@pytest.mark.parametrize(
    ("modules", "barred"),
    [
        (
            ["cli", "cron", "errors", "evidence", "fetching.data", "params", "plugins", "provenance"],
            HEAVY | {"numpy", "pandas"},
        ),
        (["manifest", "sources", "imaging", "workspace"], HEAVY),
        (["stages.ingest", "stages.preprocess"], TRAINING | SERVERS | {"great_expectations", "matplotlib"}),
        (["stages.validate"], TRAINING | {"mlflow", "kfp", "dvc", "matplotlib"}),
        (["stages.evaluate"], TRAINING | SERVERS | {"great_expectations"}),
        (["stages.register", "serving"], TRAINING | {"great_expectations", "kfp", "dvc"}),
        (["kubeflow"], HEAVY | {"numpy", "pandas"}),
        (["turn"], HEAVY | {"numpy", "pandas"}),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_light_modules_stay_light(modules, barred):
    code = f"import sys, {', '.join(f'medloop.{name}' for name in modules)}; print(*{barred} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(
    ("before", "after"), [("pass", 10_000), ("gc.set_threshold(20_000)", 20_000), ("gc.disable()", 0)]
)
def test_a_process_of_medloop_seldom_looks_for_cycles_unless_told_otherwise(before, after):
    code = f"import gc; {before}; import medloop; print(gc.isenabled() * gc.get_threshold()[0])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == after


def test_imports_go_one_way():
    ours = ROOT / "components/medloop"
    upwards = [
        (path.name, line)
        for path in ours.rglob("*.py")
        for line in path.read_text().splitlines()
        if line.strip().startswith(("import medloop_pipelines", "from medloop_pipelines"))
        and not path.is_relative_to(ours / "cli")
    ]
    assert upwards == []
