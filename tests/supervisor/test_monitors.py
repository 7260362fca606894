"""Monitors, in an actor and in a program that is none."""

import subprocess
import sys

import pytest
from actors import Counter, Later, Linked
from processes import PATIENCE, eventually

from supervisor import (
    CallTimeout,
    Cancelled,
    Down,
    Ref,
    Shutdown,
)


def test_a_monitor_may_be_closed() -> None:
    ref = Counter.start_link()
    monitors = [ref.monitor() for _ in range(10)]
    assert ref.statistics()["monitors"] == 10
    for monitor in monitors:
        monitor.close()
    assert ref.statistics()["monitors"] == 0
    with pytest.raises(Cancelled):
        monitors[0].wait()


def test_an_actor_removes_its_monitors() -> None:
    linked, other = Linked.start_link(trap=True), Counter.start_link()
    for _ in range(20):
        linked.call(["link", other])
        linked.call(["unlink", other])
    eventually(lambda: not (other.statistics()["monitors"]))


def test_monitors_of_a_program_and_of_an_actor_tell_the_reason() -> None:
    watched, watcher = Later.start_link(), Later.start_link()
    watcher.call(["monitor", watched])
    monitor = watched.monitor()
    pid = watched.pid
    with pytest.raises(CallTimeout):
        monitor.wait(0)
    watched.send("end")
    assert monitor.wait(PATIENCE) == Down(watched, pid, Shutdown("told to"))
    eventually(lambda: watcher.call("log")[-1:], [["down", watched, Shutdown("told to")]])


def test_a_monitor_of_nobody_tells_so() -> None:
    watcher = Later.start_link()
    watcher.call(["monitor", Ref(name="ghost")])
    assert watcher.call("log")[-1] == ["down", Ref(name="ghost"), "noproc"]


def test_hundreds_of_monitors_do_not_use_up_the_calls() -> None:
    ref = Counter.start_link(3)
    monitors = [ref.monitor() for _ in range(600)]
    assert ref.call("get") == 3
    ref.stop()
    assert {monitor.wait(PATIENCE).reason for monitor in monitors} == {"normal"}


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
