"""Links, exits that are trapped, idle timeouts, and what supervisors tell of themselves."""

import os
import signal
import subprocess
import sys
from typing import Any

import pytest
from actors import Counter, Linked, Refuses
from processes import PATIENCE, eventually, program, wait_for_end

from supervisor import (
    CallTimeout,
    ChildSpec,
    Event,
    Events,
    Exit,
    NoProcess,
    Shutdown,
    StartFailed,
    Supervisor,
    SupervisorRef,
    linux,
)
from supervisor.errors import reason_of


def seen(ref: Any, number: int) -> list[Any]:
    """Wait until an actor has been given so many messages."""
    eventually(lambda: len(ref.call("seen")) >= number)
    return list(ref.call("seen"))


def watched(ref: Any, by: int = 1) -> None:
    """Wait until so many know that they will be told of an actor's end."""
    eventually(lambda: ref.statistics()["monitors"] >= by)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (["stop", "normal"], "normal"),
        (["stop", "shutdown"], "shutdown"),
        (["stop", Shutdown("x")], Shutdown("x")),
        ("kill", "killed"),
        ("exit", "exit status 3"),
    ],
)
def test_the_end_of_a_linked_actor(request_: Any, reason: Any) -> None:
    """It is told to the one that traps exits; it is the end of the other, unless normal."""
    other = Counter.start_link()
    traps, plain = Linked.start_link(trap=True), Linked.start_link(trap=False)
    for ref in (traps, plain):
        ref.call(["link", other])
    watched(other, by=2)
    monitor = plain.monitor()
    watched(plain, by=2)
    call = other.call_async(request_)
    assert seen(traps, 1) == [Exit(other, reason)]
    if reason == "normal":
        assert plain.call("seen") == []
    else:
        assert monitor.wait(PATIENCE).reason == reason
    assert call.exception() is None or reason in {"killed", "exit status 3"}


@pytest.mark.parametrize(
    ("kind", "reason", "told"),
    [
        (Counter, "normal", "normal"),
        (Counter, "shutdown", "shutdown"),
        (Counter, Shutdown("x"), "shutdown"),
        (Counter, "strange", "exit status 1"),
        (Supervisor, "shutdown", "normal"),  # for whoever runs it as a service
    ],
)
def test_the_exit_status_tells_those_who_asked_too_late(kind: Any, reason: Any, told: str) -> None:
    ref = kind.start_link()
    process = linux.process(ref.pid)
    pidfd = linux.open_process(process)
    ref.stop(reason)
    assert linux.ended(pidfd, PATIENCE)
    status = linux.exit_status(pidfd, process.pid)
    os.close(pidfd)
    assert status is not None
    assert reason_of(os.waitstatus_to_exitcode(status)) == told


CHILDREN = """
import os, signal, sys
for _ in range(int(sys.argv[1])):
    pid = os.fork()
    if not pid:
        signal.pause()
    print(pid, flush=True)
    os.waitpid(pid, 0)
    sys.stdin.readline()
"""


def test_the_exit_status_is_told_while_the_parent_reaps() -> None:
    """Between zombie and reaped a process is dead for a moment, which one look in 1,500 met."""
    rounds = 3000
    with program(sys.executable, "-c", CHILDREN, str(rounds)) as parent:
        for _ in range(rounds):
            pid = int(parent.expect("\n"))
            pidfd = os.pidfd_open(pid)
            os.kill(pid, signal.SIGSEGV)
            assert linux.ended(pidfd, PATIENCE)
            assert linux.exit_status(pidfd, pid) == signal.SIGSEGV
            os.close(pidfd)
            print(file=parent.process.stdin, flush=True)


def test_a_link_works_both_ways_and_can_be_undone() -> None:
    one, two = Linked.start_link(trap=True), Linked.start_link(trap=True)
    one.call(["link", two])
    watched(one)
    one.stop("shutdown")
    (message,) = seen(two, 1)
    assert (message.ref.is_alive(), message.reason) == (False, "shutdown")
    three = Linked.start_link(trap=True)
    three.call(["link", two])
    watched(three)
    three.call(["unlink", two])
    two.call("seen")
    three.stop("shutdown")
    assert two.call("seen") == [message]
    two.call(["link", three])
    assert seen(two, 2)[1] == Exit(three, "noproc")


def test_an_actor_that_starts_another_is_linked_to_it(capfd: Any) -> None:
    traps = Linked.start_link(trap=True)
    child = traps.call(["start", 5], timeout=PATIENCE)
    assert child.call("get") == 5
    child.call(["stop", "shutdown"])
    assert seen(traps, 1) == [Exit(child, "shutdown")]
    plain = Linked.start_link(trap=False)
    child = plain.call(["start", 5], timeout=PATIENCE)
    pid = plain.pid
    os.kill(child.pid, signal.SIGKILL)
    assert wait_for_end(pid)
    assert "killed" not in capfd.readouterr().err  # it was no crash of its own


def test_an_idle_actor_is_told_so() -> None:
    ref = Linked.start_link(trap=False, idle=0.05)
    while ref.get_state()["seen"] != ["idle", "idle"]:  # to ask for that is no message
        pass
    busy = Linked.start_link(trap=False, idle=30.0)
    busy.send("x")
    assert busy.call("seen") == ["x"]
    busy.replace_state(idle_timeout=0.01)
    eventually(lambda: busy.get_state()["seen"][:2], ["x", "idle"])


# -- what supervisors tell -------------------------------------------------------------------------


def told(events: Events, number: int) -> list[tuple[Any, ...]]:
    found = [events.next(PATIENCE) for _ in range(number)]
    return [(event.kind, event.path, event.reason) for event in found]


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
        ("gave_up", (), "more than 1 restarts within 5 s; the last was of child 'c'"),
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


def test_watchers_that_have_gone_are_forgotten() -> None:
    ref = Counter.start_link(name="watched")
    watch = (
        "from supervisor import whereis\n"
        "ref = whereis('watched')\n"
        "kept = [ref.monitor() for _ in range(200)]\n"
        "ref.call('get')"
    )
    for _ in range(5):
        subprocess.run([sys.executable, "-c", watch], check=True)
    assert ref.statistics()["monitors"] < 5 * 200
    monitors = [ref.monitor() for _ in range(1000)]
    assert ref.statistics()["monitors"] >= 1000
    ref.stop()
    assert {monitor.wait(PATIENCE).reason for monitor in monitors} == {"normal"}


def test_topics_are_known() -> None:
    ref = Counter.start_link()
    with pytest.raises(ValueError, match="events are of"):
        Events(ref._connection(), "weather").next(PATIENCE)
