"""Promotes from twenty processes at once, each with a state and an address of its own, as if on twenty machines.

`python tests/crowd.py SAMPLES RESULTS` writes RESULTS/NUMBER.json: exit code, message, seconds, the addresses
that it spoke from.
"""

import json
import os
import sys
import time
from pathlib import Path

from urllib3.util import connection

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


def own_address(number: int) -> set[str]:
    """Have MLflow's and boto3's connections begin at an address of this number; return those that were seen."""
    connect, seen = connection.create_connection, set()

    def connected(address, *given, **options):
        made = connect(address, *given, **{**options, "source_address": (f"127.0.1.{number + 1}", 0)})
        seen.add(made.getsockname()[0])
        return made

    connection.create_connection = connected
    return seen


def promoted(number: int, samples: Path, results: Path) -> None:
    seen = own_address(number)
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
    (results / f"{number}.json").write_text(json.dumps([*end, time.perf_counter() - began, sorted(seen)]))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
