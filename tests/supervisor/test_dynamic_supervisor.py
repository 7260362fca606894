"""Strategies, significant children, dynamic supervisors, watchdogs: on real processes."""

import dataclasses
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from actors import Counter, Refuses, Scripted, Witness
from hypothesis import given
from hypothesis import strategies as st
from processes import PATIENCE, SUPPORT, stop, wait_for_end
from trees import kill_actor, start, states

from supervisor import (
    AlreadyPresent,
    Backoff,
    CallTimeout,
    ChildSpec,
    DynamicSupervisor,
    DynamicSupervisorRef,
    GenServer,
    NotFound,
    ProcessDown,
    RemoteError,
    Restarting,
    Sender,
    StartFailed,
    StillRunning,
    Supervisor,
    SupervisorRef,
    TooManyChildren,
    linux,
    whereis,
)
from supervisor.supervision.child_spec import Plan


def wait_for(sup: Any, expected: dict[str, str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while states(sup) != expected:
        assert time.monotonic() < deadline, states(sup)


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


def test_a_child_that_is_starting_can_be_terminated() -> None:
    sup = start()
    with pytest.raises(CallTimeout):
        sup.call(["start_child", ChildSpec("h", Refuses, ("hang",)), None], timeout=0.05)
    assert states(sup) == {"h": "starting"}
    sup.terminate_child("h")
    assert states(sup) == {}  # as every start that fails


def test_a_restart_loop_can_be_stopped(runtime_dir: Path, capfd: Any) -> None:
    script = (str(runtime_dir), "c", ["ok"] + 10_000 * ["error"])
    specs = [ChildSpec("c", Scripted, script), ChildSpec("d", Counter)]
    sup = start(*specs, intensity=10_000)
    kill_actor(sup.child("c"))
    while (runtime_dir / "c.starts").stat().st_size < 5:
        assert states(sup)["d"] == "running"  # it answers meanwhile
    with pytest.raises((Restarting, StillRunning)):
        sup.delete_child("c")
    sup.terminate_child("c")
    assert states(sup) == {"c": "undefined", "d": "running"}
    number = (runtime_dir / "c.starts").stat().st_size
    assert sup.child("d").call("get") == 0
    assert (runtime_dir / "c.starts").stat().st_size == number
    capfd.readouterr()


@pytest.mark.parametrize("backoff", [None, Backoff(initial=1000, maximum=1000)])
def test_a_supervisor_in_a_restart_loop_can_be_stopped(
    backoff: Backoff | None, runtime_dir: Path, capfd: Any
) -> None:
    script = (str(runtime_dir), "c", ["ok"] + 10_000 * ["error"])
    specs = [ChildSpec("c", Scripted, script, backoff=backoff), ChildSpec("d", Counter)]
    sup = start(*specs, intensity=10_000)
    kill_actor(sup.child("c"))
    if backoff is None:
        while (runtime_dir / "c.starts").stat().st_size < 5:
            assert states(sup)["d"] == "running"
    sup.stop(timeout=PATIENCE)
    number = (runtime_dir / "c.starts").stat().st_size
    assert not sup.is_alive()
    assert (runtime_dir / "c.starts").stat().st_size == number
    capfd.readouterr()


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


def test_a_supervisor_answers_while_a_childs_module_is_imported(
    runtime_dir: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.syspath_prepend(str(runtime_dir))
    flag = runtime_dir / "flag"
    source = (Path(SUPPORT) / "actors.py").read_text()
    wait = f"import os, time\nwhile not os.path.exists({str(flag)!r}): time.sleep(0.01)\n"
    (runtime_dir / "slow.py").write_text(source + wait)
    (runtime_dir / "handles.py").write_text(
        source + "signal.signal(signal.SIGUSR1, signal.SIG_IGN)\n"
    )

    def of(module: str, **options: Any) -> Plan:
        plan = ChildSpec(module, Counter, **options).plan(travels=True)
        return dataclasses.replace(plan, start=f"{module}:Counter")

    sup = start(ChildSpec("c", Counter))
    with pytest.raises(CallTimeout):
        sup.call(["start_child", of("slow"), None], timeout=0.1)
    for _ in range(20):
        assert states(sup) == {"c": "running", "slow": "starting"}
    flag.touch()
    assert sup.child("slow").call("get") == 0
    assert sup.call(["start_child", of("handles"), None], timeout=PATIENCE).call("get") == 0
    sup.stop()

    flag.unlink()  # and from here on it hangs
    sup = start(ChildSpec("c", Counter))
    with pytest.raises(StartFailed, match=r"within 0.1 s \(init_timeout\)"):
        sup.call(["start_child", of("slow", init_timeout=0.1), None], timeout=PATIENCE)
    with pytest.raises(StartFailed, match="the import of slow:Counter"):
        sup.start_child(ChildSpec("d", Counter))
    assert states(sup) == {"c": "running"}
    sup.stop(timeout=PATIENCE)
    sup = start(ChildSpec("c", Counter))
    with pytest.raises(CallTimeout):
        sup.call(["start_child", of("slow"), None], timeout=0.1)
    sup.terminate_child("slow")
    assert states(sup) == {"c": "running"}
    sup.stop(timeout=PATIENCE)
    capfd.readouterr()


def test_init_timeout() -> None:
    sup = start()
    with pytest.raises(StartFailed, match=r"init has not returned within 0.05 s"):
        sup.start_child(ChildSpec("h", Refuses, ("hang",), init_timeout=0.05))
    assert states(sup) == {}
    ref = sup.start_child(ChildSpec("c", Counter, init_timeout=30.0))
    assert ref is not None
    assert ref.call("get") == 0
    with pytest.raises(StartFailed, match=r"h failed to start: init has not returned"):
        start(ChildSpec("c", Counter), ChildSpec("h", Refuses, ("hang",), init_timeout=0.05))


class Sleeper(GenServer):
    """Hangs when told, in Python or as a whole."""

    def handle_call(self, request: Any, sender: Sender) -> Any:
        match request:
            case "hang":
                hang_here()
            case "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
        return os.getpid()


def hang_here() -> None:
    signal.pause()


@pytest.mark.parametrize("how", ["hang", "stop"])
def test_a_hung_child_is_dumped_and_restarted(how: str, capfd: Any) -> None:
    sup = start(ChildSpec("s", Sleeper, watchdog=0.2))
    ref = sup.child("s")
    pid, monitor = ref.pid, ref.monitor()
    with pytest.raises(ProcessDown):
        ref.call(how)
    assert monitor.wait(PATIENCE).reason == "hung"
    assert sup.child("s").call("pid") != pid
    err = capfd.readouterr().err
    assert "child 's': no sign of life for 0.2 s (watchdog): killing it" in err
    assert "child 's' ended: hung; restarting it" in err
    assert ("in hang_here" in err) == (how == "hang")
    assert "in handle_call" in err


def test_a_watchdog_lets_the_living_live(capfd: Any) -> None:
    """Neither an idle child, nor one whose supervisor was stopped for longer, is hung."""
    sup = start(ChildSpec("s", Sleeper, watchdog=0.1))
    pid = sup.child("s").call("pid")
    stop(sup.pid)
    time.sleep(0.5)  # the time itself is what matters here
    os.kill(sup.pid, signal.SIGCONT)
    time.sleep(0.5)
    assert sup.child("s").call("pid") == pid
    assert capfd.readouterr().err == ""


def test_restarts_may_wait(capfd: Any) -> None:
    spec = ChildSpec("c", Counter, backoff=Backoff(initial=0.2, jitter=0))
    sup = start(spec, ChildSpec("d", Counter), intensity=5)
    before = time.monotonic()
    kill_actor(sup.child("c"))
    wait_for(sup, {"c": "restarting", "d": "running"})
    with pytest.raises(Restarting):
        sup.restart_child("c")
    with pytest.raises(AlreadyPresent):
        sup.start_child(ChildSpec("c", Counter))
    wait_for(sup, {"c": "running", "d": "running"})
    assert time.monotonic() - before >= 0.2
    kill_actor(sup.child("c"))
    wait_for(sup, {"c": "restarting", "d": "running"})
    sup.terminate_child("c")
    sup.restart_child("c")
    assert states(sup) == {"c": "running", "d": "running"}


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_backoff_grows_up_to_its_maximum(restarts: int, chance: float) -> None:
    backoff = Backoff(0.5, 20.0, 2.0, 0.25)
    plain = Backoff(0.5, 20.0, 2.0, 0).delay(restarts, chance)
    assert plain == min(20.0, 0.5 * 2.0 ** min(restarts, 100))
    assert 0.75 * plain <= backoff.delay(restarts, chance) <= 1.25 * plain


# -- dynamic supervisors ---------------------------------------------------------------------------


def dynamic(spec: ChildSpec, **options: Any) -> DynamicSupervisorRef:
    ref: DynamicSupervisorRef = DynamicSupervisor.start_link(spec, **options)
    return ref


def test_children_of_a_template_come_and_go(capfd: Any) -> None:
    sup = dynamic(ChildSpec("c", Counter), max_children=3)
    assert sup.count_children() == {"specs": 1, "active": 0, "supervisors": 0, "workers": 0}
    one, two, three = (sup.start_child(n) for n in (1, 2, 3))
    assert one is not None
    assert two is not None
    assert [row[:2] for row in sup.which_children()] == [("c-1", one), ("c-2", two), ("c-3", three)]
    with pytest.raises(TooManyChildren, match="3 children"):
        sup.start_child(4)
    sup.terminate_child(two)
    with pytest.raises(NotFound):
        sup.terminate_child(two)
    four = sup.start_child(start=4)
    assert four is not None
    assert [ref.call("get") for ref in (one, four)] == [1, 4]
    kill_actor(one)
    wait_for(sup, dict.fromkeys(["c-1", "c-3", "c-4"], "running"))
    again = sup.which_children()[0][1]
    assert again is not None
    assert again.call("get") == 1
    with pytest.raises(TypeError, match="object"):
        sup.start_child(object())


def test_children_of_a_template_that_do_not_start_or_end_in_order_are_forgotten() -> None:
    sup = dynamic(ChildSpec("c", Counter, restart="transient"))
    ref = sup.start_child()
    assert ref is not None
    ref.call("stop")
    wait_for(sup, {})
    sup = dynamic(ChildSpec("r", Refuses))
    with pytest.raises(StartFailed, match="no start today"):
        sup.start_child("raise")
    assert sup.start_child("ignore") is None
    assert states(sup) == {}


def test_children_of_a_template_are_stopped_at_the_same_time(runtime_dir: Path) -> None:
    sup = dynamic(ChildSpec("w", Witness, (str(runtime_dir / "log"),), shutdown=0.5))
    hanging = [sup.start_child(f"{n}") for n in range(5)]
    sup.start_child("orderly")
    for ref in hanging:
        with pytest.raises(CallTimeout):
            ref.call("never", timeout=0.01)
    before = time.monotonic()
    sup.stop()
    assert 0.5 <= time.monotonic() - before < 2.5  # not five times as long
    assert "end orderly shutdown" in (runtime_dir / "log").read_text()


def test_a_dynamic_supervisor_checks_its_template() -> None:
    with pytest.raises(ValueError, match="cannot share the name"):
        dynamic(ChildSpec("c", Counter, name="c"))
    with pytest.raises(ValueError, match="max_children is a number"):
        dynamic(ChildSpec("c", Counter), max_children=-1)
    with pytest.raises(ValueError, match="max_children is a number"):
        ChildSpec("d", DynamicSupervisor, (ChildSpec("c", Counter),), {"max_children": True})
    for template in (5, [ChildSpec("c", Counter)]):
        with pytest.raises(TypeError, match="a template is one ChildSpec, not"):
            dynamic(template)  # type: ignore[arg-type]


def test_a_dynamic_supervisor_in_a_tree(capfd: Any) -> None:
    pool = ChildSpec("pool", DynamicSupervisor, (ChildSpec("c", Counter),), name="pool")
    sup = start(pool)
    ref = sup.child("pool")
    assert isinstance(ref, DynamicSupervisorRef)
    worker = ref.start_child(5)
    assert worker is not None
    with pytest.raises(ProcessDown):
        worker.call("kill")
    with pytest.raises(RemoteError):
        sup.child("pool").start_child(1).call("raise")  # type: ignore[attr-defined]
    kill_actor(ref)
    assert states(sup.child("pool")) == {}  # it begins again without any
