"""How the nodes find each other: one line of JSON there, one back, over a connection that stays."""

import contextlib
import json
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from medloop.errors import Refused, Unreachable
from medloop.training.seat import Seat

RETRY_S = 0.5
GREETING_S = 5.0  # for the first line of whoever connects
LONGEST = 65_536  # bytes of that line
KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}  # a machine without power is noticed after 30 s


def call(seat: Seat, facts: Mapping[str, str], deadline: float) -> dict[int, socket.socket]:
    """Return a connection to each other node, once all have come; node 0 does this.

    Raises:
        Unreachable: some have not come when the clock `time.monotonic` reads `deadline`.
        Refused: the address is taken, or two nodes differ in a fact.
    """
    links: dict[int, socket.socket] = {}
    known = {0: dict(facts)}
    with contextlib.ExitStack() as stack, _listening(seat) as door:
        while len(known) < seat.nodes:
            guest = _next(door, deadline)
            if guest is None:
                absent = ", ".join(str(node) for node in range(seat.nodes) if node not in known)
                problem = (
                    f"of {seat.nodes} nodes {absent} did not come to node 0 at {seat.address} in time: see their logs"
                )
                _tell(links, {"refused": problem})
                raise Unreachable(problem)
            hello = _message(guest, min(deadline, time.monotonic() + GREETING_S))
            if not isinstance(hello, dict) or hello.get("node") not in range(1, seat.nodes):
                guest.close()  # a probe whether the port is open, or none of ours
                continue
            if old := links.pop(hello["node"], None):
                old.close()  # it was started anew meanwhile
            links[hello["node"]] = guest
            stack.callback(guest.close)
            known[hello["node"]] = hello["facts"]
        if differs := difference(known):
            _tell(links, {"refused": differs})
            raise Refused(differs)
        door.close()  # the service of JAX listens there next
        _tell(links, {"go": True})
        stack.pop_all()
    return links


def answer(seat: Seat, facts: Mapping[str, str], deadline: float) -> dict[int, socket.socket]:
    """Return the connection to node 0, once it says that all nodes have come; every other node does this.

    Raises:
        Unreachable: node 0 does not answer until `time.monotonic` reads `deadline`, or not all nodes came.
        Refused: two nodes differ in a fact.
    """
    host, _, port = seat.address.rpartition(":")
    span = deadline - time.monotonic()
    why = "no answer"
    while (left := deadline - time.monotonic()) > 0:
        try:
            link = socket.create_connection((host.strip("[]"), int(port)), timeout=min(left, GREETING_S))
        except OSError as error:
            why = error.strerror or type(error).__name__
            time.sleep(min(RETRY_S, max(0.0, left)))
            continue
        _keep_alive(link)
        with unless_gone():
            link.sendall(line({"node": seat.node, "facts": dict(facts)}))
        # Node 0 runs by now, and within as long a span from its own start it says who is missing.
        reply = _message(link, time.monotonic() + span + GREETING_S)
        if isinstance(reply, dict) and "refused" in reply:
            link.close()
            raise Refused(reply["refused"])
        if isinstance(reply, dict) and "go" in reply:
            return {0: link}
        link.close()  # node 0 is gone, and may come back
        why = "it hung up"
        time.sleep(min(RETRY_S, max(0.0, left)))
    raise Unreachable(
        f"node 0 does not answer node {seat.node} at {seat.address} ({why}): see whether it runs, and whether a "
        "network policy or firewall keeps the nodes apart"
    )


def difference(known: Mapping[int, Mapping[str, str]]) -> str | None:
    """Return how the first node that differs from node 0 does so; None where all are alike."""
    for node, facts in sorted(known.items()):
        for name, wanted in known[0].items():
            if facts.get(name) != wanted:
                return (
                    f"node {node} differs from node 0 in {name}: {facts.get(name)} there, {wanted} on node 0; all "
                    "nodes need the same image, parameters and arrays"
                )
    return None


def line(message: Any) -> bytes:
    """Return a message as it goes over a connection."""
    return json.dumps(message).encode() + b"\n"


@contextmanager
def unless_gone() -> Iterator[None]:
    """Take the end of a connection for no error: it is noticed where it is listened to."""
    with contextlib.suppress(OSError, ValueError):
        yield


@contextmanager
def _listening(seat: Seat) -> Iterator[socket.socket]:
    port = int(seat.address.rpartition(":")[2])
    try:
        door = socket.create_server(("", port), backlog=seat.nodes, reuse_port=False)
    except OSError as error:
        raise Refused(
            f"node 0 cannot listen on port {port}: {error.strerror}; end what uses it, or name another"
        ) from None
    with door:
        yield door


def _next(door: socket.socket, deadline: float) -> socket.socket | None:
    """Return whoever connects next, None after `deadline`."""
    left = deadline - time.monotonic()
    if left <= 0:
        return None
    door.settimeout(left)
    try:
        guest, _ = door.accept()
    except TimeoutError:
        return None
    _keep_alive(guest)
    return guest


def _message(link: socket.socket, end: float) -> Any:
    """Return the next message on `link`, None where none comes until `end`, or nothing that could be one."""
    text = b""
    with contextlib.suppress(OSError, ValueError):
        while not text.endswith(b"\n") and len(text) < LONGEST:
            link.settimeout(max(0.001, end - time.monotonic()))
            if not (more := link.recv(1)):  # byte by byte: what follows the line belongs to others
                return None
            text += more
        link.settimeout(None)
        return json.loads(text)
    return None


def _tell(links: Mapping[int, socket.socket], message: Any) -> None:
    for link in links.values():
        with unless_gone():
            link.sendall(line(message))


def _keep_alive(link: socket.socket) -> None:
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        link.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
