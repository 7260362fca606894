"""OTP's contract, where it is easily missed: what callbacks return, what callers are told, when."""

import atexit
import os
import signal
import threading
import time
from dataclasses import dataclass
from typing import Any

import pytest
from actors import Counter
from processes import PATIENCE, eventually

from supervisor import (
    AlreadyRegistered,
    Backoff,
    ChildSpec,
    Continue,
    DynamicSupervisor,
    GenServer,
    Ignore,
    NoReply,
    NotFound,
    ProcessDown,
    Ref,
    RemoteError,
    Sender,
    StartFailed,
    Stop,
    Supervisor,
    multi_call,
)

WRONG: dict[str, Any] = {
    "a number": 4711,
    "False": False,
    "the class Stop": Stop,
    "the class Ignore": Ignore,
    "the class NoReply": NoReply,
    "text": "ok",
}


class Returns(GenServer):
    """Returns from each callback what it is told."""

    def init(self, returned: str = "", first: str = "") -> Any:
        self.later: Sender | None = None
        if first:
            return Continue(first)
        return WRONG.get(returned)

    def handle_call(self, request: Any, sender: Sender) -> Any:
        match request:
            case "stop":
                return Stop("for a reason")
            case "stop and reply":
                return Stop("for a reason", reply=None)
            case ["continue", what]:
                self.later = sender
                return Continue(what)
            case "continue and reply":
                return Continue("", reply=None)
            case ["return", what]:
                return WRONG[what]
        return os.getpid()

    def handle_cast(self, what: str) -> Any:
        return WRONG.get(what)

    def handle_info(self, what: Any) -> Any:
        return WRONG.get(what)

    def handle_continue(self, what: str) -> Any:
        if what == "reply" and self.later is not None:
            self.reply(self.later, "replied later")
        return WRONG.get(what)


class Forgets(Supervisor):
    """Forgets to return what its base has returned."""

    def init(self) -> None:
        super().init([ChildSpec("c", Counter)])


class Begins(GenServer):
    async def handle_call(self, request: Any, sender: Sender) -> int:  # type: ignore[override]
        return 1

    async def handle_cast(self, request: Any) -> None:  # type: ignore[override]
        return


# -- what callbacks return -------------------------------------------------------------------------


@pytest.mark.parametrize("what", WRONG)
def test_what_init_may_not_return_fails_the_start(what: str) -> None:
    with pytest.raises(StartFailed, match="init returns None, Continue"):
        Returns.start_link(what)


def test_a_supervisors_init_that_returns_nothing_fails_the_start() -> None:
    with pytest.raises(StartFailed, match=r"returns what super\(\).init"):
        Forgets.start_link()


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("callback", ["handle_cast", "handle_info", "handle_continue"])
def test_what_other_callbacks_may_not_return_ends_their_actor(callback: str, what: str) -> None:
    ref = Returns.start_link()
    down = ref.monitor()
    match callback:
        case "handle_cast":
            ref.cast(what)
        case "handle_info":
            ref.send(what)
        case "handle_continue":
            ref = Returns.start_link(first="")
            down = ref.monitor()
            with pytest.raises((ProcessDown, RemoteError)):
                ref.call(["continue", what])
    reason = down.wait(PATIENCE).reason
    assert f"{callback} returns None, Stop(...) or Continue(...), not" in str(reason)


@pytest.mark.parametrize("what", ["the class Stop", "the class Ignore", "the class NoReply"])
def test_a_class_is_no_reply(what: str) -> None:
    ref = Returns.start_link()
    with pytest.raises(RemoteError, match=f"has returned {what}"):
        ref.call(["return", what])


def test_async_callbacks_are_told(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RemoteError, match="handle_call is an async function"):
        Begins.start_link().call("x")
    ref = Begins.start_link()
    down = ref.monitor()
    ref.cast("x")
    assert "handle_cast is an async function" in str(down.wait(PATIENCE).reason)
    assert "never awaited" not in capfd.readouterr().err


def test_a_stop_without_a_reply_is_told_as_an_end() -> None:
    with pytest.raises(ProcessDown) as caught:
        Returns.start_link().call("stop")
    assert caught.value.reason == "for a reason"
    assert Returns.start_link().call("stop and reply") is None


def test_continue_may_leave_the_reply_open() -> None:
    ref = Returns.start_link()
    assert ref.call(["continue", "reply"]) == "replied later"
    assert ref.call("continue and reply") is None


class Undecided(GenServer):
    """Ends for no reason."""

    def init(self, at_once: bool = False) -> Any:
        return Stop(None) if at_once else None  # type: ignore[arg-type]

    def handle_call(self, request: Any, sender: Sender) -> Any:
        return Stop(None)  # type: ignore[arg-type]


def test_none_is_no_reason_to_end() -> None:
    with pytest.raises(StartFailed, match="None is no reason"):
        Undecided.start_link(True)
    with pytest.raises(RemoteError, match="None is no reason"):
        Undecided.start_link().call("x")
    sup = Supervisor.start_link([])
    with pytest.raises(StartFailed, match="None is no reason"):
        sup.start_child(ChildSpec("u", Undecided, (True,)))
    sup.stop()


class HangsAfterFailing(GenServer):
    def init(self) -> None:
        atexit.register(time.sleep, 1000)
        raise ValueError("no")


def test_a_start_that_fails_and_then_hangs_is_ended() -> None:
    sup = Supervisor.start_link([])
    with pytest.raises(StartFailed, match="no"):
        sup.start_child(ChildSpec("h", HangsAfterFailing))
    sup.stop()


# -- terminate -------------------------------------------------------------------------------------


class Stumbles(GenServer):
    def handle_call(self, request: Any, sender: Sender) -> int:
        return os.getpid()

    def terminate(self, reason: Any) -> None:
        raise ZeroDivisionError("as it ended")


def test_a_terminate_that_raises_is_the_reason() -> None:
    ref = Stumbles.start_link()
    down = ref.monitor()
    with pytest.raises(ProcessDown, match="as it ended"):
        ref.stop()
    assert "as it ended" in str(down.wait(PATIENCE).reason)


def test_a_transient_child_whose_terminate_raises_is_restarted() -> None:
    sup = Supervisor.start_link([ChildSpec("s", Stumbles, restart="transient")])
    ref = sup.child("s")
    former = ref.call("pid")
    with pytest.raises(ProcessDown):
        ref.stop()
    assert sup.child("s").call("pid") != former


# -- names -----------------------------------------------------------------------------------------


class FailsSlowly(GenServer):
    def init(self) -> None:
        raise ValueError("no")

    def terminate(self, reason: Any) -> None:
        time.sleep(0.2)


@pytest.mark.slow
def test_the_name_of_a_start_that_failed_is_free_again() -> None:
    for _ in range(20):
        with pytest.raises(StartFailed):
            FailsSlowly.start_link(name="taken")
        Counter.start_link(name="taken").stop()


def test_whoever_has_the_name_is_told() -> None:
    ref = Counter.start_link(5, name="taken")
    with pytest.raises(AlreadyRegistered, match="'taken' belongs to process") as caught:
        Counter.start_link(name="taken")
    assert caught.value.ref.call("get") == 5
    assert caught.value.ref.pid == ref.pid


# -- supervisors -----------------------------------------------------------------------------------


def test_a_child_of_type_supervisor_may_take_any_time_to_end() -> None:
    spec = ChildSpec("c", Counter, type="supervisor")
    assert spec.plan().shutdown == "infinity"
    assert ChildSpec("c", Supervisor, ([],), type="worker").plan().shutdown == 5.0


def test_a_period_is_finite() -> None:
    for wrong in (float("inf"), float("nan"), 0, -1):
        with pytest.raises(ValueError, match="period is a finite number"):
            Supervisor.start_link([], period=wrong)


def test_the_arguments_of_a_temporary_child_are_not_kept() -> None:
    sup = Supervisor.start_link([])
    big = "x" * (4 << 20)
    before = _memory(sup.pid)
    for n in range(20):
        sup.start_child(ChildSpec(f"c{n}", Takes, (big,), restart="temporary"))
    assert _memory(sup.pid) - before < 30 << 20


class Takes(GenServer):
    def init(self, _: str) -> None:
        return


def _memory(pid: int) -> int:
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        fields = dict(line.split(":", 1) for line in file)
    return int(fields["VmRSS"].split()[0]) << 10


def test_child_waits_for_a_backoff() -> None:
    spec = ChildSpec("c", Counter, backoff=Backoff(initial=0.5, jitter=0.0))
    sup = Supervisor.start_link([spec], intensity=100)
    ref = sup.child("c")
    down, former = ref.monitor(), ref.pid
    os.kill(former, signal.SIGKILL)
    down.wait(PATIENCE)
    found: list[Ref] = []
    threads = [threading.Thread(target=lambda: found.append(sup.child("c"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {one.pid for one in found} == {sup.child("c").pid} != {former}


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
    time.sleep(0.1)
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

    def states() -> dict[str, str]:
        return {row[0]: row[3] for row in sup.which_children()}

    eventually(states, {"a": "restarting", "b": "undefined", "c": "undefined"})
    sup.terminate_child("a")
    flag.unlink()
    assert states() == {"a": "undefined", "b": "undefined", "c": "undefined"}
    assert sup.count_children()["active"] == 0
    for child in "abc":
        assert sup.restart_child(child).is_alive()


def test_a_child_that_is_terminated_twice_is_not_found_the_second_time() -> None:
    sup = DynamicSupervisor.start_link(ChildSpec("c", Counter))
    ref = sup.start_child()
    sup.terminate_child(ref)
    with pytest.raises(NotFound):
        sup.terminate_child(ref)


# -- arguments -------------------------------------------------------------------------------------


@dataclass
class Config:
    x: int


def test_an_argument_that_cannot_travel_is_named() -> None:
    sup = Supervisor.start_link([])
    with pytest.raises(TypeError, match=r"child 'd': args\[1\], Config, cannot travel"):
        sup.start_child(ChildSpec("d", Takes, (1, Config(1))))
    with pytest.raises(TypeError, match=r"child 'd': where, Config, cannot travel"):
        sup.start_child(ChildSpec("d", Takes, kwargs={"where": Config(1)}))


def test_a_class_within_a_function_is_told() -> None:
    class Local(GenServer):
        pass

    with pytest.raises(ValueError, match="Local must stand at the top level of a module"):
        Local.start_link()


def test_a_timeout_is_a_number() -> None:
    ref = Counter.start_link()
    for use in (ref.call, ref.call_async):
        with pytest.raises(TypeError, match="a timeout is a number of seconds, or None, not '5'"):
            use("get", timeout="5")  # type: ignore[arg-type]
        for wrong in (float("nan"), 10**400):
            with pytest.raises(ValueError, match="a timeout is a number of seconds, or None, not"):
                use("get", timeout=wrong)


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


def test_multi_call_checks_before_it_sends() -> None:
    ref = Counter.start_link()
    for refs, request in (([ref, "x"], "get"), ([ref], object())):
        with pytest.raises(TypeError):
            multi_call(refs, request)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a timeout is a number"):
        multi_call([ref], "get", timeout="5")  # type: ignore[arg-type]
    assert ref.statistics()["calls"] == 0
