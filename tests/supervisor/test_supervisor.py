"""Supervisors on real processes: order, restarts, the fd store, and who dies with whom."""

import contextlib
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from actors import Counter, Flaky, Keeper, Later, Refuses, Starter, Stumbles, Witness
from processes import PATIENCE, eventually, gone, stop, wait_for_end
from trees import kill_actor, start, times

from supervisor import (
    AlreadyPresent,
    AlreadyStarted,
    Backoff,
    CallTimeout,
    ChildSpec,
    Monitor,
    NoProcess,
    NotFound,
    NotOwner,
    ProcessDown,
    Ref,
    StartFailed,
    StillRunning,
    Supervisor,
    SupervisorRef,
    check_childspecs,
    linux,
)


def watch(sup: SupervisorRef) -> Monitor:
    """Monitor a supervisor; it knows of that when this returns."""
    monitor = sup.monitor()
    sup.count_children()
    return monitor


def hang(ref: Ref, log: str) -> None:
    """Have a Witness hang in a call, and wait until it does."""
    with pytest.raises(CallTimeout):
        ref.call("never", timeout=0.01)
    eventually(lambda: "hangs" in Path(log).read_text())


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
    ("make", "text"),
    [
        (lambda: ChildSpec("", Counter), "1 to 255 bytes"),
        (lambda: ChildSpec("a", 5), "GenServer class"),  # type: ignore[arg-type]
        (
            lambda: ChildSpec("a", type("L", (Counter,), {"__qualname__": "f.<locals>.L"})),
            "top level",
        ),
        (lambda: ChildSpec("a", Counter, restart="always"), "restart is one of"),  # type: ignore[arg-type]
        (lambda: ChildSpec("a", Counter, shutdown=-1), "shutdown is seconds"),
        (lambda: ChildSpec("a", Counter, shutdown="never"), "shutdown is seconds"),  # type: ignore[arg-type]
        (lambda: ChildSpec("a", Counter, intensity=-1), "intensity"),
        (lambda: ChildSpec("a", Counter, intensity=1, period=0), "period"),
        (lambda: ChildSpec("a", Counter, name=""), "1 to 200"),
        (lambda: ChildSpec(start=Counter), "missing 1 required positional argument: 'id'"),  # type: ignore[call-arg]
        (lambda: ChildSpec("a", Counter, modules=[]), "unexpected keyword argument 'modules'"),  # type: ignore[call-arg]
        (lambda: ChildSpec("a", Counter, type="daemon"), "type is one of"),  # type: ignore[arg-type]
        (lambda: ChildSpec("a", Counter, significant=True), "significant and permanent"),
        (lambda: ChildSpec("a", Counter, significant=1), "True or False"),  # type: ignore[arg-type]
        (lambda: ChildSpec("a", Counter, init_timeout=0), "init_timeout is a number of seconds"),
        (lambda: ChildSpec("a", Counter, watchdog=float("nan")), "watchdog is a number"),
        (lambda: ChildSpec("a", Counter, backoff=1), "is a Backoff"),  # type: ignore[arg-type]
        (lambda: ChildSpec("a", Counter, backoff=Backoff(2, 1)), "grows"),
        (lambda: ChildSpec("a", Counter, backoff=Backoff(jitter=2)), "between 0 and 1"),
    ],
)
def test_a_wrong_specification_says_what_is_wrong(make: Any, text: str) -> None:
    with pytest.raises((ValueError, TypeError), match=text):
        make()


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


def test_specifications_side_by_side() -> None:
    twice = [ChildSpec("a", Counter), ChildSpec("b", Counter), ChildSpec("a", Counter)]
    with pytest.raises(ValueError, match="two children have the id 'a'"):
        start(*twice)
    with pytest.raises(ValueError, match="two children have the id 'a'"):
        check_childspecs(twice)
    significant = ChildSpec("s", Counter, restart="transient", significant=True)
    with pytest.raises(ValueError, match="significant, but the supervisor's auto_shutdown is"):
        check_childspecs([significant], "never")
    check_childspecs([significant])  # of a supervisor that is not known
    check_childspecs([significant], "any_significant")
    with pytest.raises(ValueError, match="auto_shutdown is one of"):
        check_childspecs([], "sometimes")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="ChildSpec objects"):
        check_childspecs([{"id": "a"}])  # type: ignore[list-item]


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


def test_processes_have_names_that_ps_shows() -> None:
    sup = start(ChildSpec("the worker of all", Counter))
    assert Path(f"/proc/{sup.pid}/comm").read_text() == "Supervisor\n"
    assert (
        Path(f"/proc/{sup.child('the worker of all').pid}/comm").read_text() == "the worker of a\n"
    )


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
        while not (pids := _children_of(sup.pid)):
            assert not starting.done()
        os.kill(pids[0], signal.SIGKILL)
        with pytest.raises(StartFailed, match="killed"):
            starting.result(PATIENCE)


def _children_of(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_child_that_does_not_end_in_its_grace_is_killed(runtime_dir: Path) -> None:
    log = str(runtime_dir / "log")
    sup = start(
        ChildSpec("slow", Witness, (log, "slow"), shutdown=0.1),
        ChildSpec("brutal", Witness, (log, "brutal"), shutdown="brutal_kill"),
    )
    hang(sup.child("slow"), log)
    sup.stop(timeout=PATIENCE)
    assert Path(log).read_text().splitlines() == ["start slow", "start brutal", "hangs"]


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


def test_a_stored_descriptor_outlives_the_child() -> None:
    sup = start(ChildSpec("k", Keeper, name="k"), intensity=100)
    keeper = Ref(name="k")
    for expected in range(1, 6):
        assert keeper.call("add") == expected
        kill_actor(keeper)
        sup.child("k")
    keeper.call(["store", "extra"])
    keeper.call(["drop", "count"])
    kill_actor(keeper)
    sup.child("k")
    assert keeper.call("names") == ["extra"]


def test_a_child_has_its_own_descriptors_and_no_others() -> None:
    sup = start(*(ChildSpec(n, Keeper, name=n) for n in "ab"), intensity=9)
    first = {n: len(Ref(name=n).call("fds")) for n in "ab"}
    kill_actor(Ref(name="b"))
    sup.child("b")
    # The restarted one has the same number: it holds nothing of its sibling's or its supervisor's.
    assert len(Ref(name="b").call("fds")) == first["b"] == first["a"]


def test_stored_descriptors_outlive_the_supervisors_below_the_root() -> None:
    keeper = ChildSpec("k", Keeper, name="k")
    middle = ChildSpec("middle", Supervisor, ([keeper],))
    top = start(ChildSpec("inner", Supervisor, ([middle],)), intensity=9)
    ref = Ref(name="k")
    assert ref.call("add") == 1
    for depth in ("inner", "middle"):
        inner = top.child("inner")
        assert isinstance(inner, SupervisorRef)
        kill_actor(inner if depth == "inner" else inner.child("middle"))
        again = top.child("inner")
        assert isinstance(again, SupervisorRef)
        again.child("middle")
        assert ref.call("add") == (2 if depth == "inner" else 3)


def test_descriptors_are_closed_when_the_child_is_stopped_for_good() -> None:
    sup = start()
    sup.which_children()
    pid = sup.pid
    before = len(os.listdir(f"/proc/{pid}/fd"))
    for _ in range(20):
        ref = sup.start_child(ChildSpec("k", Keeper))
        assert ref is not None
        ref.call(["store", "more"])
        sup.terminate_child("k")
        sup.delete_child("k")
    assert len(os.listdir(f"/proc/{pid}/fd")) == before


def test_without_a_supervisor_there_is_no_store() -> None:
    with pytest.raises(StartFailed, match="no supervisor to store"):
        Keeper.start_link()


@pytest.mark.parametrize("victim", ["owner", "root", "worker"])
@pytest.mark.parametrize("round_", range(3))
def test_what_is_below_a_killed_process_ends_with_it(
    victim: str, round_: int, runtime_dir: Path
) -> None:
    program = (
        "import sys; sys.path.insert(0, 'tests/support')\n"
        "from actors import Counter\n"
        "from supervisor import *\n"
        "leaf = ChildSpec('leaf', Counter, name='leaf')\n"
        "middle = ChildSpec('in', Supervisor, ([leaf],))\n"
        "s = Supervisor.start_link([middle], intensity=9, name='root')\n"
        "print(s.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    assert owner.stdin is not None
    root = int(owner.stdout.readline())
    inner = SupervisorRef(name="root").child("in").pid
    leaf = Ref(name="leaf").pid
    os.kill({"owner": owner.pid, "root": root, "worker": leaf}[victim], signal.SIGKILL)
    if victim == "worker":
        assert wait_for_end(leaf)
        assert not gone(inner)
        assert not gone(root)
        again = SupervisorRef(name="root").child("in")
        assert isinstance(again, SupervisorRef)
        again.child("leaf")
        assert Ref(name="leaf").call("get") == 0
    else:
        for pid in (root, inner, leaf):
            assert wait_for_end(pid)
    owner.stdin.close()
    owner.wait(PATIENCE)
    owner.stdout.close()
    for pid in (root, inner):
        assert wait_for_end(pid)
    # No file is left: with the root killed, the owner has removed them at its exit.


def test_a_stopped_root_ends_with_its_owner_when_it_is_continued() -> None:
    program = (
        "import sys; sys.path.insert(0, 'tests/support')\n"
        "from actors import Counter\n"
        "from supervisor import *\n"
        "s = Supervisor.start_link([ChildSpec('leaf', Counter)])\n"
        "print(s.pid, s.child('leaf').pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    assert owner.stdin is not None
    root, leaf = map(int, owner.stdout.readline().split())
    stop(root)
    owner.kill()
    owner.wait(PATIENCE)
    assert not gone(leaf)
    os.kill(root, signal.SIGCONT)
    assert wait_for_end(root)
    assert gone(leaf)
    owner.stdin.close()
    owner.stdout.close()


def test_what_a_crashed_actor_had_started_is_ended() -> None:
    sup = start(ChildSpec("c", Counter), intensity=9)
    ref = sup.child("c")
    sleeper = ref.call("child")
    kill_actor(ref)
    assert wait_for_end(sleeper)
    assert sup.child("c").call("get") == 0


def test_an_actor_in_a_tree_may_start_another_tree() -> None:
    sup = start(ChildSpec("s", Starter), ChildSpec("c", Counter), intensity=9)
    other = sup.child("s").call("other")
    kill_actor(sup.child("c"))  # an unrelated death does not touch it
    assert sup.child("c").is_alive()
    assert other.call("get") == 7
    pid = other.pid
    kill_actor(sup.child("s"))
    assert wait_for_end(pid)


def test_children_of_an_owner_end_with_it() -> None:
    sup = start(ChildSpec("ours", Counter))
    guest = subprocess.Popen(["sleep", "1000"])
    theirs = sup.start_child(ChildSpec("theirs", Counter), owner=guest.pid)
    given = sup.start_child(ChildSpec("given", Counter), owner=os.getpid())
    assert theirs is not None
    assert given is not None
    pids = theirs.pid, given.pid
    with pytest.raises(NotOwner, match="does not belong to process"):
        sup.give_child("theirs", os.getpid())
    with pytest.raises(NotOwner):
        sup.give_child("ours", os.getpid())
    with pytest.raises(ProcessLookupError):
        sup.give_child("given", 2**22 + 1)
    sup.give_child("given", guest.pid)
    guest.kill()
    guest.wait()
    for pid in pids:
        assert wait_for_end(pid)
    assert [row[0] for row in sup.which_children()] == ["ours"]


def test_the_owner_of_another_process_keeps_the_supervisor_alive() -> None:
    guest = subprocess.Popen(["sleep", "1000"])
    program = (
        "import sys; sys.path.insert(0, 'tests/support')\n"
        "from actors import Counter\n"
        "from supervisor import *\n"
        f"s = Supervisor.start_link([ChildSpec('c', Counter)], name='s')\n"
        f"s.controlling_process({guest.pid}); import os; os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=PATIENCE)
    sup = SupervisorRef(name="s")
    assert sup.child("c").call("get") == 0
    monitor = watch(sup)
    guest.kill()
    guest.wait()
    assert monitor.wait(PATIENCE).reason == "shutdown"


def test_sigterm_ends_a_root_in_order(runtime_dir: Path) -> None:
    log = str(runtime_dir / "log")
    sup = start(ChildSpec("a", Witness, (log, "a")))
    monitor = watch(sup)
    os.kill(sup.pid, signal.SIGTERM)
    assert monitor.wait(PATIENCE).reason == "shutdown"
    assert Path(log).read_text().splitlines() == ["start a", "end a shutdown"]


def test_calls_of_a_killed_child_and_of_one_that_is_not_there() -> None:
    sup = start(ChildSpec("l", Later, restart="temporary"))
    ref = sup.child("l")
    os.kill(ref.pid, signal.SIGKILL)
    with pytest.raises((ProcessDown, NoProcess)):
        ref.call("wait", timeout=None)
    with pytest.raises(ValueError, match="does not know"):
        sup.call(["nonsense"])
    assert linux.alive(linux.process(sup.pid))


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
        (starting,) = (pid for pid in _children_of(sup.pid) if not gone(pid))
        os.kill(starting, signal.SIGKILL)
        with pytest.raises(StartFailed):
            hanging.result(PATIENCE)
        terminated.result(PATIENCE)
    assert {row[0]: row[3] for row in sup.which_children()} == {"c": "undefined"}
