"""The one list of what a worker may be asked: all of it is there, and nothing besides."""

import ast
import inspect
from pathlib import Path

import pytest
from devices import TUN
from processes import PATIENCE, Run

import tuncer
from supervisor.lowlevel import close_all
from tuncer import tunctl
from tuncer.protocol import control_socket
from tuncer.protocol.operations import OPERATIONS, REQUESTS, TUNCTL, WORKER
from tuncer.worker.server import Worker

CLIENT = Path(tuncer.__file__).with_name("client")


@pytest.mark.parametrize("name", TUNCTL)
def test_an_operation_of_tunctl_is_a_function_that_takes_a_device_first(name: str) -> None:
    first = next(iter(inspect.signature(getattr(tunctl, name)).parameters))
    assert first in {"fd", "target"}  # a target is a descriptor, too


@pytest.mark.parametrize("name", WORKER)
def test_an_operation_of_the_worker_is_a_method(name: str) -> None:
    assert inspect.isfunction(getattr(Worker, f"_{name}"))


def test_no_operation_has_two_meanings() -> None:
    assert not TUNCTL.keys() & WORKER.keys()


def test_clients_know_each_operation() -> None:
    trees = [ast.parse(path.read_text()) for path in CLIENT.glob("*.py")]
    constants = [n.value for tree in trees for n in ast.walk(tree) if isinstance(n, ast.Constant)]
    assert not OPERATIONS.keys() - set(constants)


@pytest.mark.parametrize("word", REQUESTS)
def test_each_request_by_the_control_socket_is_answered(run: Run, word: str) -> None:
    told = {"subscribe": [False, False, None], "subscribe_zmq": [False]}.get(word, [])
    with tuncer.create("lab0", TUN) as dev:
        answer, descriptors, channel = control_socket.request(
            dev._path, "lab0", word, *told, timeout=PATIENCE
        )
        assert isinstance(answer[0], str)
        close_all(descriptors)
        channel.close()
