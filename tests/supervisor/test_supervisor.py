"""Supervisors on real processes: order, restarts, the fd store, and who dies with whom."""

import contextlib
import dataclasses
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from actors import (
    Counter,
    Refuses,
    Witness,
)
from processes import PATIENCE, eventually, gone, wait_for_end
from trees import kill_actor, start, states, wait_for, watch

from supervisor import (
    CallTimeout,
    ChildSpec,
    NotFound,
    Ref,
    RemoteError,
    StartFailed,
    Supervisor,
    SupervisorRef,
    linux,
    whereis,
)


def test_children_start_in_order_and_stop_in_reverse(runtime_dir: Path) -> None:
    log = str(runtime_dir / "log")
    sup = start(*(ChildSpec(name, Witness, (log, name)) for name in "abc"))
    assert [row[0] for row in sup.which_children()] == ["a", "b", "c"]
    assert sup.count_children() == {"specs": 3, "active": 3, "supervisors": 0, "workers": 3}
    sup.stop()
    assert Path(log).read_text().splitlines() == [
        "start a",
        "start b",
        "start c",
        "end c shutdown",
        "end b shutdown",
        "end a shutdown",
    ]


def test_a_failing_start_takes_the_others_down(runtime_dir: Path) -> None:
    log = str(runtime_dir / "log")
    specs = [ChildSpec("a", Witness, (log, "a")), ChildSpec("b", Refuses, ("raise",))]
    with pytest.raises(
        StartFailed, match="b failed to start: RuntimeError: no start today"
    ) as caught:
        start(*specs)
    assert caught.value.child == "b"
    assert "actors.py" in str(caught.value)
    assert Path(log).read_text().splitlines() == ["start a", "end a shutdown"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"strategy": "none"}, "strategy is one of"),
        ({"intensity": -1}, "intensity"),
        ({"period": 0}, "period"),
        ({"auto_shutdown": "always"}, "auto_shutdown is one of"),
    ],
)
def test_wrong_options_are_refused_before_anything_starts(
    options: dict[str, Any], text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        start(**options)
    with pytest.raises(ValueError, match=text):
        ChildSpec("inner", Supervisor, kwargs=options)


def test_a_killed_child_is_restarted_and_its_name_follows() -> None:
    sup = start(ChildSpec("c", Counter, (5,), name="c"), intensity=100)
    ref = Ref(name="c")
    for _ in range(5):
        before = ref.pid
        ref.cast(1)
        kill_actor(ref)
        assert sup.child("c").pid != before
        assert ref.call("get") == 5


@pytest.mark.parametrize(
    ("restart", "request_", "restarted"),
    [
        ("permanent", "stop", True),
        ("permanent", "raise", True),
        ("transient", "stop", False),
        ("transient", ["stop", "shutdown"], False),
        ("transient", "exit", True),
        ("transient", "raise", True),
        ("temporary", "kill", False),
    ],
)
def test_restart_types(restart: Any, request_: Any, restarted: bool, capfd: Any) -> None:
    sup = start(ChildSpec("c", Counter, restart=restart))
    ref = sup.child("c")
    monitor = ref.monitor()
    with (
        pytest.raises(Exception, match=r"on request|ended|^$")
        if request_ in ("raise", "exit", "kill")
        else _no()
    ):
        ref.call(request_)
    monitor.wait(PATIENCE)
    if restarted:
        assert sup.child("c") != ref
    else:
        with pytest.raises(NotFound):
            sup.child("c")
        specs = 0 if restart == "temporary" else 1
        assert sup.count_children()["specs"] == specs
    capfd.readouterr()


def _no() -> Any:
    return contextlib.nullcontext()


def test_too_many_restarts_end_the_supervisor(capfd: pytest.CaptureFixture[str]) -> None:
    sup = start(ChildSpec("c", Counter), ChildSpec("d", Counter), intensity=2, period=60)
    monitor = watch(sup)
    for _ in range(2):
        kill_actor(sup.child("c"))
    sibling = sup.child("d").pid
    kill_actor(sup.child("c"))
    assert monitor.wait(PATIENCE).reason == "shutdown"
    assert gone(sibling)
    assert "more than 2 restarts within 60 s" in capfd.readouterr().err


def test_a_child_with_a_limit_of_its_own_is_given_up_alone(
    capfd: pytest.CaptureFixture[str],
) -> None:
    sup = start(
        ChildSpec("c", Counter, intensity=1, period=60), ChildSpec("d", Counter), intensity=0
    )
    kill_actor(sup.child("c"))
    kill_actor(sup.child("c"))
    with pytest.raises(NotFound):
        sup.child("c")
    assert sup.child("d").call("get") == 0
    assert "given up" in capfd.readouterr().err


def test_processes_have_names_that_ps_shows() -> None:
    sup = start(ChildSpec("the worker of all", Counter))
    assert Path(f"/proc/{sup.pid}/comm").read_text() == "Supervisor\n"
    assert (
        Path(f"/proc/{sup.child('the worker of all').pid}/comm").read_text() == "the worker of a\n"
    )


def test_supervisors_nest_and_a_killed_one_comes_back_with_its_children() -> None:
    leaf = ChildSpec("leaf", Counter, (1,), name="leaf")
    middle = ChildSpec("middle", Supervisor, ([leaf],), {"intensity": 9})
    top = start(ChildSpec("inner", Supervisor, ([middle],), {"intensity": 9}), intensity=9)
    leaf_ref = Ref(name="leaf")
    for victim in (0, 1):
        inner = top.child("inner")
        assert isinstance(inner, SupervisorRef)
        pids = [inner.pid, inner.child("middle").pid, leaf_ref.pid]
        os.kill(pids[victim], signal.SIGKILL)
        for pid in pids[victim:]:
            assert wait_for_end(pid)
        again = top.child("inner")
        assert isinstance(again, SupervisorRef)
        assert again.child("middle").is_alive()
        assert leaf_ref.call("get") == 1
        assert gone(pids[2])


def test_escalation_reaches_the_top(capfd: pytest.CaptureFixture[str]) -> None:
    leaf = ChildSpec("leaf", Counter, name="leaf")
    top = start(ChildSpec("inner", Supervisor, ([leaf],), {"intensity": 0}), intensity=0)
    monitor = watch(top)
    kill_actor(Ref(name="leaf"))
    assert monitor.wait(PATIENCE).reason == "shutdown"
    capfd.readouterr()


def test_a_killed_childs_signal_is_told(capfd: Any) -> None:
    sup: SupervisorRef = Supervisor.start_link([ChildSpec("c", Counter)], intensity=5)
    for number, reason in ((signal.SIGSEGV, "signal SIGSEGV"), (signal.SIGKILL, "killed")):
        monitor = sup.child("c").monitor()
        events = sup.events()
        os.kill(sup.child("c").pid, number)
        assert monitor.wait(PATIENCE).reason == reason
        assert events.next(PATIENCE).reason == reason
    capfd.readouterr()


def test_a_nested_supervisor_that_starts_stops_its_children_in_order(runtime_dir: Path) -> None:
    log = runtime_dir / "log"
    inner = ChildSpec(
        "inner",
        Supervisor,
        ([ChildSpec("w", Witness, (str(log), "w")), ChildSpec("h", Refuses, ("hang",))],),
    )
    for how in ("stop", "terminate"):
        log.write_text("")
        sup: SupervisorRef = Supervisor.start_link([])
        with pytest.raises(CallTimeout):
            sup.call(["start_child", inner, None], timeout=0.2)
        eventually(lambda: "start w" in log.read_text())
        if how == "terminate":
            sup.terminate_child("inner")
        sup.stop(timeout=PATIENCE)
        assert log.read_text().splitlines() == ["start w", "end w shutdown"]


@pytest.mark.parametrize(
    ("strategy", "again"),
    [
        ("one_for_one", ["start b"]),
        ("rest_for_one", ["end c shutdown", "start b", "start c"]),
        ("one_for_all", ["end c shutdown", "end a shutdown", "start a", "start b", "start c"]),
    ],
)
def test_what_is_restarted_and_in_which_order(
    strategy: str, again: list[str], runtime_dir: Path, capfd: Any
) -> None:
    log = runtime_dir / "log"
    sup = start(*(ChildSpec(x, Witness, (str(log), x)) for x in "abc"), strategy=strategy)
    log.write_text("")
    kill_actor(sup.child("b"))
    sup.child("b").call("name")
    assert log.read_text().splitlines() == again
    assert states(sup) == dict.fromkeys("abc", "running")


def test_a_significant_child_ends_its_supervisor(capfd: Any) -> None:
    one = ChildSpec("one", Counter, restart="transient", significant=True)
    two = ChildSpec("two", Counter, restart="temporary", significant=True)
    sup = start(one, two, ChildSpec("x", Counter), auto_shutdown="all_significant")
    monitor = sup.monitor()
    sup.child("one").call("stop")
    wait_for(sup, {"one": "undefined", "two": "running", "x": "running"})
    assert sup.child("two").call(["stop", "normal"]) == "stopping"
    assert monitor.wait(PATIENCE).reason == "shutdown"

    sup = start(one, two, auto_shutdown="any_significant")
    monitor = sup.monitor()
    sup.terminate_child("two")
    kill_actor(sup.child("one"))
    assert sup.child("one").call("get") == 0  # neither was its end by itself, for good
    sup.child("one").call("stop")
    assert monitor.wait(PATIENCE).reason == "shutdown"


def test_the_exit_status_of_a_root_tells_whether_it_gave_up(capfd: Any) -> None:
    for spec, end, status in [
        (ChildSpec("c", Counter), kill_actor, 1),
        (
            ChildSpec("c", Counter, restart="transient", significant=True),
            lambda c: c.call("stop"),
            0,
        ),
    ]:
        auto = "any_significant" if spec.significant else "never"
        sup = start(spec, intensity=0, auto_shutdown=auto)
        process = linux.process(sup.pid)
        pidfd = linux.open_process(process)
        end(sup.child("c"))
        assert linux.ended(pidfd, PATIENCE)
        assert os.waitstatus_to_exitcode(linux.exit_status(pidfd, process.pid) or 0) == status
        os.close(pidfd)
    reported_reason = capfd.readouterr().err
    assert "gives up: more than 0 restarts within 5 s" in reported_reason
    assert "child 'c', which ended: killed" in reported_reason


def test_nested_supervisors_escalate_through_every_strategy(capfd: Any, runtime_dir: Path) -> None:
    log = runtime_dir / "log"
    inner = ChildSpec(
        "inner", Supervisor, ([ChildSpec("c", Witness, (str(log), "c"))],), {"intensity": 0}
    )
    sup = start(inner, ChildSpec("after", Witness, (str(log), "after")), strategy="rest_for_one")
    log.write_text("")
    ref = sup.child("inner")
    assert isinstance(ref, SupervisorRef)
    kill_actor(ref.child("c"))
    wait_for_end(ref.pid)
    assert sup.child("inner").child("c").call("name") == "c"  # type: ignore[attr-defined]
    sup.child("after").call("name")
    assert log.read_text().splitlines() == ["end after shutdown", "start c", "start after"]
    assert sup.get_childspec("inner") == {
        "id": "inner",
        "start": "supervisor.supervision.supervisor:Supervisor",
        "name": None,
        "restart": "permanent",
        "shutdown": "infinity",
        "type": "supervisor",
        "significant": False,
        "init_timeout": None,
        "watchdog": None,
        "backoff": None,
        "preload": True,
        "intensity": None,
        "period": 5.0,
    }
    with pytest.raises(NotFound):
        sup.get_childspec("outer")


def test_a_supervisor_may_be_started_as_a_child_of_a_running_one() -> None:
    sup = start()
    spec = ChildSpec("net", Supervisor, ([ChildSpec("c", Counter, (7,), name="seven")],))
    inner = sup.start_child(spec)
    assert isinstance(inner, SupervisorRef)
    assert inner.child("c").call("get") == 7
    seven = whereis("seven")
    assert seven is not None
    kill_actor(inner)  # all below it is killed with it, and comes back with it
    assert sup.child("net").child("c").call("get") == 7  # type: ignore[attr-defined]
    assert seven.call("get") == 7


def test_sys_exit_ends_no_more_than_an_error(
    runtime_dir: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(runtime_dir))
    sup = start(ChildSpec("c", Counter))
    with pytest.raises(RemoteError, match="SystemExit: enough"):
        sup.child("c").call("sys.exit")
    with pytest.raises(StartFailed, match="SystemExit: no"):
        sup.start_child(ChildSpec("r", Refuses, ("sys.exit",)))
    (runtime_dir / "exits.py").write_text("import sys\nsys.exit('from a module')")
    plan = dataclasses.replace(ChildSpec("m", Counter).plan(travels=True), start="exits:X")
    with pytest.raises(StartFailed, match="SystemExit: from a module"):
        sup.call(["start_child", plan, None], timeout=PATIENCE)
    assert sup.child("c").call("get") == 0
