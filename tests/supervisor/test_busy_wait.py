"""Busy waiting pays, or ceases."""

import os
import select
import threading
import time
from collections.abc import Iterator

import pytest
from actors import Counter

from supervisor.protocol.busy_wait import BusyWait, Ready

MOST = 64
"""Waits at most between two attempts."""


class Pipe:
    """The end of a pipe that is polled, and how often it was."""

    def __init__(self) -> None:
        self.out, self.into = os.pipe()
        self.polls = 0
        self._poller = select.poll()
        self._poller.register(self.out, select.POLLIN)

    def poll(self, timeout: float | None = None, /) -> Ready:
        """Poll it."""
        self.polls += 1
        return self._poller.poll(timeout)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    os.close(made.out)
    os.close(made.into)


def test_it_finds_what_is_ready(pipe: Pipe) -> None:
    os.write(pipe.into, b"x")
    assert BusyWait(0).poll(pipe) == [(pipe.out, select.POLLIN)]


def test_it_ends_in_time(pipe: Pipe) -> None:
    assert BusyWait(1e-3).poll(pipe) == []
    assert pipe.polls > 1


def test_attempts_in_vain_become_rare(pipe: Pipe) -> None:
    busy, waits = BusyWait(0), 1000
    for _ in range(waits):
        assert busy.poll(pipe) == []
    assert 1 < pipe.polls <= 6 + waits / MOST  # after 1, 3, 7, 15, 31, and then 64 each


def test_after_one_that_paid_every_wait_is_an_attempt(pipe: Pipe) -> None:
    busy = BusyWait(0)
    for _ in range(1000):
        busy.poll(pipe)
    os.write(pipe.into, b"x")
    for _ in range(MOST + 1):
        busy.poll(pipe)
    before = pipe.polls
    for _ in range(10):
        assert busy.poll(pipe)
    assert pipe.polls == before + 10


def test_an_actor_that_is_not_asked_uses_no_processor() -> None:
    ref = Counter.start_link()
    for _ in range(1000):
        ref.call("get")
    before = ref.statistics()["cpu"]
    time.sleep(0.5)  # the time itself is what matters
    assert ref.statistics()["cpu"] - before < 0.1


def test_beside_other_threads_nobody_waits_busily(pipe: Pipe) -> None:
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    assert BusyWait(1.0).poll(pipe) == []
    end.set()
    thread.join()
    assert pipe.polls == 0
