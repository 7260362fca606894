"""Links, and exits that are trapped."""

import os
import signal
from typing import Any

import pytest
from actors import Counter, Linked, Relay, seen
from processes import PATIENCE, eventually, wait_for_end

from supervisor import (
    Down,
    Exit,
    Shutdown,
)


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


@pytest.mark.slow
def test_a_watched_actors_death_in_a_call_leaves_the_watcher_well() -> None:
    relay = Relay.start_link()
    for _ in range(4):
        dying, others = Counter.start_link(), [Counter.start_link(n) for n in range(3)]
        assert relay.call(["survive", dying, others]) == [0, 1, 2]
        eventually(
            lambda dying=dying: any(
                isinstance(m, Down) and m.ref == dying for m in relay.call("heard")
            )
        )
        for ref in others:
            ref.stop()
    with_fds = len(os.listdir(f"/proc/{relay.pid}/fd"))
    for _ in range(4):
        relay.call(["survive", Counter.start_link(), []])
    assert len(os.listdir(f"/proc/{relay.pid}/fd")) <= with_fds + 4
