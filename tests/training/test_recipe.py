"""The recipe on each backend, in a process of its own: keras keeps its backend."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from support import PLAIN_CODE

RECIPE = Path(__file__).with_name("recipe.py")
BACKENDS = ["tensorflow", "jax"] + (["torch"] if find_spec("torch") else [])


@pytest.fixture(scope="module", params=BACKENDS)
def result(request, tmp_path_factory):
    command = [sys.executable, str(RECIPE), request.param, str(tmp_path_factory.mktemp("recipe"))]
    env = {**os.environ, **PLAIN_CODE, "PYTHONPATH": os.pathsep.join([*sys.path, str(RECIPE.parents[1])])}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("architecture", ["resnet", "vit"])
def test_the_average_of_weights_and_statistics_is_one_made_by_hand(result, architecture):
    assert result[architecture]["average"] < 1e-5


@pytest.mark.parametrize("architecture", ["resnet", "vit"])
def test_a_run_that_is_cut_off_goes_on_to_the_same_bytes(result, architecture):
    assert result[architecture]["differ"] == 0
