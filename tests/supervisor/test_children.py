"""What a supervisor does with its children's deaths, starts and ends."""

import contextlib
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from actors import Counter, Flaky, Later, Refuses, Scripted, Stumbles, Witness
from processes import PATIENCE, children, eventually, gone, wait_for_end
from trees import kill_actor, start, states, times, watch

from supervisor import (
    Backoff,
    CallTimeout,
    ChildSpec,
    NoProcess,
    ProcessDown,
    Ref,
    Restarting,
    StartFailed,
    StillRunning,
    Supervisor,
    SupervisorRef,
)


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


def hang(ref: Ref, log: str) -> None:
    """Have a Witness hang in a call, and wait until it does."""
    with pytest.raises(CallTimeout):
        ref.call("never", timeout=0.01)
    eventually(lambda: "hangs" in Path(log).read_text())


def test_a_restart_that_fails_counts_and_is_tried_again(runtime_dir: Path, capfd: Any) -> None:
    flag = runtime_dir / "flag"
    sup = start(ChildSpec("f", Flaky, (str(flag),)), intensity=3, period=60)
    monitor = watch(sup)
    flag.touch()
    kill_actor(sup.child("f"))
    assert monitor.wait(PATIENCE).reason == "shutdown"
    assert times(capfd.readouterr().err, "does not start again") == 3


def test_an_error_right_after_the_start_is_a_crash(capfd: pytest.CaptureFixture[str]) -> None:
    sup = start(intensity=2, period=60)
    monitor = watch(sup)
    assert sup.start_child(ChildSpec("s", Stumbles)) is not None
    assert monitor.wait(PATIENCE).reason == "shutdown"
    assert times(capfd.readouterr().err, "'s' ended: RuntimeError: stumble") == 3


def test_a_hanging_start_holds_up_neither_answers_nor_the_stop() -> None:
    sup = start(ChildSpec("c", Counter))
    with pytest.raises(CallTimeout):
        sup.call(["start_child", *_planned(ChildSpec("h", Refuses, ("hang",)))], timeout=0.05)
    assert {row[0]: row[3] for row in sup.which_children()} == {
        "c": "running",
        "h": "starting",
    }
    sup.stop(timeout=PATIENCE)


def _planned(spec: ChildSpec) -> list[Any]:
    return [spec, None]


def test_a_child_killed_while_it_starts_has_failed_to_start() -> None:
    sup = start()
    with ThreadPoolExecutor(1) as pool:
        starting = pool.submit(sup.start_child, ChildSpec("h", Refuses, ("hang",)))
        while not (pids := children(sup.pid)):
            assert not starting.done()
        os.kill(pids[0], signal.SIGKILL)
        with pytest.raises(StartFailed, match="killed"):
            starting.result(PATIENCE)


def test_a_child_that_does_not_end_in_its_grace_is_killed(runtime_dir: Path) -> None:
    log = str(runtime_dir / "log")
    sup = start(
        ChildSpec("slow", Witness, (log, "slow"), shutdown=0.1),
        ChildSpec("brutal", Witness, (log, "brutal"), shutdown="brutal_kill"),
    )
    hang(sup.child("slow"), log)
    sup.stop(timeout=PATIENCE)
    assert Path(log).read_text().splitlines() == ["start slow", "start brutal", "hangs"]


def test_a_stopping_supervisor_starts_nothing(runtime_dir: Path) -> None:
    log = str(runtime_dir / "log")
    sup = start(ChildSpec("slow", Witness, (log, "slow"), shutdown=1.0), ChildSpec("c", Counter))
    hang(sup.child("slow"), log)  # it will be killed after its second of grace
    sibling = sup.child("c").pid
    with ThreadPoolExecutor(1) as pool:
        stopping = pool.submit(sup.stop, "shutdown", PATIENCE)
        assert wait_for_end(sibling)  # in reverse order: the slow one is next
        with pytest.raises(NoProcess, match="stopping"):
            sup.start_child(ChildSpec("new", Witness, (log, "new")))
        stopping.result(PATIENCE)
    assert Path(log).read_text().splitlines() == ["start slow", "hangs"]


def test_a_terminated_child_is_not_restarted_by_a_death_before() -> None:
    sup = start(ChildSpec("c", Counter), intensity=9)
    with ThreadPoolExecutor(3) as pool:
        # While another start hangs, both the order to terminate and the death wait in the queue.
        hanging = pool.submit(sup.start_child, ChildSpec("h", Refuses, ("hang",)))
        eventually(lambda: len(sup.which_children()) >= 2)
        terminated = pool.submit(sup.terminate_child, "c")
        victim = next(row[1] for row in sup.which_children() if row[0] == "c")
        assert victim is not None
        kill_actor(victim)
        (starting,) = (pid for pid in children(sup.pid) if not gone(pid))
        os.kill(starting, signal.SIGKILL)
        with pytest.raises(StartFailed):
            hanging.result(PATIENCE)
        terminated.result(PATIENCE)
    assert {row[0]: row[3] for row in sup.which_children()} == {"c": "undefined"}


def test_a_reason_of_any_size_and_shape_does_not_end_the_supervisor(capfd: Any) -> None:
    child = ChildSpec("c", Later, restart="transient")
    sup: SupervisorRef = Supervisor.start_link([child, ChildSpec("d", Counter)], intensity=9)
    for reason in ("x" * 70_000, ["unhashable"], {"a": 1}, "\N{SNOWMAN}" * 30_000):
        ref = sup.child("c")
        with contextlib.suppress(ProcessDown):  # of a reason that cannot be told
            ref.stop(reason, timeout=PATIENCE)
        if sup.which_children()[0][3] == "undefined":
            sup.restart_child("c")
    assert sup.child("d").call("get") == 0
    capfd.readouterr()
