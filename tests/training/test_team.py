"""Two processes that train together come to what one comes to; whoever does not fit or goes away is named."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from medloop.errors import Refused, Unreachable
from medloop.training import rollcall, team
from medloop.training.seat import JAX, Seat
from support import PLAIN_CODE
from synthetic import write_arrays

TOGETHER = Path(__file__).with_name("together.py")
FACTS = {"medloop": "1.0", "arrays": "abc"}
FOLLOWER = """
import sys, time
from medloop.training import rollcall, team
from medloop.training.seat import Seat

seat = Seat(1, 2, sys.argv[1])
us = team.Several(seat, rollcall.answer(seat, {}, time.monotonic() + 60))
print("joined", flush=True)
time.sleep(60)
"""


def free():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def environment(**own):
    return {**os.environ, **PLAIN_CODE, "PYTHONPATH": os.pathsep.join(sys.path), **own}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What one process and two come to, by name."""
    folder = tmp_path_factory.mktemp("together")
    arrays = write_arrays(folder / "arrays", signal=5)
    command = [sys.executable, str(TOGETHER), str(arrays)]
    alone, both, address = folder / "alone.npz", folder / "both.npz", free()
    subprocess.run([*command, str(alone), "1"], env=environment(), check=True, timeout=300)
    processes = []
    for node in "01":
        given = dict(zip(JAX, (address, "2", node), strict=True))
        processes.append(subprocess.Popen([*command, str(both), "2"], env=environment(**given)))
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    return dict(np.load(alone)), dict(np.load(both))


@pytest.mark.parametrize("architecture", ["normed", "lstm", "resnet", "vit"])
def test_two_nodes_come_to_the_losses_and_weights_of_one(results, architecture):
    alone, both = results
    names = [name for name in alone if name.startswith(f"{architecture} ")]
    assert len(names) > 4
    for name in names:
        np.testing.assert_allclose(both[name], alone[name], atol=1e-5, rtol=0, err_msg=name)
    losses = [name for name in names if "loss" in name]
    print(architecture, "differs by", max(np.abs(np.subtract(both[name], alone[name])).max() for name in losses))


def gathered(*facts, absent=(), seconds=5.0):
    """Call the roll of nodes with these facts in threads, and return what each got: a connection, or an error."""
    address, got = free(), {}

    def take_part(node):
        seat = Seat(node, len(facts), address)
        find = rollcall.answer if node else rollcall.call
        try:
            got[node] = find(seat, facts[node], time.monotonic() + seconds)
        except Refused as error:
            got[node] = error

    threads = [threading.Thread(target=take_part, args=(node,)) for node in range(len(facts)) if node not in absent]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return got


def test_a_node_that_differs_is_refused_by_name_on_all_nodes():
    got = gathered(FACTS, FACTS, FACTS | {"medloop": "0.9"})
    for node in range(3):
        assert isinstance(got[node], Refused)
        assert "node 2 differs from node 0 in medloop: 0.9 there, 1.0 on node 0" in str(got[node])


def test_a_node_that_does_not_come_is_named_after_a_while():
    start = time.monotonic()
    got = gathered(FACTS, FACTS, FACTS, absent=[2], seconds=2)
    assert time.monotonic() - start < 10
    assert isinstance(got[0], Unreachable)
    assert "of 3 nodes 2 did not come to node 0 at 127.0.0.1" in str(got[0])
    assert str(got[1]) == str(got[0])


def test_a_first_node_that_does_not_answer_is_named_with_its_address():
    start, address = time.monotonic(), free()
    with pytest.raises(
        Unreachable, match=rf"node 0 does not answer node 1 at {address} \(Connection refused\).*firewall"
    ):
        rollcall.answer(Seat(1, 2, address), FACTS, time.monotonic() + 1)
    assert time.monotonic() - start < 10


def test_a_port_that_is_taken_is_refused():
    with socket.create_server(("", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(Refused, match=r"node 0 cannot listen on port .*: Address already in use"):
            rollcall.call(Seat(0, 2, address), FACTS, time.monotonic() + 1)


def test_a_probe_of_the_port_and_noise_are_no_nodes():
    address = free()
    found = {}

    def call():
        found.update(rollcall.call(Seat(0, 2, address), FACTS, time.monotonic() + 20))

    caller = threading.Thread(target=call)
    caller.start()
    host, port = address.split(":")
    for noise in (b"", b"GET / HTTP/1.1\r\n\r\n", b'{"node": 7}\n', b"\xff\n"):
        while True:
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection((host, int(port))) as probe:
                probe.sendall(noise)
                break
    link = rollcall.answer(Seat(1, 2, address), FACTS, time.monotonic() + 20)
    caller.join()
    assert (list(link), list(found)) == ([0], [1])
    for each in (*link.values(), *found.values()):
        each.close()


def test_a_node_that_goes_away_is_named_on_all_the_others(monkeypatch):
    monkeypatch.setattr(team.Several, "_give_up", lambda self: None)  # it would end the test's own process
    links = gathered(FACTS, FACTS, FACTS)
    us = [team.Several(Seat(node, 3, ""), links[node]) for node in range(3)]
    us[0].agree({"loss": float("nan")})
    assert all(np.isnan(each.agree(None)["loss"]) for each in us[1:])
    us[1].close()
    for node in (0, 2):
        assert "node 1 of 3 is gone, so node" in str(us[node].loss())
    with pytest.raises(Unreachable, match="node 1 of 3 is gone, so node 2 stops"):
        us[2].agree(None)
    us[0].close()
    us[2].close()


def test_a_node_whose_first_node_is_killed_ends_and_says_so():
    address = free()
    caller = """
import sys, time
from medloop.training import rollcall
from medloop.training.seat import Seat

links = rollcall.call(Seat(0, 2, sys.argv[1]), {}, time.monotonic() + 60)
time.sleep(60)
"""
    first = subprocess.Popen([sys.executable, "-c", caller, address], env=environment())
    command = [sys.executable, "-c", FOLLOWER, address]
    with subprocess.Popen(command, env=environment(), stdout=-1, stderr=-1, text=True) as other:
        assert other.stdout.readline() == "joined\n"
        first.send_signal(signal.SIGKILL)
        _, said = other.communicate(timeout=30)
    first.wait()
    assert other.returncode == Unreachable.exit_code
    assert "medloop: node 0 of 2 is gone, so node 1 stops" in said
