"""Which of the processes that train together this one is, as those who start them say it in the environment."""

import socket
from collections.abc import Mapping
from dataclasses import dataclass

from medloop import params
from medloop.errors import Refused

JAX = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")  # what Kubeflow Trainer's JAX runtime sets
HOSTS = "MEDLOOP_HOSTS"  # names of all nodes, for who starts them all alike
PORT = 29500  # of node 0, where the environment names hosts alone


@dataclass(frozen=True)
class Seat:
    """One process among those that train together."""

    node: int
    nodes: int
    address: str  # of node 0, HOST:PORT


def find(section: params.Train, environment: Mapping[str, str]) -> Seat | None:
    """Return the seat of this process; None where one node trains alone.

    Raises:
        Refused: the environment names no seat for one of several nodes, or another number of nodes.
    """
    seat = _of_jax(environment) or _of_hosts(environment)
    if seat is None and section.nodes > 1:
        raise Refused(
            f"train.nodes is {section.nodes}, and this process is alone: `medloop pipeline submit` trains on several "
            f"hosts; or start this on each of them with {', '.join(JAX)} set; or set train.nodes: 1"
        )
    if seat is not None and seat.nodes != section.nodes:
        raise Refused(f"train.nodes is {section.nodes}, but {seat.nodes} nodes were started: let the two agree")
    return seat if section.nodes > 1 else None


def _of_jax(environment: Mapping[str, str]) -> Seat | None:
    address, nodes, node = (environment.get(name, "") for name in JAX)
    if not address and not nodes and not node:
        return None
    if not nodes.isdecimal() or not node.isdecimal() or int(node) >= int(nodes) or not _is_address(address):
        raise Refused(
            f"{', '.join(JAX)} must be HOST:PORT of node 0, the number of nodes and which of them this is, counted "
            f"from 0; got {address!r}, {nodes!r}, {node!r}"
        )
    return Seat(int(node), int(nodes), address)


def _is_address(address: str) -> bool:
    host, _, port = address.rpartition(":")
    return bool(host) and port.isdecimal()


def _of_hosts(environment: Mapping[str, str]) -> Seat | None:
    hosts = environment.get(HOSTS, "").split()
    if not hosts:
        return None
    mine = {host: _is_mine(host) for host in hosts}
    if list(mine.values()).count(True) != 1:
        raise Refused(f"{HOSTS} must name this host once, got {' '.join(hosts)}; here is {socket.gethostname()}")
    return Seat(list(mine.values()).index(True), len(hosts), f"{hosts[0]}:{PORT}")


def _is_mine(host: str) -> bool:
    """Return whether a name stands for an address of this host: only those can be bound to."""
    try:
        [(family, kind, _, _, address), *_] = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
        with socket.socket(family, kind) as probe:
            probe.bind(address)
    except OSError:  # no such name, or another host's
        return False
    return True
