"""Calls of many actors at once."""

import os
import signal
import threading
import time
from typing import Any

import pytest
from actors import Counter
from processes import stop

from supervisor import (
    CallTimeout,
    GenServer,
    NoProcess,
    NoReply,
    ProcessDown,
    RemoteError,
    Sender,
    multi_call,
)


def test_multi_call_checks_before_it_sends() -> None:
    ref = Counter.start_link()
    for refs, request in (([ref, "x"], "get"), ([ref], object())):
        with pytest.raises(TypeError):
            multi_call(refs, request)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a timeout is a number"):
        multi_call([ref], "get", timeout="5")  # type: ignore[arg-type]
    assert ref.statistics()["calls"] == 0


def test_many_actors_of_which_one_refuses() -> None:
    good, bad = Counter.start_link(1), Refusing.start_link()
    replies, errors = multi_call([bad, good], "get")
    assert replies == [(good, 1)]
    assert [(ref, type(error), str(error)) for ref, error in errors] == [
        (bad, ValueError, "not today")
    ]
    with pytest.raises(RemoteError, match="ValueError"):
        bad.call("strange")
    assert bad.is_alive()


class Refusing(GenServer):
    """Refuses."""

    def handle_call(self, request: Any, sender: Sender) -> Any:
        self.refuse(sender, ValueError(object() if request == "strange" else "not today"))

        return NoReply()


def test_multi_call() -> None:
    refs = [Counter.start_link(n) for n in range(5)]
    dead, slow, down = Counter.start_link(), Counter.start_link(), Counter.start_link()
    dead.stop()
    stop(slow.pid)
    stop(down.pid)
    threading.Timer(0.05, os.kill, (down.pid, signal.SIGKILL)).start()
    before = time.monotonic()
    replies, errors = multi_call([dead, *refs, slow, down], "get", timeout=0.5)
    assert 0.5 <= time.monotonic() - before < 5
    assert replies == list(zip(refs, range(5), strict=True))
    assert [(ref, type(error)) for ref, error in errors] == [
        (dead, NoProcess),
        (slow, CallTimeout),
        (down, ProcessDown),
    ]
    os.kill(slow.pid, signal.SIGKILL)
