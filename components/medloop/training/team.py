"""The processes that train one network together, one on each node, and what they tell each other.

Node 0 calls the roll: each other node connects to it, says what it is about to train, and hears whether all agree. The
connections stay: over them goes what node 0 decides after an epoch, and by their end a node that dies is noticed.
Gradients go another way, through the collectives of JAX.
"""

import json
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from medloop import failures
from medloop.errors import Refused, Unreachable
from medloop.training import rollcall
from medloop.training.seat import Seat

JOIN_S = 600.0  # given to all nodes to come: images are pulled meanwhile
NOTICE_S = 5.0  # from the failure of a collective until it is known who is gone
LEAVE_S = 30.0  # given to a process that waits for one that is gone


class Team:
    """One node alone; the base of what is said among several."""

    node, nodes = 0, 1

    @property
    def leads(self) -> bool:
        """Whether this process validates, keeps checkpoints and writes outputs; the others train alone."""
        return self.node == 0

    def agree(self, said: Any) -> Any:
        """Return what node 0 says, `said` there; the others wait for it."""
        return said

    def meet(self) -> None:
        """Wait until all nodes are here: a first collective gives up soon, and node 0 has more to start."""


ALONE = Team()


class Several(Team):
    """One of several nodes, with a connection to node 0, or on node 0 to each of the others."""

    def __init__(self, seat: Seat, links: Mapping[int, socket.socket]) -> None:
        self.node, self.nodes = seat.node, seat.nodes
        self._links, self._said = dict(links), queue.SimpleQueue[Any]()
        self._lost: int | None = None
        self._leaving, self._noticed = False, threading.Event()
        listening = [threading.Thread(target=self._listen, args=each, daemon=True) for each in self._links.items()]
        self._listening = listening
        for thread in listening:
            thread.start()

    def agree(self, said: Any) -> Any:
        if self.leads:
            self._tell({"said": said})
            return said
        return self._heard()

    def meet(self) -> None:
        if self.leads:
            for _ in self._links:
                self._heard()
        else:
            self._tell({"said": "here"})
        self.agree("all here")

    def _heard(self) -> Any:
        heard = self._said.get()
        if "lost" in heard and (loss := self.loss()):
            raise loss
        return heard["said"]

    def loss(self) -> Unreachable | None:
        """Return the error that names the node that is gone; None where none is, or was noticed in NOTICE_S."""
        if not self._noticed.wait(NOTICE_S):
            return None
        return Unreachable(
            f"node {self._lost} of {self.nodes} is gone, so node {self.node} stops: its own log says why; start the "
            "job again, and training goes on after its last whole epoch"
        )

    def leave(self) -> None:
        """Say that the end of the connections is no loss from now on."""
        self._leaving = True

    def wait(self) -> None:
        """Return when the others have hung up, after LEAVE_S at the latest."""
        deadline = time.monotonic() + LEAVE_S
        for thread in self._listening:
            thread.join(max(0.0, deadline - time.monotonic()))

    def close(self) -> None:
        """Hang up."""
        self._leaving = True
        for link in self._links.values():
            with rollcall.unless_gone():
                link.shutdown(socket.SHUT_RDWR)
            link.close()

    def _tell(self, message: dict[str, Any]) -> None:
        for link in self._links.values():
            with rollcall.unless_gone():  # whoever listens to it notices
                link.sendall(rollcall.line(message))

    def _listen(self, other: int, link: socket.socket) -> None:
        with rollcall.unless_gone(), link.makefile() as lines:
            for text in lines:
                heard = json.loads(text)
                if "lost" in heard:
                    self._lose(heard["lost"])
                else:
                    self._said.put(heard)
        self._lose(other)

    def _lose(self, other: int) -> None:
        if self._leaving or self._noticed.is_set():
            return
        self._lost = other
        self._noticed.set()
        if self.leads:
            self._tell({"lost": other})
        if other == 0:
            self._give_up()  # JAX is about to abort this process, and would not say as much
        self._said.put({"lost": other})
        timer = threading.Timer(LEAVE_S, self._give_up)
        timer.daemon = True
        timer.start()

    def _give_up(self) -> None:
        """End the process at once: what holds it is a collective, which cannot be interrupted."""
        if not self._leaving:
            error = self.loss()
            print(f"medloop: {error}", file=sys.stderr, flush=True)  # noqa: T201
            try:
                failures.leave(f"node-{self.node}", str(error))
            finally:
                os._exit(Unreachable.exit_code)


@contextmanager
def joined(seat: Seat | None, facts: Mapping[str, str]) -> Iterator[Team]:
    """Yield the team once all nodes have come and agree on `facts`; JAX then knows the devices of all of them.

    Raises:
        Unreachable: node 0 does not answer, or a node does not come within JOIN_S; later, a node is gone.
        Refused: two nodes differ in a fact, by its name.
    """
    if seat is None:
        yield ALONE
        return
    find = rollcall.call if seat.node == 0 else rollcall.answer
    team = Several(seat, find(seat, facts, time.monotonic() + JOIN_S))
    try:
        _connect(seat)
        yield team
    except Refused:
        raise
    except Exception as error:
        if loss := team.loss():
            raise loss from error
        raise
    finally:
        team.close()


def _connect(seat: Seat) -> None:
    """Let JAX see the devices of all nodes; must come before keras is imported."""
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)  # it would keep SIGTERM from ending the process
    jax.config.update("jax_enable_recoverability", True)  # else the end of a node aborts the others without a word
    jax.distributed.initialize(
        seat.address,
        seat.nodes,
        seat.node,
        cluster_detection_method="deactivate",
        initialization_timeout=int(LEAVE_S) * 2,
        heartbeat_timeout_seconds=int(LEAVE_S) * 2,
        shutdown_timeout_seconds=int(LEAVE_S),
    )


def part(team: Team) -> None:
    """Wait until all nodes are through with training; from then on each may end when it likes."""
    if not isinstance(team, Several):
        return
    import jax

    if team.leads:
        team.leave()
        team.agree(None)
        team.wait()  # the service of JAX, which is here, must be the last to go
        jax.distributed.shutdown()
    else:
        team.agree(None)
        team.leave()
        jax.distributed.shutdown()
        team.close()
