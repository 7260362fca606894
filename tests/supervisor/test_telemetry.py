"""Events of supervisors, and who gets them."""

import os
import signal
from typing import Any

import pytest
from actors import Counter, Linked, Refuses, seen
from processes import PATIENCE
from trees import told

from supervisor import (
    CallTimeout,
    ChildSpec,
    Event,
    NoProcess,
    StartFailed,
    Supervisor,
    SupervisorRef,
)


def test_a_supervisor_tells_what_happens(capfd: Any) -> None:
    sup: SupervisorRef = Supervisor.start_link([ChildSpec("c", Counter)], intensity=1)
    events = sup.events()
    sup.start_child(ChildSpec("d", Counter))
    with pytest.raises(StartFailed):
        sup.start_child(ChildSpec("r", Refuses, ("exit",)))
    assert told(events, 2) == [("started", ("d",), None), ("failed", ("r",), "exit status 9")]
    pid = sup.child("c").pid
    os.kill(pid, signal.SIGKILL)
    exited, restarted = events.next(PATIENCE), events.next(PATIENCE)
    assert isinstance(exited, Event)
    assert (exited.kind, exited.path, exited.pid, exited.reason) == (
        "exited",
        ("c",),
        pid,
        "killed",
    )
    assert 0 < exited.uptime < 60
    assert (restarted.kind, restarted.restarts) == ("restarted", 1)
    assert restarted.pid == sup.child("c").pid
    with pytest.raises(CallTimeout):
        events.next(0.01)
    os.kill(restarted.pid, signal.SIGKILL)
    assert told(events, 2) == [
        ("exited", ("c",), "killed"),
        ("gave_up", (), "more than 1 restart within 5 s; the last was of child 'c'"),
    ]
    assert [(event.kind, event.path) for event in events] == [("exited", ("d",))]
    with pytest.raises(NoProcess):
        sup.events()


def test_events_of_all_below_reach_the_top_with_their_way(capfd: Any) -> None:
    counter = ChildSpec("c", Counter)
    inner = ChildSpec("inner", Supervisor, ([counter],), {"intensity": 0})
    middle = ChildSpec("middle", Supervisor, ([inner],))
    sup: SupervisorRef = Supervisor.start_link([middle])
    events = sup.events()
    at_middle = sup.child("middle").events()  # type: ignore[attr-defined]
    child = sup.child("middle").child("inner").child("c")  # type: ignore[attr-defined]
    os.kill(child.pid, signal.SIGKILL)
    way = ("middle", "inner")
    expected = [
        ("exited", (*way, "c"), "killed"),
        ("gave_up", way, "more than 0 restarts within 5 s; the last was of child 'c'"),
        ("exited", way, "shutdown"),
        ("started", (*way, "c"), None),
        ("restarted", way, None),
    ]
    assert told(events, 5) == expected
    assert told(at_middle, 5) == [(kind, path[1:], reason) for kind, path, reason in expected]


def test_an_actor_may_subscribe(capfd: Any) -> None:
    sup: SupervisorRef = Supervisor.start_link([ChildSpec("c", Counter)])
    actor = Linked.start_link(trap=False)
    actor.call(["subscribe", sup])
    os.kill(sup.child("c").pid, signal.SIGKILL)
    exited, restarted = seen(actor, 2)
    assert (exited.kind, restarted.kind) == ("exited", "restarted")
