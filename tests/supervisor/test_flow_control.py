"""Flow control: the bound of a mailbox, in messages and bytes, for each of its senders."""

from __future__ import annotations

import os
import signal
from collections import deque
from typing import Any

import pytest
from actors import Counter, Later, Recorder
from hypothesis import given
from hypothesis import strategies as st
from processes import (
    PATIENCE,
    resident,
    stop,
)
from strangers import stranger

from supervisor import (
    CallTimeout,
    ChildSpec,
    MailboxFull,
    ProcessDown,
    Supervisor,
    SupervisorRef,
)
from supervisor.protocol import codec, message_kinds
from supervisor.protocol.flow_control import Credit, Served
from supervisor.protocol.message_kinds import MAILBOX, MAILBOX_BYTES


def test_calls_that_timed_out_do_not_use_up_what_may_be_under_way() -> None:
    ref = Later.start_link()
    for _ in range(message_kinds.IN_FLIGHT + 10):
        with pytest.raises(CallTimeout):
            ref.call("wait", timeout=0)
    assert ref.call("log") == [["continue", "from init"]]
    assert ref.call(["reply", 1]) == message_kinds.IN_FLIGHT + 10  # all too late, and dropped
    assert ref.call("log") == [["continue", "from init"]]


def test_too_many_calls_under_way() -> None:
    ref = Later.start_link()
    futures = [ref.call_async("wait") for _ in range(message_kinds.IN_FLIGHT)]
    with pytest.raises(MailboxFull, match="500 calls are under way"):
        ref.call_async("wait", timeout=0.01)
    ref.send("answer")
    assert {future.result(PATIENCE) for future in futures} == {"answer"}


def test_five_thousand_casts_to_a_stopped_actor_do_not_reach_its_successor(capfd: Any) -> None:
    sup: SupervisorRef = Supervisor.start_link([ChildSpec("c", Counter, name="c")])
    ref = sup.child("c")
    assert ref.call("get") == 0
    pid = ref.pid
    stop(ref.pid)
    for _ in range(5000):
        ref.cast(1)
    calls = [ref.call_async("get") for _ in range(50)]
    os.kill(pid, signal.SIGKILL)
    for call in calls:
        with pytest.raises(ProcessDown, match="killed"):
            call.result(PATIENCE)
    assert sup.child("c") == ref
    assert ref.call("get") == 0
    assert ref.pid != pid
    ref.cast(3)
    assert ref.call("get") == 3


def test_a_mailbox_is_bounded_in_bytes_too() -> None:
    ref = Counter.start_link()
    stop(ref.pid)
    big = b"x" * (1 << 20)
    sent = 0
    with pytest.raises(MailboxFull):
        for _ in range(100):
            ref.cast(big, timeout=0.01)
            sent += 1
    assert (
        sent == message_kinds.MAILBOX_BYTES // len(big) - 1
    )  # a message is a little more than its term
    os.kill(ref.pid, signal.SIGKILL)


def test_a_mailbox_has_a_bound() -> None:
    """What is over it waits, and is told; nothing is lost."""
    ref = Counter.start_link()
    pid = ref.pid
    stop(pid)
    sent = 0
    try:
        with pytest.raises(MailboxFull, match="does not serve its mailbox, which is full"):
            for _ in range(100_000):
                ref.cast(1, timeout=0.05)
                sent += 1
    finally:
        os.kill(pid, signal.SIGCONT)
    assert sent == message_kinds.MAILBOX
    assert ref.call("get") == sent  # what was accepted arrives


def test_one_that_ignores_its_credit_fills_no_memory() -> None:
    ref = Recorder.start_link()
    ref.suspend()
    message = codec.pack([1, 0, b"x" * 20_000])
    with stranger(ref.pid) as floods:
        floods.settimeout(1.0)
        with pytest.raises(TimeoutError):
            for _ in range(100_000):
                floods.sendall(message)
        assert resident(ref.pid) < 4 * message_kinds.MAILBOX_BYTES
        assert ref.statistics()["suspended"]
        ref.resume()
        floods.settimeout(PATIENCE)
        floods.sendall(message)
    assert ref.call("hello", timeout=PATIENCE) == "hello"


def test_an_actor_that_is_busy_holds_as_much_as_is_promised() -> None:
    ref = Recorder.start_link()
    for size in (0, 50, 3000, 40_000):
        stop(ref.pid)  # as one that is busy, for however long this takes
        most = min(message_kinds.MAILBOX - 2, message_kinds.MAILBOX_BYTES // (size + 40))
        for _ in range(most * 3 // 4):  # a quarter may have been served, and not given back
            ref.cast(b"x" * size, timeout=0)
        os.kill(ref.pid, signal.SIGCONT)
        assert ref.call("hello", timeout=PATIENCE) == "hello"


@given(st.lists(st.integers(1, MAILBOX_BYTES // 3), max_size=60), st.data())
def test_a_mailboxs_bound_is_of_what_was_not_served(sizes: list[int], data: st.DataObject) -> None:
    credit, served, unserved = Credit(), Served(), deque[int]()

    def serve() -> None:
        if served.count(unserved.popleft()):
            credit.extend(*served.tell())

    for size in sizes:
        while not credit.covers(size):
            assert unserved
            assert sum(unserved) + size > MAILBOX_BYTES // 2  # nobody waits without a reason
            serve()
        unserved.append(size)
        credit.sent += 1
        credit.sent_bytes += size
        assert sum(unserved) <= MAILBOX_BYTES
        assert len(unserved) <= MAILBOX
        if data.draw(st.booleans()):
            for _ in range(data.draw(st.integers(0, len(unserved)))):
                serve()
