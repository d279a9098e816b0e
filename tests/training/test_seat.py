import socket

import pytest

from medloop.errors import Refused
from medloop.params import Train
from medloop.training import seat
from medloop.training.seat import Seat

TWO = Train(nodes=2, backend="jax")
TRAINER = {"JAX_COORDINATOR_ADDRESS": "job-node-0-0.job:6666", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}


def test_the_variables_of_kubeflow_trainer_say_where_a_process_sits():
    assert seat.find(TWO, TRAINER) == Seat(1, 2, "job-node-0-0.job:6666")


def test_names_of_hosts_do_too():
    assert seat.find(TWO, {"MEDLOOP_HOSTS": "nowhere.invalid localhost"}) == Seat(1, 2, "nowhere.invalid:29500")
    assert seat.find(TWO, TRAINER | {"MEDLOOP_HOSTS": "a b"}).node == 1  # those of Trainer come first
    with pytest.raises(
        Refused, match=f"must name this host once, got a.invalid b.invalid; here is {socket.gethostname()}"
    ):
        seat.find(TWO, {"MEDLOOP_HOSTS": "a.invalid b.invalid"})


def test_one_node_needs_no_seat():
    assert seat.find(Train(), {}) is None
    assert seat.find(Train(), TRAINER | {"JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"}) is None


@pytest.mark.parametrize(
    ("section", "given", "message"),
    [
        (TWO, {}, "train.nodes is 2, and this process is alone: `medloop pipeline submit` trains on several hosts"),
        (Train(), TRAINER, "train.nodes is 1, but 2 nodes were started"),
        (Train(nodes=4, backend="jax"), TRAINER, "train.nodes is 4, but 2 nodes were started"),
        (TWO, TRAINER | {"JAX_PROCESS_ID": "2"}, "counted from 0; got 'job-node-0-0.job:6666', '2', '2'"),
        (TWO, TRAINER | {"JAX_COORDINATOR_ADDRESS": "job"}, "must be HOST:PORT of node 0"),
    ],
)
def test_what_does_not_fit_is_refused(section, given, message):
    with pytest.raises(Refused, match=message):
        seat.find(section, given)
