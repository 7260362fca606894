"""The wait for any of several replies, of the same or of different actors."""

import os
import signal
import threading
import time
from typing import Any

import pytest
from actors import Counter, Later
from processes import PATIENCE, descriptors, stop

from supervisor import CallTimeout, ProcessDown, wait_any


def test_the_first_reply_is_waited_for() -> None:
    slow, quick = Later.start_link(), Counter.start_link(3)
    futures = [slow.call_async("wait"), slow.call_async("wait"), quick.call_async("get")]
    assert wait_any(futures, PATIENCE) == ([futures[2]], futures[:2])
    with pytest.raises(CallTimeout, match=r"none of 2 calls was answered within 0.01 s"):
        wait_any(futures[:2], 0.01)
    slow.call(["reply", "went"])
    done, rest = wait_any(futures[:2], PATIENCE)
    assert [future.result(PATIENCE) for future in (*done, *rest)] == ["went", "went"]


def test_those_that_are_done_are_told_at_once() -> None:
    ref = Counter.start_link()
    futures = [ref.call_async(["echo", n]) for n in range(3)]
    assert [future.result() for future in futures] == [0, 1, 2]
    assert wait_any(futures, 0.0) == (futures, [])
    assert wait_any([]) == ([], [])


def test_an_end_is_an_answer() -> None:
    dying, slow = Later.start_link(), Later.start_link()
    futures = [slow.call_async("wait"), dying.call_async("wait")]
    os.kill(dying.pid, signal.SIGKILL)
    assert wait_any(futures, PATIENCE) == ([futures[1]], [futures[0]])
    assert isinstance(futures[1].exception(), ProcessDown)


def test_a_reply_that_another_thread_reads_is_seen() -> None:
    """It leads the connection, and so reads what this waits for."""
    ref, other = Later.start_link(), Later.start_link()
    stop(other.pid)
    futures = [ref.call_async("wait"), other.call_async("wait")]
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(ref.call("wait", timeout=PATIENCE)))
    thread.start()
    waits = threading.Thread(target=lambda: found.append(wait_any(futures, PATIENCE)))
    waits.start()
    time.sleep(0.05)
    ref.call(["reply", "went"], timeout=PATIENCE)
    thread.join(PATIENCE)
    waits.join(PATIENCE)
    assert sorted(map(repr, found)) == sorted([repr("went"), repr(([futures[0]], [futures[1]]))])
    os.kill(other.pid, signal.SIGCONT)


def test_nothing_stays_open() -> None:
    ref = Counter.start_link()
    ref.call("get")
    before = descriptors(os.getpid())
    for _ in range(20):
        wait_any([ref.call_async("get")], PATIENCE)
    assert descriptors(os.getpid()).keys() == before.keys()


def test_references_are_not_waited_for() -> None:
    with pytest.raises(TypeError, match="futures of call_async are waited for, not <Ref"):
        wait_any([Counter.start_link()])  # type: ignore[list-item]
