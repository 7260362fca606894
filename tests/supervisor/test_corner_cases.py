"""What programs run into where several things meet: deaths, signals, forks, slow readers."""

import dataclasses
import enum
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from actors import Counter, Later, Linked, Refuses, Relay, Witness
from processes import PATIENCE, SUPPORT, eventually, program
from trees import states

from supervisor import (
    Backoff,
    CallTimeout,
    Cancelled,
    ChildSpec,
    Down,
    DynamicSupervisor,
    DynamicSupervisorRef,
    GenServer,
    NotFound,
    Ref,
    RemoteError,
    Restarting,
    Sender,
    StartFailed,
    StillRunning,
    Supervisor,
    SupervisorRef,
    linux,
    multi_call,
    whereis,
)
from supervisor.actor.timers import Timers
from supervisor.errors import CARRIED
from supervisor.protocol import codec, message_kinds

# -- within actors ---------------------------------------------------------------------------------


def test_every_method_of_a_reference_can_be_used_in_an_actor() -> None:
    relay, other = Relay.start_link(), Counter.start_link(3, name="other")
    for name, *arguments in (
        ["get_state"],
        ["statistics"],
        ["suspend"],
        ["resume"],
        ["is_alive"],
        ["cast", 1],
    ):
        relay.call(["method", other, name, *arguments])
    assert other.call("get") == 4
    monitor = other.monitor()
    relay.call(["method", other, "stop"])
    assert monitor.wait(PATIENCE).reason == "normal"


@pytest.mark.slow
def test_a_watched_actors_death_in_a_call_leaves_the_watcher_well() -> None:
    relay = Relay.start_link()
    for _ in range(10):
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
    for _ in range(10):
        relay.call(["survive", Counter.start_link(), []])
    assert len(os.listdir(f"/proc/{relay.pid}/fd")) <= with_fds + 4


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


def test_threads_of_an_actor_may_call_it_and_its_serving_thread_may_not() -> None:
    ref = Threads.start_link()
    assert ref.call("go") == "waits"
    eventually(lambda: ref.call("seen") is not None)
    assert ref.call("seen") == 5


class Threads(GenServer):
    """A thread of it calls it."""

    def init(self) -> None:
        self.seen: Any = None

    def handle_call(self, request: Any, sender: Sender) -> Any:
        if request == "go":
            threading.Thread(target=self.ask).start()
            return "waits"
        return 5 if request == "five" else self.seen

    def ask(self) -> None:
        self.seen = self.ref.call("five")


# -- within programs -------------------------------------------------------------------------------

SIGNALLED = """
import signal, sys
sys.path.insert(0, {tests!r})
from actors import Counter
from supervisor import ActorError, CallTimeout, ChildSpec, Supervisor
if __name__ == "__main__":
    sup = Supervisor.start_link([ChildSpec("c", Counter)])
    monitor = sup.monitor()
    signal.signal(signal.SIGTERM, lambda *_: sup.stop())
    print("ready", flush=True)
    if sys.argv[1] == "waits":
        print("down", monitor.wait().reason, flush=True)
        sys.exit()
    while True:
        try:
            print("down", monitor.wait(0.0001).reason, flush=True)
            break
        except CallTimeout:
            try:
                sup.count_children()
            except ActorError:
                continue
"""


@pytest.mark.parametrize("how", ["waits", "works"])
def test_a_signals_handler_may_stop_what_its_thread_waits_for(how: str, runtime_dir: Path) -> None:
    path = runtime_dir / "program.py"
    path.write_text(SIGNALLED.format(tests=SUPPORT))
    for _ in range(5):
        with program(sys.executable, str(path), how) as waits:
            waits.expect("ready")
            if how == "waits":
                sleeps(waits.process.pid)
            waits.process.send_signal(signal.SIGTERM)
            waits.expect("down normal")
            assert waits.process.wait(PATIENCE) == 0


def sleeps(pid: int) -> None:
    """Wait until a process waits: its main thread does nothing else by then."""
    eventually(lambda: Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0], "S")


def test_what_was_asked_before_a_fork_is_not_waited_for_in_it() -> None:
    ref = Later.start_link()
    future, monitor = ref.call_async("wait"), ref.monitor()
    for wait in (future.result, monitor.wait):
        pid = os.fork()
        if pid == 0:
            try:
                wait(5)
            except RuntimeError:
                os._exit(7)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    ref.call(["reply", 1])
    assert future.result(PATIENCE) == 1


def test_a_monitor_may_be_closed() -> None:
    ref = Counter.start_link()
    monitors = [ref.monitor() for _ in range(10)]
    assert ref.statistics()["monitors"] == 10
    for monitor in monitors:
        monitor.close()
    assert ref.statistics()["monitors"] == 0
    with pytest.raises(Cancelled):
        monitors[0].wait()


def test_an_actor_takes_its_watches_back() -> None:
    linked, other = Linked.start_link(trap=True), Counter.start_link()
    for _ in range(20):
        linked.call(["link", other])
        linked.call(["unlink", other])
    eventually(lambda: not (other.statistics()["monitors"]))


def test_a_start_that_is_told_to_end_fails(runtime_dir: Path) -> None:
    class_of = Linked.start_link(trap=False)
    class_of.stop()
    with pytest.raises(StartFailed, match="noproc"):
        LinksInInit.start_link(class_of)
    with pytest.raises(StartFailed) as caught:
        stopper = threading.Thread(target=stop_when_named, args=("starting",))
        stopper.start()
        Supervisor.start_link([ChildSpec("h", Refuses, ("hang",))], name="starting")
    stopper.join(PATIENCE)
    assert caught.value.reason == "normal"


def stop_when_named(name: str) -> None:
    eventually(lambda: whereis(name, SupervisorRef)).stop()


class LinksInInit(GenServer):
    """Links to another as it starts."""

    def init(self, ref: Ref) -> None:
        self.link(ref)


def test_a_program_that_exits_ends_an_actor_that_hangs(runtime_dir: Path) -> None:
    log = runtime_dir / "log"
    code = (
        f"import sys; sys.path.insert(0, {SUPPORT!r})\n"
        "from actors import Witness\n"
        "from supervisor import CallTimeout; from supervisor.spawn import launch\n"
        "launch._EXIT_PATIENCE = 0.2\n"
        f"ref = Witness.start_link({str(log)!r}, 'w')\n"
        "try: ref.call('never', timeout=0.1)\n"
        "except CallTimeout as error: print(error)\n"
        "print(ref.pid)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    said, pid = done.stdout.splitlines()
    assert said.endswith("has not replied to 'never' within 0.1 s")
    pidfd = os.pidfd_open(int(pid)) if Path(f"/proc/{pid}").exists() else None
    if pidfd is not None:
        assert linux.ended(pidfd, PATIENCE)
        os.close(pidfd)


# -- streams and bounds ----------------------------------------------------------------------------


def test_events_that_nobody_reads_leave_room_for_answers() -> None:
    ref = Counter.start_link(name="traced")
    traces = [ref.trace() for _ in range(3)]
    others = (
        "from supervisor import whereis\n"
        "ref = whereis('traced')\n"
        "for _ in range(30_000): ref.cast(0)\n"
        "ref.call('get', timeout=30)"
    )
    subprocess.run([sys.executable, "-c", others], check=True)
    for _ in range(3):
        assert ref.call("get", timeout=PATIENCE) == 0
    for _ in range(2 * message_kinds.MAILBOX):
        ref.cast(0)
    assert ref.call("get", timeout=PATIENCE) == 0
    seen = traces[0].next(PATIENCE)
    assert seen.kind == "cast"
    for trace in traces:
        trace.close()


def test_cancelled_timers_do_not_pile_up() -> None:
    timers = Timers()
    for _ in range(10_000):
        timers.add(3600, lambda: None).cancelled = True
    kept = timers.add(3600, lambda: None)
    assert len(timers._timers) < 1000
    assert timers.patience() is not None
    assert kept in timers._timers


def test_errors_of_every_kind_travel_as_themselves() -> None:
    for kind in CARRIED.values():
        for arguments in (("who", "why"), ("one",)):
            try:
                error = kind(*arguments)
            except TypeError:
                continue
            again = codec.unpack(codec.pack(error))
            assert type(again) is kind
            assert str(again) == str(error)
    assert type(codec.unpack(codec.pack(CallTimeout("late")))) is CallTimeout


class Color(str, enum.Enum):  # noqa: UP042 - it is about what str's subclasses answer
    """Text."""

    RED = "red"


def test_subclasses_travel_as_what_they_are_built_on() -> None:
    assert codec.unpack(codec.pack([Color.RED, enum.IntEnum("N", "A").A])) == ["red", 1]


def test_many_actors_of_which_one_refuses() -> None:
    good, bad = Counter.start_link(1), Refusing.start_link()
    replies, errors = multi_call([bad, good], "get")
    assert replies == [(good, 1)]
    assert [(ref, type(error), str(error)) for ref, error in errors] == [
        (bad, ValueError, "not today")
    ]
    with pytest.raises(RemoteError, match="ValueError"):
        bad.call("strange")
    assert bad.is_alive()


class Refusing(GenServer):
    """Refuses."""

    def handle_call(self, request: Any, sender: Sender) -> Any:
        self.refuse(sender, ValueError(object() if request == "strange" else "not today"))
        from supervisor import NoReply

        return NoReply()


# -- supervisors -----------------------------------------------------------------------------------


def test_a_long_error_is_a_reason_all_the_same(capfd: Any) -> None:
    sup: SupervisorRef = Supervisor.start_link([ChildSpec("l", Long)])
    events = sup.events()
    with pytest.raises(RemoteError, match="RuntimeError: x"):
        sup.child("l").call("raise")
    reason = events.next(PATIENCE).reason
    assert isinstance(reason, RemoteError)
    assert reason.kind == "RuntimeError"
    assert len(reason.message) > 8000
    capfd.readouterr()


class Long(GenServer):
    """Fails with many words."""

    def handle_call(self, request: Any, sender: Sender) -> Any:
        raise RuntimeError("x" * 100_000)


def test_a_killed_childs_signal_is_told(capfd: Any) -> None:
    sup: SupervisorRef = Supervisor.start_link([ChildSpec("c", Counter)], intensity=5)
    for number, reason in ((signal.SIGSEGV, "signal SIGSEGV"), (signal.SIGKILL, "killed")):
        monitor = sup.child("c").monitor()
        events = sup.events()
        os.kill(sup.child("c").pid, number)
        assert monitor.wait(PATIENCE).reason == reason
        assert events.next(PATIENCE).reason == reason
    capfd.readouterr()


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


def test_a_backoff_of_a_former_life_does_not_count(capfd: Any) -> None:
    spec = ChildSpec("c", Counter, backoff=Backoff(0.4, 0.4, jitter=0))
    sup: SupervisorRef = Supervisor.start_link([spec], intensity=9)
    os.kill(sup.child("c").pid, signal.SIGKILL)
    eventually(lambda: states(sup)["c"], "restarting")
    time.sleep(0.2)  # half of its wait
    sup.terminate_child("c")
    again = sup.restart_child("c")
    assert again is not None
    monitor = again.monitor()
    os.kill(again.pid, signal.SIGKILL)
    monitor.wait(PATIENCE)
    began = time.monotonic()
    eventually(lambda: states(sup)["c"], "running")
    assert time.monotonic() - began >= 0.35
    capfd.readouterr()


def test_a_dynamic_child_in_its_backoff_can_be_terminated(capfd: Any) -> None:
    template = ChildSpec("c", Counter, backoff=Backoff(1000, 1000))
    sup: DynamicSupervisorRef = DynamicSupervisor.start_link(template)
    ref = sup.start_child()
    assert ref is not None
    os.kill(ref.pid, signal.SIGKILL)
    eventually(lambda: states(sup), {"c-1": "restarting"})
    sup.terminate_child("c-1")
    assert states(sup) == {}
    with pytest.raises(NotFound):
        sup.terminate_child("c-1")
    capfd.readouterr()


def test_words_that_help() -> None:
    sup: SupervisorRef = Supervisor.start_link([])
    with pytest.raises(ValueError, match="a supervisor does not know 'get'"):
        sup.call("get")
    for make, text in (
        (lambda: ChildSpec("c", Counter, 5), "child 'c': args is a tuple of arguments"),  # type: ignore[arg-type]
        (lambda: ChildSpec("c", Counter, "abc"), "args is a tuple"),  # type: ignore[arg-type]
        (lambda: ChildSpec("c", Counter, (), None), "kwargs is a dict by name"),  # type: ignore[arg-type]
        (lambda: ChildSpec("c" * 300, Counter), "1 to 255 bytes"),
        (lambda: ChildSpec("c", Counter, shutdown=10**400), "shutdown is seconds"),
        (lambda: Supervisor.start_link(ChildSpec("c", Counter)), "a list of ChildSpec"),
        (
            lambda: Supervisor.start_link([ChildSpec("c", Counter, (lambda: 0,))]),
            "its arguments cannot be pickled",
        ),
        (lambda: Supervisor.start_link([], strategy="simple_one_for_one"), "DynamicSupervisor"),
    ):
        with pytest.raises((ValueError, TypeError), match=text):
            make()  # type: ignore[no-untyped-call]
    plan = dataclasses.replace(ChildSpec("x", Counter).plan(travels=True), id="y")
    assert plan.describe()["id"] == "y"
