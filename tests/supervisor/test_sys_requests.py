"""What OTP's ``sys`` does with any actor: suspend, resume, state, statistics, traces."""

import time

import pytest
from actors import Counter, Later, Relay
from processes import PATIENCE, eventually

from supervisor import (
    MailboxFull,
)
from supervisor.protocol import message_kinds


def test_state_can_be_seen_and_replaced() -> None:
    ref = Counter.start_link(5)
    assert ref.get_state() == {"n": 5}
    assert ref.replace_state(n=7, lock="x") == {"n": 7, "lock": "x"}
    assert ref.call("get") == 7
    with pytest.raises(ValueError, match="'_actor' is no attribute"):
        ref.replace_state(_actor=5)
    later = Relay.start_link()
    assert later.get_state()["opaque"].startswith("<object object")
    with pytest.raises(ValueError, match="no request to an actor's system"):
        ref._ask(message_kinds.SYSTEM, {"x": 1}, 5.0)


def test_a_suspended_actor_serves_later_and_in_order() -> None:
    ref = Counter.start_link()
    ref.suspend()
    for n in range(3000):
        ref.cast(n)
    call = ref.call_async("get")
    assert ref.statistics()["suspended"]
    assert ref.get_state() == {"n": 0}
    assert not call.done()
    ref.resume()
    assert call.result(PATIENCE) == sum(range(3000))
    assert not ref.statistics()["suspended"]
    ref.suspend()
    ref.stop()  # it ends all the same
    assert not ref.is_alive()


def test_a_suspended_actor_has_a_bounded_mailbox_and_no_timers() -> None:
    ref = Later.start_link()
    ref.call(["after", 0.01, "late"])
    ref.suspend()
    with pytest.raises(MailboxFull):
        for _ in range(2 * message_kinds.MAILBOX):
            ref.send("x", timeout=0.01)
    assert "late" not in ref.get_state()["log"]
    ref.resume()
    eventually(lambda: "late" in ref.call("log"))


def test_statistics() -> None:
    ref = Counter.start_link()
    for _ in range(3):
        ref.call("get")
    ref.cast(1)
    found = ref.statistics()
    assert abs(found.pop("started") - time.time()) < 60
    assert found.pop("cpu") > 0
    assert found.pop("monitors") == 0
    assert found == {"calls": 3, "casts": 1, "infos": 0, "replies": 3, "suspended": False}


def test_a_trace_shows_what_is_served_and_replied() -> None:
    ref = Counter.start_link()
    with ref.trace() as trace:
        ref.cast(5)
        assert ref.call("get") == 5
        seen = [trace.next(PATIENCE) for _ in range(3)]
        assert [(event.kind, event.term) for event in seen] == [
            ("cast", 5),
            ("call", "get"),
            ("reply", 5),
        ]
    with pytest.raises(StopIteration):
        trace.next()
    ref.cast(1)
    again = ref.trace()
    ref.call("stop")
    assert [event.kind for event in again] == ["call", "reply"]  # and ends with the actor


def test_a_trace_that_nobody_reads_counts_what_it_lost() -> None:
    ref = Counter.start_link()
    trace = ref.trace()
    for _ in range(20_000):
        ref.cast(1)
    assert ref.call("get") == 20_000
    ref.cast(0)
    seen = 0
    while seen < 20_003:
        seen += 1 + trace.next(PATIENCE).lost
    assert seen == 20_003
    trace.close()
