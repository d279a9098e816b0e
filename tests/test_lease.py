"""The lease against a real S3 server: one holder, tokens that grow, and holders that die or sleep."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import botocore.auth
import pytest

import weed
from laptop import folder
from medloop import lease, s3_json, turn
from medloop.errors import Conflict, Refused, Unreachable
from medloop.stack import settings

SHORT = 2.0  # seconds that a lease lasts here

HOLDER = """
import os, sys
from medloop import turn
from medloop.errors import Refused
try:
    with turn.taken(sys.argv[1]):
        print("taken", flush=True)
        sys.stdin.readline()
        turn.confirm(sys.argv[1])
        turn.moved(sys.argv[1], sys.argv[2])
except Refused as error:
    print(error)
    sys.exit(error.exit_code)
"""

COUNTER = """
import sys, time
from pathlib import Path
from medloop import lease
for _ in range(5):
    with lease.held("counter") as held:
        path = Path(sys.argv[1])
        before = path.read_text().split()
        time.sleep(0.02)
        path.write_text(" ".join([*before, str(held.token)]))
"""


@pytest.fixture(scope="module")
def storage() -> Iterator[settings.Settings]:
    """An S3 server alone."""
    with folder() as path, weed.started(path / "stack") as made:
        yield made


@pytest.fixture
def name(storage, monkeypatch, request) -> str:
    """A name that nobody has held."""
    for variable, value in storage.values.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv(lease.LIFETIME, str(SHORT))
    return request.node.name


def holder(name: str, state: Path, champion: str = "1") -> subprocess.Popen:
    """Start a process that holds the turn until it is told a line."""
    command = [sys.executable, "-c", HOLDER, name, champion]
    env = os.environ | {"MEDLOOP_STATE": str(state)}
    started = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert started.stdout.readline() == "taken\n"
    return started


def test_tokens_grow_and_outlive_the_lease(name):
    tokens = []
    for _ in range(3):
        with lease.held(name) as held:
            tokens.append(held.token)
            found = s3_json.read(held.address).content
            assert (found["token"], found["owner"]) == (held.token, held.owner)
            assert socket.gethostname() not in json.dumps(found)
        assert s3_json.read(held.address).content["owner"] == ""
    assert tokens == [1, 2, 3]


def test_of_many_processes_one_holds_it_at_a_time(name, tmp_path):
    (tmp_path / "count").write_text("")
    running = [subprocess.Popen([sys.executable, "-c", COUNTER, tmp_path / "count"]) for _ in range(6)]
    assert [each.wait(timeout=60) for each in running] == [0] * 6
    assert [int(token) for token in (tmp_path / "count").read_text().split()] == list(range(1, 31))


def test_a_holder_that_is_killed_blocks_until_its_lease_expires(name, tmp_path):
    killed = holder(name, tmp_path / "a")
    killed.kill()
    killed.communicate()
    began = time.monotonic()
    with lease.held(name) as held:
        waited = time.monotonic() - began
    assert held.token == 2
    assert SHORT - 1 <= waited <= SHORT + lease.GRACE_SECONDS + 3


def test_a_holder_that_lives_keeps_it_for_as_long_as_it_needs(name, tmp_path, monkeypatch):
    living = holder(name, tmp_path / "a")
    monkeypatch.setattr(lease, "WAIT_SECONDS", 3 * SHORT)
    with pytest.raises(Conflict, match=f"others have held the lease on .* for {3 * SHORT:.0f} s"), lease.held(name):
        pass
    said, _ = living.communicate("go on\n", timeout=30)
    assert (living.returncode, said) == (0, "")
    assert turn.seen(name)["champion"] == "1"


def test_a_holder_that_slept_too_long_is_refused(name, tmp_path):
    asleep = holder(name, tmp_path / "a", champion="late")
    os.kill(asleep.pid, signal.SIGSTOP)
    try:
        with turn.taken(name):
            turn.moved(name, "2")
    finally:
        os.kill(asleep.pid, signal.SIGCONT)
    said, _ = asleep.communicate("go on\n", timeout=30)
    assert asleep.returncode == Conflict.exit_code
    assert "(token 1) has expired; token 2 was given out since; nothing was changed" in said
    assert turn.seen(name)["champion"] == "2"


def test_the_journal_takes_no_entry_under_an_older_token(name):
    with lease.held(name) as first:
        pass
    with lease.held(name) as second:
        lease.enter(second, {"champion": "2", "moves": "1"})
    with pytest.raises(Conflict, match=r"\(token 1\) expired while the champion moved"):
        lease.enter(first, {"champion": "1", "moves": "1"})
    assert lease.entry(name)["champion"] == "2"


def test_machines_see_each_others_moves(name, tmp_path, monkeypatch):
    before = turn.seen(name)
    other = holder(name, tmp_path / "other", champion="7")
    other.communicate("go on\n", timeout=30)
    with pytest.raises(Conflict, match="became version 7 while the promotion was under way"):
        turn.check(name, before, "the promotion")
    monkeypatch.delenv(lease.VARIABLE)
    assert turn.seen(name) == {}, "without a lease each machine has a journal of its own"


def test_nobody_can_write_what_has_changed_since_it_was_seen(name):
    address = s3_json.Address("mlflow", name)
    first = s3_json.write(address, {"a": 1}, seen=None)
    assert first
    assert s3_json.write(address, {"a": 2}, seen=None) is None
    second = s3_json.write(address, {"a": 2}, seen=first)
    assert s3_json.write(address, {"a": 3}, seen=first) is None
    assert (s3_json.read(address).content["a"], s3_json.read(address).etag) == (2, second)


@pytest.mark.parametrize(
    ("variable", "value", "error", "words"),
    [
        ("MEDLOOP_LEASE", "mlflow/leases", Refused, "MEDLOOP_LEASE must read s3://bucket/prefix, got 'mlflow/leases'"),
        ("MEDLOOP_LEASE", "s3://elsewhere/leases", Refused, "has no bucket elsewhere: make it, or name another"),
        ("MEDLOOP_LEASE_SECONDS", "soon", Refused, "MEDLOOP_LEASE_SECONDS must be 1 to 3600 seconds, got 'soon'"),
        ("AWS_SECRET_ACCESS_KEY", "wrong", Refused, "refuses this access key .*SignatureDoesNotMatch.*: set AWS_ACC"),
        ("AWS_ACCESS_KEY_ID", "nobody", Refused, "refuses this access key .*InvalidAccessKeyId.*: set AWS_ACCESS_K"),
        ("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9", Unreachable, "http://127.0.0.1:9 does not answer .*start it, or"),
    ],
)
def test_what_a_user_can_mend_is_named(name, monkeypatch, variable, value, error, words):
    monkeypatch.setenv(variable, value)
    with pytest.raises(error, match=words), lease.held(name):
        pass


def test_a_wrong_clock_is_named(name, monkeypatch):
    right = botocore.auth.get_current_datetime
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda *args: right(*args) - timedelta(hours=2))
    with pytest.raises(Refused, match=r"the clock of this machine is wrong \(RequestTimeTooSkewed\): set it by NTP"):
        s3_json.read(s3_json.Address("mlflow", name))
