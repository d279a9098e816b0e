"""Promotes from twenty processes at once, each with a state of its own, as if on twenty machines.

`python tests/crowd.py SAMPLES RESULTS` writes RESULTS/NUMBER.json: exit code, message, seconds.
"""

import json
import os
import sys
import time
from pathlib import Path

from medloop import params
from medloop.errors import Refused
from medloop.operations import champion, promote  # noqa: F401  what a process would import at its first call
from medloop.tracking.connection import server

CROWD = 20


def main(samples: Path, results: Path) -> None:
    with server() as client:
        client.search_experiments()
    gate, opener = os.pipe()  # its end wakes all at once; a Barrier wakes one after the other
    children = []
    for number in range(CROWD):
        child = os.fork()
        if not child:
            os.close(opener)
            os.read(gate, 1)
            promoted(number, samples, results)
            os._exit(0)
        children.append(child)
    os.close(opener)
    for child in children:
        os.waitpid(child, 0)


def promoted(number: int, samples: Path, results: Path) -> None:
    os.environ["MEDLOOP_STATE"] = str(results / f"state-{number}")
    began = time.perf_counter()
    try:
        rule, version = params.Promote(resamples=100), str(2 + number % 3)
        decision = promote.promote(params.Base(dataset="toy"), rule, version=version, samples=samples)
        end = [0 if decision.ok else 2, str(decision)]
    except Refused as error:
        end = [error.exit_code, str(error)]
    except BaseException as error:
        end = [1, repr(error)]
    (results / f"{number}.json").write_text(json.dumps([*end, time.perf_counter() - began]))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
