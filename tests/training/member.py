"""One process that trains, alone or as a node: `python member.py ARRAYS MODEL`, $SECTION as JSON. See test_team.py."""

import os
import sys
from pathlib import Path

from medloop import kubeflow, params
from medloop.stages import train as stage
from medloop.training import live, team


class Silent:
    def __init__(self, *_):
        pass

    def log(self, *_, **__):
        pass

    tag = close = log


live.Live = Silent
team.JOIN_S = float(os.environ.get("JOIN_S", team.JOIN_S))
if "PRETEND" in os.environ:  # to be of another version
    stage.__version__ = os.environ["PRETEND"]
with kubeflow.step("member"):
    section = params.Train.model_validate_json(os.environ["SECTION"])
    stage.train(params.Base(), section, arrays=Path(sys.argv[1]), model=Path(sys.argv[2]))
