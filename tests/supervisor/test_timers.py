"""Timers, idle timeouts, and functions that are called later."""

from pathlib import Path
from typing import Any

import pytest
from actors import Linked
from processes import PATIENCE, eventually

from supervisor import (
    ChildSpec,
    GenServer,
    Sender,
    Supervisor,
    SupervisorRef,
    handler,
)
from supervisor.actor.timers import Timers
from supervisor.testing import InProcess


class NotInTime(GenServer):
    """Sets a time that is none."""

    def handle_cast(self, request: str) -> None:
        if request == "timer":
            self.send_after(float("nan"), "never")
        self.idle_timeout = float("nan")


@pytest.mark.parametrize("what", ["timer", "idle_timeout"])
def test_a_time_is_a_number(what: str, capfd: Any) -> None:
    """A comparison with NaN is never true: timers would be in disorder, a loop without a pause."""
    ref = NotInTime.start_link()
    monitor = ref.monitor()
    ref.cast(what)
    assert "a number of seconds" in str(monitor.wait(PATIENCE).reason)


class Busy(GenServer):
    """Is told whenever nothing has come."""

    idle_timeout = 0

    def init(self) -> None:
        self.n = 0
        self.fired = False
        self.send_after(0.01, "timer")

    def handle_info(self, message: Any) -> None:
        self.n += 1
        self.fired = self.fired or message == "timer"

    def handle_call(self, request: Any, sender: Sender) -> Any:
        return self.n


def test_an_idle_timeout_of_0_starves_nothing(runtime_dir: Path) -> None:
    sup: SupervisorRef = Supervisor.start_link([ChildSpec("b", Busy, watchdog=0.5, shutdown=60)])
    ref = sup.child("b")
    eventually(lambda: ref.get_state()["fired"])
    eventually(lambda: ref.call("n") > 1)
    sup.stop(timeout=PATIENCE)


def test_cancelled_timers_do_not_pile_up() -> None:
    timers = Timers()
    for _ in range(10_000):
        timers.add(3600, lambda: None).cancelled = True
    kept = timers.add(3600, lambda: None)
    assert len(timers._timers) < 1000
    assert timers.patience() is not None
    assert kept in timers._timers


def test_an_idle_actor_is_told_so() -> None:
    ref = Linked.start_link(trap=False, idle=0.05)
    eventually(lambda: ref.get_state()["seen"], ["idle", "idle"])  # to ask for that is no message
    busy = Linked.start_link(trap=False, idle=30.0)
    busy.send("x")
    assert busy.call("seen") == ["x"]
    busy.replace_state(idle_timeout=0.01)
    eventually(lambda: busy.get_state()["seen"][:2], ["x", "idle"])


class Steps(GenServer):
    """Has always something to do: a timer that is due at once, set again and again."""

    def init(self) -> None:
        self.turns = 0
        self.step()

    def step(self) -> None:
        self.turns += 1
        self.call_later(0.0, self.step)

    @handler
    def count(self) -> int:
        return self.turns


def test_timers_that_are_due_at_once_do_not_starve_messages() -> None:
    ref = Steps.start_link()
    before = ref.call(Steps.count)
    assert ref.call(Steps.count) > before
    ref.stop()


class Ticks(GenServer):
    def init(self) -> None:
        self.ticks = 0
        self.timer = self.call_every(0.001, self.tick)

    def tick(self) -> None:
        self.ticks += 1
        if self.ticks == 5:
            self.cancel_timer(self.timer)

    @handler
    def count(self) -> int:
        return self.ticks


def test_a_function_is_called_again_and_again() -> None:
    with InProcess(Ticks) as ticks:
        for n in range(1, 6):
            ticks.elapse(0.001)
            assert ticks.server.ticks >= n
        ticks.elapse(1.0)
        ticks.elapse(1.0)
        assert ticks.call(Ticks.count) == 5
