"""A supervisor is asked about its children, and told what to do with them."""

import asyncio
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from actors import Counter, Later, Refuses
from processes import PATIENCE, eventually
from trees import start, states, wait_for

from supervisor import (
    AlreadyPresent,
    AlreadyStarted,
    Backoff,
    ChildSpec,
    DynamicSupervisor,
    GenServer,
    NoProcess,
    NotFound,
    Pool,
    ProcessDown,
    Restarting,
    StartFailed,
    StillRunning,
    Supervisor,
    SupervisorRef,
    linux,
)


def test_child_that_is_given_up_meanwhile_is_told() -> None:
    spec = ChildSpec("c", Counter, backoff=Backoff(initial=30.0))
    sup = Supervisor.start_link([spec], intensity=100)
    down = sup.child("c").monitor()
    os.kill(sup.child("c").pid, signal.SIGKILL)
    down.wait(PATIENCE)
    errors: list[Exception] = []

    def ask() -> None:
        try:
            sup.child("c")
        except NotFound as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.1)  # so that it is asked before, most likely; it is told the same if not
    sup.terminate_child("c")
    thread.join(PATIENCE)
    assert "undefined" in str(errors[0])


class Fails(GenServer):
    """Fails to start again."""

    def init(self, flag: str) -> None:
        if os.path.exists(flag):
            raise ValueError("again and again")


def test_those_behind_one_that_keeps_failing_are_undefined(tmp_path: Any, capfd: Any) -> None:
    flag = tmp_path / "fail"
    specs = [ChildSpec("a", Fails, (str(flag),)), ChildSpec("b", Counter), ChildSpec("c", Counter)]
    backoff = Backoff(initial=0.05, maximum=0.05)
    specs[0] = ChildSpec("a", Fails, (str(flag),), backoff=backoff)
    sup = Supervisor.start_link(specs, strategy="rest_for_one", intensity=10_000)
    flag.touch()
    os.kill(sup.child("a").pid, signal.SIGKILL)

    wait_for(sup, {"a": "restarting", "b": "undefined", "c": "undefined"})
    sup.terminate_child("a")
    flag.unlink()
    assert states(sup) == {"a": "undefined", "b": "undefined", "c": "undefined"}
    assert sup.count_children()["active"] == 0
    for child in "abc":
        assert sup.restart_child(child).is_alive()


def test_a_child_that_is_terminated_twice_is_not_found_the_second_time() -> None:
    sup = DynamicSupervisor.start_link(ChildSpec("c", Counter))
    ref = sup.start_child()
    sup.terminate_child(ref)
    with pytest.raises(NotFound):
        sup.terminate_child(ref)


def test_terminating_one_that_starts_leaves_those_behind_it_undefined(
    runtime_dir: Path, capfd: Any
) -> None:
    """As in OTP, of a group that is restarted."""
    flag = runtime_dir / "hang"
    specs = [
        ChildSpec("a", Counter),
        ChildSpec("b", HangsOnFile, (str(flag),)),
        ChildSpec("c", Counter),
    ]
    sup: SupervisorRef = Supervisor.start_link(specs, strategy="one_for_all")
    flag.touch()
    os.kill(sup.child("a").pid, signal.SIGKILL)
    eventually(lambda: states(sup), {"a": "running", "b": "restarting", "c": "undefined"})
    assert sup.count_children()["active"] == 1
    for refused in (sup.delete_child, sup.restart_child):
        with pytest.raises(Restarting):
            refused("b")
    sup.terminate_child("b")
    assert states(sup) == {"a": "running", "b": "undefined", "c": "undefined"}
    sup.restart_child("c")
    assert states(sup) == {"a": "running", "b": "undefined", "c": "running"}
    capfd.readouterr()


def test_one_that_waits_for_its_turn_in_a_restart_is_not_deleted(
    runtime_dir: Path, capfd: Any
) -> None:
    """As in OTP, where the request waits: it finds the child running."""
    flag = runtime_dir / "hang"
    specs = [ChildSpec("a", Counter), ChildSpec("b", HangsOnFile, (str(flag),))]
    specs.append(ChildSpec("c", Counter))
    sup: SupervisorRef = Supervisor.start_link(specs, strategy="one_for_all")
    flag.touch()
    os.kill(sup.child("a").pid, signal.SIGKILL)
    eventually(lambda: states(sup), {"a": "running", "b": "restarting", "c": "undefined"})
    deletes = sup.call_async(["delete_child", "c"])
    assert states(sup)["c"] == "undefined"
    flag.unlink()
    with pytest.raises(StillRunning):
        deletes.result(PATIENCE)
    assert states(sup) == dict.fromkeys("abc", "running")
    capfd.readouterr()


class HangsOnFile(GenServer):
    """Does not return from init while a file is there."""

    def init(self, path: str) -> None:
        while os.path.exists(path):
            time.sleep(0.01)


def test_children_come_and_go() -> None:
    sup = start(intensity=0)
    ref = sup.start_child(ChildSpec("c", Counter, (1,)))
    assert ref is not None
    assert ref.call("get") == 1
    with pytest.raises(AlreadyStarted, match="'c' is running"):
        sup.start_child(ChildSpec("c", Counter))
    with pytest.raises(StillRunning):
        sup.delete_child("c")
    with pytest.raises(StillRunning):
        sup.restart_child("c")
    sup.terminate_child("c")
    with pytest.raises(AlreadyPresent):
        sup.start_child(ChildSpec("c", Counter))
    again = sup.restart_child("c")
    assert again is not None
    assert again.call("get") == 1
    sup.terminate_child("c")
    sup.terminate_child("c")
    sup.delete_child("c")
    for operation in (sup.terminate_child, sup.restart_child, sup.delete_child, sup.child):
        with pytest.raises(NotFound, match="there is no child 'c'"):
            operation("c")
    assert sup.which_children() == []


def test_children_that_do_not_start_are_not_kept() -> None:
    sup = start()
    for how, text in (
        ("raise", "no start"),
        ("exit", "exit status 9"),
        ("kill", "killed"),
        ("stop", "for"),
    ):
        with pytest.raises(StartFailed, match=text):
            sup.start_child(ChildSpec("r", Refuses, (how,)))
    assert sup.start_child(ChildSpec("i", Refuses, ("ignore",))) is None
    assert sup.start_child(ChildSpec("t", Refuses, ("ignore",), restart="temporary")) is None
    assert [row[0] for row in sup.which_children()] == ["i"]


def test_arguments_for_a_running_supervisor_must_be_able_to_travel() -> None:
    sup = start()
    with pytest.raises(TypeError, match="cannot travel"):
        sup.start_child(ChildSpec("c", Counter, (object(),)))


def test_calls_of_a_killed_child_and_of_one_that_is_not_there() -> None:
    sup = start(ChildSpec("l", Later, restart="temporary"))
    ref = sup.child("l")
    os.kill(ref.pid, signal.SIGKILL)
    with pytest.raises((ProcessDown, NoProcess)):
        ref.call("wait", timeout=None)
    with pytest.raises(ValueError, match="does not know"):
        sup.call(["nonsense"])
    assert linux.alive(linux.process(sup.pid))


def test_each_operation_from_asyncio() -> None:
    async def of_supervisor() -> None:
        sup = await Supervisor.astart_link([])
        counter = await sup.astart_child(ChildSpec("c", Counter, (5,)))
        assert await counter.acall("get") == 5
        assert await sup.achild("c", Counter) == counter
        with pytest.raises(AlreadyStarted):
            await sup.astart_child(ChildSpec("c", Counter))
        await sup.aterminate_child("c")
        assert await (await sup.arestart_child("c", Counter)).acall("get") == 5
        await sup.aterminate_child("c")
        assert [row.state for row in await sup.awhich_children()] == ["undefined"]
        await sup.adelete_child("c")
        assert (await sup.acount_children())["specs"] == 0
        with pytest.raises(NotFound):
            await sup.achild("c")
        await sup.astop()

    async def of_dynamic_supervisor() -> None:
        sup = await DynamicSupervisor.astart_link(ChildSpec("c", Counter))
        counter = await sup.astart_child(7)
        assert await counter.acall("get") == 7
        assert (await sup.acount_children())["active"] == 1
        assert [row.ref for row in await sup.awhich_children()] == [counter]
        await sup.aterminate_child(counter)
        await sup.astop()

    async def of_pool() -> None:
        pool = await Pool.astart_link(ChildSpec("c", Counter, (3,)), size=1)
        await pool.aresize(2)
        assert (await pool.acount_children())["active"] == 2
        assert [row.id for row in await pool.awhich_children()] == ["c-1", "c-2"]
        assert await pool.acall("get") == 3
        await pool.astop()

    async def main() -> None:
        await asyncio.gather(of_supervisor(), of_dynamic_supervisor(), of_pool())

    asyncio.run(main())


def test_a_child_is_started_by_its_specification_alone() -> None:
    sup = Supervisor.start_link([])
    with pytest.raises(TypeError, match=r"by its ChildSpec, not by <class 'actors.Counter'"):
        sup.start_child(Counter)  # type: ignore[call-overload]
