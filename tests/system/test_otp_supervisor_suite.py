"""The cases of OTP's ``supervisor_SUITE`` in our words, by the names that they have there.

Not here: what the guide's table says is not there (``code_change`` and upgrades, ``format_log``,
``get_callback_module``, the extra value of ``{ok, Pid, Extra}``).
"""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from actors import Counter, Flaky, Scripted
from processes import PATIENCE, eventually
from trees import kill_actor, start, states

from supervisor import (
    AlreadyPresent,
    AlreadyStarted,
    ChildSpec,
    Continue,
    Down,
    DynamicSupervisor,
    DynamicSupervisorRef,
    GenServer,
    Ignore,
    NotFound,
    ProcessDown,
    Reason,
    Ref,
    RemoteError,
    Sender,
    Shutdown,
    StartFailed,
    StillRunning,
    Stop,
    Supervisor,
    SupervisorRef,
    check_childspecs,
    linux,
    whereis,
)
from supervisor.protocol import registry

RESTARTS = ("permanent", "transient", "temporary")


class Child(GenServer):
    """Starts as it is told, and ends as it is told."""

    def init(self, how: Any = "ok", *more: Any) -> Any:
        self.how, self.more = how, more
        match how:
            case "ignore":
                return Ignore()
            case "stop":
                return Stop("refused")
            case "raise":
                raise RuntimeError("refused")
            case "number":
                return 4711
        return None

    def handle_call(self, request: Any, sender: Sender) -> Any:
        match request:
            case "pid":
                return os.getpid()
            case "how":
                return [self.how, *self.more]
            case "crash":
                raise RuntimeError("abnormal")
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case ["unlink", ref]:
                self.unlink(ref)
        return None

    def handle_cast(self, request: Any) -> Any:
        if request == "crash":
            raise RuntimeError("abnormal")
        return Stop(request)

    def terminate(self, reason: Reason) -> None:
        match self.how:
            case ["ends within", seconds]:
                time.sleep(seconds)
            case "terminate raises":
                raise RuntimeError("cannot")


class IgnoringSupervisor(Supervisor):
    def init(self) -> Any:  # type: ignore[override]
        return Ignore()


class WrongSupervisor(Supervisor):
    def init(self, result: Any) -> Any:  # type: ignore[override]
        if result == "raise":
            raise RuntimeError("no supervisor today")
        return result


class Stumbling(GenServer):
    """Starts as long as a file is not there; ends at once afterwards when another one is."""

    def init(self, path: str) -> Any:
        self.path = path
        if os.path.exists(f"{path}.refuse"):
            raise RuntimeError("refused")
        return Continue("go on")

    def handle_continue(self, argument: Any) -> Any:
        return Stop("stumbled") if os.path.exists(f"{self.path}.stumble") else None


def spec(child_id: str, *args: Any, **options: Any) -> ChildSpec:
    return ChildSpec(child_id, Child, args, **options)


def dynamic(template: ChildSpec, **options: Any) -> DynamicSupervisorRef:
    ref: DynamicSupervisorRef = DynamicSupervisor.start_link(template, **options)
    return ref


def end(ref: Any, reason: Reason) -> Down:
    """Have a child end for a reason, and wait until it has."""
    monitor = ref.monitor()
    ref.cast("crash" if reason == "crash" else reason)
    down: Down = monitor.wait(PATIENCE)
    return down


def ended(sup: Any) -> Any:
    """Return why a supervisor ends."""
    return sup.monitor().wait(PATIENCE).reason


def pids(sup: Any) -> dict[str, int]:
    """Return the pids of the children that run, by their ids."""
    return {row[0]: row[1].pid for row in sup.which_children() if row[1] is not None}


# -- sup_start -------------------------------------------------------------------------------------


def test_sup_start_normal() -> None:
    sup = start()
    assert sup.which_children() == []
    sup.stop("shutdown")
    assert not sup.is_alive()


def test_sup_start_ignore_init() -> None:
    assert IgnoringSupervisor.start_link() is None


def test_sup_start_ignore_child() -> None:
    sup = start()
    assert sup.start_child(spec("ignored", "ignore")) is None
    other = sup.start_child(spec("other"))
    assert [row[:2] for row in sup.which_children()] == [("ignored", None), ("other", other)]
    assert sup.count_children() == {"specs": 2, "active": 1, "supervisors": 0, "workers": 2}


def test_sup_start_ignore_temporary_child() -> None:
    sup = start(spec("ignored", "ignore", restart="temporary"), spec("other"))
    assert states(sup) == {"other": "running"}
    assert sup.count_children() == {"specs": 1, "active": 1, "supervisors": 0, "workers": 1}


def test_sup_start_ignore_temporary_child_start_child() -> None:
    sup = start()
    assert sup.start_child(spec("ignored", "ignore", restart="temporary")) is None
    assert sup.which_children() == []
    assert sup.start_child(spec("ignored", restart="temporary")) is not None


@pytest.mark.parametrize("restart", ["temporary", "permanent"])
def test_sup_start_ignore_child_start_child_simple(restart: Any) -> None:
    """Of a temporary and of a permanent template."""
    sup = dynamic(spec("c", restart=restart))
    assert sup.start_child("ignore") is None
    one = sup.start_child()
    assert [row[1] for row in sup.which_children()] == [one]
    assert sup.count_children() == {"specs": 1, "active": 1, "supervisors": 0, "workers": 1}


@pytest.mark.parametrize("result", [None, 4711, ["ok", "wrong"], {"intensity": 1}])
def test_sup_start_error_return(result: Any) -> None:
    with pytest.raises(StartFailed, match="init of a supervisor returns what super"):
        WrongSupervisor.start_link(result)


def test_sup_start_fail() -> None:
    with pytest.raises(StartFailed, match="no supervisor today"):
        WrongSupervisor.start_link("raise")
    for how, why in (("raise", "refused"), ("stop", "refused"), ("number", "4711")):
        with pytest.raises(StartFailed, match=why):
            start(spec("before"), spec("fails", how))


@pytest.mark.parametrize(
    "options",
    [
        {"strategy": "invalid"},
        {"intensity": -1},
        {"intensity": "three"},
        {"period": 0},
        {"period": -1},
        {"auto_shutdown": "invalid"},
        {"unknown": 1},
    ],
)
def test_sup_start_map_faulty_specs(options: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        start(**options)


# -- sup_stop --------------------------------------------------------------------------------------


def test_sup_stop_infinity() -> None:
    slow = spec("slow", ["ends within", 0.3], shutdown="infinity")
    sup = start(spec("quick", shutdown="infinity"), slow)
    monitors = [sup.child(child).monitor() for child in ("quick", "slow")]
    sup.stop("shutdown")
    assert [monitor.wait(PATIENCE).reason for monitor in monitors] == ["shutdown", "shutdown"]


def test_sup_stop_timeout() -> None:
    slow = spec("slow", ["ends within", PATIENCE], shutdown=0.2)
    sup = start(spec("quick", shutdown=5), slow)
    monitors = [sup.child(child).monitor() for child in ("quick", "slow")]
    sup.stop("shutdown")
    assert [monitor.wait(PATIENCE).reason for monitor in monitors] == ["shutdown", "killed"]


def test_sup_stop_brutal_kill() -> None:
    sup = start(spec("quick", shutdown=5), spec("killed", shutdown="brutal_kill"))
    monitors = [sup.child(child).monitor() for child in ("quick", "killed")]
    sup.stop("shutdown")
    assert [monitor.wait(PATIENCE).reason for monitor in monitors] == ["shutdown", "killed"]


def test_sup_stop_brutal_kill_dynamic() -> None:
    sup = dynamic(spec("c", shutdown="brutal_kill"))
    monitors = [started(sup).monitor() for _ in range(3)]
    sup.stop("shutdown")
    assert {monitor.wait(PATIENCE).reason for monitor in monitors} == {"killed"}


def test_sup_stop_timeout_dynamic() -> None:
    sup = dynamic(spec("c", shutdown=0.2))
    monitors = [started(sup, *args).monitor() for args in ((), (["ends within", PATIENCE],))]
    sup.stop("shutdown")
    assert [monitor.wait(PATIENCE).reason for monitor in monitors] == ["shutdown", "killed"]


def started(sup: DynamicSupervisorRef, *args: Any) -> Ref:
    ref = sup.start_child(*args)
    assert ref is not None
    return ref


# -- normal_termination, shutdown_termination, abnormal_termination --------------------------------


@pytest.mark.parametrize(
    ("restart", "reason", "left"),
    [
        ("permanent", "normal", "running"),
        ("transient", "normal", "undefined"),
        ("temporary", "normal", None),
        ("permanent", "shutdown", "running"),
        ("permanent", Shutdown("because"), "running"),
        ("transient", "shutdown", "undefined"),
        ("transient", Shutdown("because"), "undefined"),
        ("temporary", "shutdown", None),
        ("temporary", Shutdown("because"), None),
        ("permanent", "abnormal", "running"),
        ("transient", "abnormal", "running"),
        ("temporary", "abnormal", None),
        ("permanent", "crash", "running"),
        ("transient", "crash", "running"),
        ("temporary", "crash", None),
    ],
)
def test_termination(restart: Any, reason: Any, left: str | None, capfd: Any) -> None:
    """permanent_normal, transient_normal, ..., temporary_abnormal."""
    sup = start(spec("c", restart=restart))
    ref = sup.child("c")
    former = ref.pid
    end(ref, reason)
    expected = {} if left is None else {"c": left}
    eventually(lambda: states(sup) == expected)
    assert left != "running" or pids(sup)["c"] != former
    assert sup.count_children()["active"] == (1 if left == "running" else 0)


def test_faulty_application_shutdown(capfd: Any) -> None:
    """A child whose ``terminate`` fails does not keep its supervisor from ending in order."""
    sup = start(spec("before"), spec("faulty", "terminate raises"), spec("after"))
    monitors = [sup.child(child).monitor() for child in ("before", "after")]
    top = sup.monitor()
    sup.stop("shutdown")
    assert [monitor.wait(PATIENCE).reason for monitor in monitors] == ["shutdown", "shutdown"]
    assert top.wait(PATIENCE).reason == "shutdown"


# -- on their own ----------------------------------------------------------------------------------


def test_child_unlink() -> None:
    """A child that unlinks itself from its supervisor is stopped with the others."""
    sup = start(spec("c"))
    child = sup.child("c")
    child.call(["unlink", sup])
    monitor = child.monitor()
    sup.terminate_child("c")
    assert monitor.wait(PATIENCE).reason == "shutdown"


def test_tree(capfd: Any) -> None:
    """Supervisors below supervisors: each restarts its own, and escalates to its own."""
    one = spec("one"), spec("two")
    below = ChildSpec("below", Supervisor, (list(one),), {"strategy": "one_for_all"})
    beside = ChildSpec("beside", Supervisor, ([],))
    sup = start(below, beside, strategy="one_for_one", intensity=4)
    inner = child_supervisor(sup, "below")
    assert set(states(inner)) == {"one", "two"}
    former, inner_pid = pids(inner), inner.pid
    kill_actor(inner.child("one"))
    eventually(lambda: not set(former.values()) & set(pids(inner).values()))
    assert child_supervisor(sup, "below").pid == inner_pid
    top = inner.monitor()
    kill_actor(inner.child("two"))  # more than intensity 1 within the period
    assert top.wait(PATIENCE).reason == "shutdown"
    again = eventually(lambda: new_one(sup, "below", inner_pid))
    assert set(states(again)) == {"one", "two"}
    assert set(states(sup)) == {"below", "beside"}
    added = child_supervisor(sup, "beside").start_child(spec("three"))
    assert added is not None
    monitor = added.monitor()
    sup.stop("shutdown")
    assert monitor.wait(PATIENCE).reason == "shutdown"


def child_supervisor(sup: SupervisorRef, child: str) -> SupervisorRef:
    ref = sup.child(child)
    assert isinstance(ref, SupervisorRef)
    return ref


def new_one(sup: SupervisorRef, child: str, former: int) -> SupervisorRef | None:
    ref = child_supervisor(sup, child)
    return ref if ref.pid != former else None


def test_count_children() -> None:
    sup = start()
    assert sup.count_children() == {"specs": 0, "active": 0, "supervisors": 0, "workers": 0}
    for n in range(3):
        sup.start_child(spec(f"{n}"))
    sup.start_child(ChildSpec("sup", Supervisor, ([],)))
    assert sup.count_children() == {"specs": 4, "active": 4, "supervisors": 1, "workers": 3}
    sup.terminate_child("1")
    assert sup.count_children() == {"specs": 4, "active": 3, "supervisors": 1, "workers": 3}
    sup.delete_child("1")
    assert sup.count_children() == {"specs": 3, "active": 3, "supervisors": 1, "workers": 2}


def test_count_children_of_a_template() -> None:
    sup = dynamic(ChildSpec("sup", Supervisor, ([],)))
    one, two = started(sup), started(sup)
    assert sup.count_children() == {"specs": 1, "active": 2, "supervisors": 2, "workers": 0}
    sup.terminate_child(one)
    sup.terminate_child(two)
    assert sup.count_children() == {"specs": 1, "active": 0, "supervisors": 0, "workers": 0}


def test_count_restarting_children(runtime_dir: Path, capfd: Any) -> None:
    """A child in its restart counts as specified, and not as active."""
    path = runtime_dir / "c"
    sup = start(ChildSpec("c", Stumbling, (str(path),)), spec("other"), intensity=10**6)
    refuse = runtime_dir / "c.refuse"
    refuse.touch()
    kill_actor(sup.child("c"))
    eventually(lambda: states(sup)["c"] in {"restarting", "starting"})
    assert sup.count_children() == {"specs": 2, "active": 1, "supervisors": 0, "workers": 2}
    refuse.unlink()
    eventually(lambda: sup.count_children()["active"] == 2)


def test_do_not_save_start_parameters_for_temporary_children() -> None:
    """Their arguments are not kept: a supervisor of many grows by nothing of theirs."""
    many = 2_000_000
    sup = start()
    before = resident(sup.pid)
    for n in range(5):
        sup.start_child(spec(f"{n}", "x" * many, restart="temporary"))
    assert resident(sup.pid) - before < 3 * many


def resident(pid: int) -> int:
    """Return the bytes of private memory of a process."""
    fields = dict(
        line.split(":", 1)
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    )
    return int(fields["Private_Dirty"].split()[0]) * 1024


@pytest.mark.parametrize("strategy", ["one_for_one", "one_for_all", "rest_for_one"])
def test_do_not_save_child_specs_for_temporary_children(strategy: str, capfd: Any) -> None:
    """Whatever ends one, it is no longer there afterwards."""
    sup = start(strategy=strategy)
    for stop in (lambda: end(sup.child("t"), "normal"), lambda: kill_actor(sup.child("t"))):
        sup.start_child(spec("t", restart="temporary"))
        stop()
        eventually(lambda: states(sup) == {})
    sup.start_child(spec("t", restart="temporary"))
    sup.terminate_child("t")
    assert sup.which_children() == []
    for operation in (sup.terminate_child, sup.restart_child, sup.delete_child, sup.get_childspec):
        with pytest.raises(NotFound):
            operation("t")


def test_simple_one_for_one_scale_many_temporary_children() -> None:
    sup = dynamic(spec("c", restart="temporary"))
    refs = [started(sup) for _ in range(30)]
    assert [row[1] for row in sup.which_children()] == refs
    for ref in refs[::2]:
        sup.terminate_child(ref)
    assert [row[1] for row in sup.which_children()] == refs[1::2]
    for ref in refs[1::2]:
        end(ref, "normal")
    eventually(lambda: sup.which_children() == [])


@pytest.mark.parametrize("strategy", ["one_for_all", "rest_for_one"])
def test_temporary_bystander(strategy: str, capfd: Any) -> None:
    """A temporary child that is stopped for another's sake is not started again."""
    sup = start(spec("one"), spec("bystander", restart="temporary"), spec("two"), strategy=strategy)
    bystander = sup.child("bystander").monitor()
    kill_actor(sup.child("one"))
    assert bystander.wait(PATIENCE).reason == "shutdown"
    eventually(lambda: states(sup) == {"one": "running", "two": "running"})


def test_simple_global_supervisor(capfd: Any) -> None:
    """A supervisor that is found by its name after its restart, as its children are."""
    inner = ChildSpec("inner", Supervisor, ([spec("c", name="below")],), name="inner")
    start(inner, intensity=5)
    former = found("below")
    kill_actor(found("inner"))  # and with it what is below
    found("inner")
    again = found("below", other_than=former)
    kill_actor(again)
    assert found("below", other_than=again).call("how") == ["ok"]


def found(name: str, other_than: Ref | None = None) -> Ref:
    """Wait until a name belongs to a living process, another one than this; return that."""

    def look() -> Ref | None:
        process = registry.lookup(name)
        alive = process is not None and linux.alive(process)
        return Ref(process) if alive and Ref(process) != other_than else None

    ref: Ref = eventually(look)
    return ref


@pytest.mark.parametrize("strategy", ["one_for_one", "one_for_all", "rest_for_one"])
def test_hanging_restart_loop(strategy: str, runtime_dir: Path, capfd: Any) -> None:
    """A restart that fails for ever leaves the supervisor able to serve, and to be stopped."""
    path = runtime_dir / "c"
    sup = start(
        spec("a"), ChildSpec("c", Stumbling, (str(path),)), spec("z"),
        strategy=strategy, intensity=10**6, period=1,
    )  # fmt: skip
    (runtime_dir / "c.refuse").touch()
    kill_actor(sup.child("c"))
    eventually(lambda: states(sup)["c"] in {"restarting", "starting"})
    assert sup.count_children()["specs"] == 3
    with pytest.raises((AlreadyStarted, AlreadyPresent)):
        sup.start_child(spec("c"))
    with pytest.raises(StillRunning):
        sup.restart_child("c")
    with pytest.raises(StillRunning):
        sup.delete_child("c")
    assert sup.start_child(spec("new")) is not None
    sup.terminate_child("c")
    assert states(sup)["c"] == "undefined"
    sup.stop("shutdown")


def test_hanging_restart_loop_simple(runtime_dir: Path, capfd: Any) -> None:
    path = runtime_dir / "c"
    sup = dynamic(ChildSpec("c", Stumbling, (str(path),)), intensity=10**6, period=1)
    ref = started(sup)
    (runtime_dir / "c.refuse").touch()
    kill_actor(ref)
    eventually(lambda: set(states(sup).values()) <= {"restarting", "starting"})
    with pytest.raises(StartFailed, match="refused"):
        sup.start_child()
    sup.terminate_child("c-1")
    assert sup.which_children() == []


# -- child_adm -------------------------------------------------------------------------------------


def test_child_adm(capfd: Any) -> None:
    sup = start(spec("one"))
    one = sup.child("one")
    with pytest.raises(AlreadyStarted) as running:
        sup.start_child(spec("one"))
    assert running.value.ref == one
    with pytest.raises(StillRunning):
        sup.restart_child("one")
    with pytest.raises(StillRunning):
        sup.delete_child("one")
    sup.terminate_child("one")
    sup.terminate_child("one")  # as often as one likes
    assert states(sup) == {"one": "undefined"}
    assert not one.is_alive()
    with pytest.raises(AlreadyPresent):
        sup.start_child(spec("one"))
    again = sup.restart_child("one")
    assert again is not None
    assert again != one
    sup.terminate_child("one")
    sup.delete_child("one")
    for operation in (sup.terminate_child, sup.restart_child, sup.delete_child, sup.child):
        with pytest.raises(NotFound):
            operation("one")
    assert sup.start_child(spec("one")) is not None
    with pytest.raises(StartFailed, match="refused"):
        sup.start_child(spec("two", "raise"))
    assert set(states(sup)) == {"one"}


def test_child_adm_simple() -> None:
    sup = dynamic(spec("c", "given"))
    assert sup.which_children() == []
    one = started(sup, "more")
    assert one.call("how") == ["given", "more"]
    with pytest.raises(StartFailed, match="no_such"):
        sup.start_child(no_such=1)
    other = Counter.start_link()
    with pytest.raises(NotFound):
        sup.terminate_child(other)
    sup.terminate_child(one)
    with pytest.raises(NotFound):
        sup.terminate_child(one)
    for operation in ("restart_child", "delete_child", "get_childspec"):
        assert not hasattr(sup, operation)


@pytest.mark.parametrize(
    "faulty",
    [
        {"id": ""},
        {"id": 5},
        {"start": "module"},
        {"start": object},
        {"restart": "often"},
        {"shutdown": "soon"},
        {"shutdown": -1},
        {"type": "boss"},
        {"significant": True},  # and permanent
        {"significant": "yes", "restart": "transient"},
        {"args": 5},
    ],
)
def test_child_specs(faulty: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        ChildSpec(**({"id": "c", "start": Child} | faulty))


def test_child_specs_side_by_side() -> None:
    check_childspecs([spec("a"), spec("b")])
    with pytest.raises(ValueError, match="two children"):
        check_childspecs([spec("a"), spec("a")])
    significant = spec("a", restart="transient", significant=True)
    check_childspecs([significant])
    check_childspecs([significant], "any_significant")
    with pytest.raises(ValueError, match="auto_shutdown is 'never'"):
        check_childspecs([significant], "never")
    with pytest.raises(ValueError, match="auto_shutdown is 'never'"):
        start(significant)
    with pytest.raises(ValueError, match="auto_shutdown is 'never'"):
        start().start_child(significant)


def test_get_childspec() -> None:
    sup = start(spec("c", restart="transient", shutdown=7))
    described = sup.get_childspec("c")
    assert (described["id"], described["restart"], described["shutdown"]) == ("c", "transient", 7)
    sup.terminate_child("c")
    assert sup.get_childspec("c") == described
    with pytest.raises(NotFound):
        sup.get_childspec("d")


def test_already_started_outside_supervisor(capfd: Any) -> None:
    """A child whose name another actor has does not start, and is not kept."""
    other = Counter.start_link(name="taken")
    sup = start()
    with pytest.raises(StartFailed, match="taken"):
        sup.start_child(spec("c", name="taken"))
    assert sup.which_children() == []
    assert whereis("taken") == other


def test_which_children_and_which_child() -> None:
    sup = start(spec("one"), ChildSpec("two", Supervisor, ([],)))
    one, two = sup.child("one"), sup.child("two")
    assert sup.which_children() == [
        ("one", one, "worker", "running"),
        ("two", two, "supervisor", "running"),
    ]
    with pytest.raises(NotFound):
        sup.child("three")


# -- restarts --------------------------------------------------------------------------------------


def test_multiple_restarts(capfd: Any) -> None:
    """As many as the intensity are borne; the next one is not."""
    sup = start(spec("c"), intensity=3, period=1000)
    for _ in range(3):
        former = pids(sup)["c"]
        end(sup.child("c"), "abnormal")
        assert sup.child("c").call("pid") != former
    top = sup.monitor()
    sup.child("c").cast("crash")
    assert top.wait(PATIENCE).reason == "shutdown"


def test_restarts_long_ago_do_not_count(capfd: Any) -> None:
    sup = start(spec("c"), intensity=1, period=0.1)
    for _ in range(4):
        end(sup.child("c"), "abnormal")
        sup.child("c").call("pid")
        time.sleep(0.15)  # the period is what is tried
    assert sup.is_alive()


STRATEGIES = {
    "one_for_one": {"one": "a", "two": "b", "three": "c"},
    "one_for_all": dict.fromkeys(("one", "two", "three"), "abc"),
    "rest_for_one": {"one": "abc", "two": "bc", "three": "c"},
}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("dies", [0, 1, 2])
def test_restart_by_strategy(strategy: str, dies: int, capfd: Any) -> None:
    """one_for_one, one_for_all, rest_for_one: exactly those that are meant start anew."""
    sup = start(spec("a"), spec("b"), spec("c"), strategy=strategy, intensity=3)
    former = pids(sup)
    end(sup.child("abc"[dies]), "abnormal")
    affected = list(STRATEGIES[strategy].values())[dies]

    def restarted() -> bool:
        present = pids(sup)
        return len(present) == 3 and all(present[c] != former[c] for c in affected)

    eventually(restarted)
    assert all(pids(sup)[c] == former[c] for c in set("abc") - set(affected))
    assert list(states(sup)) == ["a", "b", "c"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_escalation(strategy: str, capfd: Any) -> None:
    """one_for_one_escalation and so on: with the supervisor all of its children end."""
    sup = start(spec("a"), spec("b"), strategy=strategy, intensity=0)
    top, beside = sup.monitor(), sup.child("b").monitor()
    sup.child("a").cast("abnormal")
    assert beside.wait(PATIENCE).reason == "shutdown"
    assert top.wait(PATIENCE).reason == "shutdown"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_other_child_fails_restart(strategy: str, runtime_dir: Path, capfd: Any) -> None:
    """A restart in which another one fails is tried until that starts, and in order."""
    flag = runtime_dir / "refuse"
    sup = start(
        spec("a"), spec("b"), ChildSpec("flaky", Flaky, (str(flag),)), spec("d"),
        strategy=strategy, intensity=10**6, period=1,
    )  # fmt: skip
    former = pids(sup)
    flag.touch()
    kill_actor(sup.child("flaky"))
    eventually(lambda: states(sup)["flaky"] in {"restarting", "starting"})
    flag.unlink()
    eventually(lambda: set(states(sup).values()) == {"running"})
    present = pids(sup)
    assert list(present) == ["a", "b", "flaky", "d"]
    assert present["flaky"] != former["flaky"]
    if strategy == "one_for_one":
        assert {c: present[c] for c in "abd"} == {c: former[c] for c in "abd"}
    else:
        assert present["d"] != former["d"]


def test_simple_one_for_one(capfd: Any) -> None:
    sup = dynamic(spec("c"), intensity=3)
    one, two = started(sup, "one"), started(sup, "two")
    end(one, "abnormal")
    again = eventually(lambda: (ref := sup.which_children()[0][1]) not in {None, one} and ref)
    assert again.call("how") == ["one"]
    assert sup.which_children()[1][1] == two


def test_simple_one_for_one_extra() -> None:
    """Its arguments come after those of the template, those by name replace them."""
    sup = dynamic(ChildSpec("c", Child, ("template",)))
    assert started(sup, "first", "second").call("how") == ["template", "first", "second"]


def test_simple_one_for_one_shutdown() -> None:
    """Those that end at their own speed are waited for at the same time."""
    sup = dynamic(spec("c", shutdown=5))
    monitors = [started(sup, ["ends within", 0.5]).monitor() for _ in range(6)]
    before = time.monotonic()
    sup.stop("shutdown")
    took = time.monotonic() - before
    assert {monitor.wait(PATIENCE).reason for monitor in monitors} == {"shutdown"}
    assert took < 6 * 0.5


def test_simple_one_for_one_escalation(capfd: Any) -> None:
    sup = dynamic(spec("c"), intensity=0)
    one, two = started(sup), started(sup)
    top, beside = sup.monitor(), two.monitor()
    one.cast("abnormal")
    assert beside.wait(PATIENCE).reason == "shutdown"
    assert top.wait(PATIENCE).reason == "shutdown"


# -- auto_shutdown ---------------------------------------------------------------------------------


@pytest.mark.parametrize("restart", ["transient", "temporary"])
@pytest.mark.parametrize("auto_shutdown", ["any_significant", "all_significant"])
def test_nonsignificant(restart: Any, auto_shutdown: str) -> None:
    """The end of one that is not significant is not its supervisor's."""
    sup = start(spec("c", restart=restart), auto_shutdown=auto_shutdown)
    end(sup.child("c"), "normal")
    eventually(lambda: sup.count_children()["active"] == 0)
    assert sup.is_alive()


@pytest.mark.parametrize(
    ("restart", "reason", "ends"),
    [
        ("transient", "normal", True),
        ("transient", "shutdown", True),
        ("transient", Shutdown("x"), True),
        ("transient", "abnormal", False),
        ("temporary", "normal", True),
        ("temporary", "shutdown", True),
        ("temporary", "abnormal", True),
        ("temporary", "crash", True),
    ],
)
def test_significant(restart: Any, reason: Any, ends: bool, capfd: Any) -> None:
    """Its end by itself, for good, is its supervisor's, which ends with reason shutdown."""
    significant = spec("c", restart=restart, significant=True)
    sup = start(significant, spec("other"), auto_shutdown="any_significant")
    top = sup.monitor()
    former = pids(sup)["c"]
    sup.child("c").cast(reason)
    if ends:
        assert top.wait(PATIENCE).reason == "shutdown"
    else:
        assert eventually(lambda: pids(sup).get("c", former) != former)


def test_all_significant() -> None:
    sup = start(
        *(spec(child, restart="temporary", significant=True) for child in "ab"),
        spec("other"),
        auto_shutdown="all_significant",
    )
    top = sup.monitor()
    end(sup.child("a"), "normal")
    eventually(lambda: set(states(sup)) == {"b", "other"})
    end(sup.child("b"), "normal")
    assert top.wait(PATIENCE).reason == "shutdown"


def test_significant_terminated() -> None:
    """The end of a significant child by terminate_child is not its supervisor's."""
    sup = start(spec("c", restart="transient", significant=True), auto_shutdown="any_significant")
    sup.terminate_child("c")
    assert states(sup) == {"c": "undefined"}
    assert sup.restart_child("c") is not None
    sup.terminate_child("c")
    sup.delete_child("c")
    assert sup.is_alive()


@pytest.mark.parametrize("auto_shutdown", ["any_significant", "all_significant"])
def test_significant_bystander(auto_shutdown: str, capfd: Any) -> None:
    """A significant child that is stopped for another's sake does not end its supervisor."""
    sup = start(
        spec("c"),
        spec("bystander", restart="temporary", significant=True),
        strategy="one_for_all",
        auto_shutdown=auto_shutdown,
    )
    bystander = sup.child("bystander").monitor()
    end(sup.child("c"), "abnormal")
    assert bystander.wait(PATIENCE).reason == "shutdown"
    eventually(lambda: states(sup) == {"c": "running"})


def test_significant_escalation(capfd: Any) -> None:
    """A supervisor that ends so is itself a significant child that has ended."""
    last = spec("last", restart="temporary", significant=True)
    inner = ChildSpec(
        "inner", Supervisor, ([last],), {"auto_shutdown": "any_significant"},
        restart="transient", significant=True,
    )  # fmt: skip
    sup = start(inner, spec("other"), auto_shutdown="any_significant")
    top = sup.monitor()
    child_supervisor(sup, "inner").child("last").cast("normal")
    assert top.wait(PATIENCE).reason == "shutdown"


# -- order and scale -------------------------------------------------------------------------------


def test_order_of_children(runtime_dir: Path) -> None:
    """They start in order and end in reverse, also those that came later."""
    place = str(runtime_dir)
    sup = start(*(ChildSpec(c, Scripted, (place, c, [])) for c in "ab"))
    sup.start_child(ChildSpec("c", Scripted, (place, "c", [])))
    sup.stop("shutdown")
    lines = (runtime_dir / "log").read_text().splitlines()
    assert lines[:3] == ["ok a", "ok b", "ok c"]
    assert lines[3:] == ["stop c shutdown", "stop b shutdown", "stop a shutdown"]


def test_scale_start_stop_many_children() -> None:
    sup = start(*(spec(f"{n}") for n in range(40)))
    assert list(states(sup)) == [f"{n}" for n in range(40)]
    for n in range(0, 40, 2):
        sup.terminate_child(f"{n}")
        sup.delete_child(f"{n}")
    assert list(states(sup)) == [f"{n}" for n in range(1, 40, 2)]


def test_a_call_under_way_is_told_of_the_end(capfd: Any) -> None:
    sup = start(spec("crashes"), spec("is killed"), intensity=2)
    with pytest.raises(RemoteError, match="abnormal"):
        sup.child("crashes").call("crash")
    with pytest.raises(ProcessDown):
        sup.child("is killed").call("kill")
