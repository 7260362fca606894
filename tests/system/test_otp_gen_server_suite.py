"""The cases of OTP's ``gen_server_SUITE`` in our words, by the names that they have there.

Not here: what the guide's table says is not there (nodes, ``enter_loop``, ``hibernate``,
``format_status``, ``code_change``).
"""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from actors import Counter
from processes import PATIENCE, eventually, wait_for_end
from trees import kill_actor

from supervisor import (
    AlreadyRegistered,
    CallTimeout,
    Continue,
    Down,
    Exit,
    GenServer,
    Ignore,
    NoProcess,
    NoReply,
    ProcessDown,
    Reason,
    Ref,
    RemoteError,
    Sender,
    Shutdown,
    StartFailed,
    Stop,
    Timeout,
    linux,
    multi_call,
    whereis,
)


class Server(GenServer):
    """Does what OTP's gen_server_SUITE does in its callbacks."""

    def init(self, how: Any = None) -> Any:
        self.state: Any = how
        self.seen: list[Any] = []
        match how:
            case "ignore":
                return Ignore()
            case "stop":
                return Stop("stopped")
            case "error":
                raise RuntimeError("refused")
            case "exit":
                raise SystemExit(3)
            case "hang":
                time.sleep(PATIENCE)
            case ["continue", *steps]:
                return Continue(steps)
            case "trap":
                self.trap_exit = True
        return None

    def handle_call(self, request: Any, sender: Sender) -> Any:
        match request:
            case "started_p":
                return "ok"
            case "seen":
                return self.seen
            case ["echo", term]:
                return term
            case ["delayed_answer", seconds]:
                self.send_after(seconds, ["answer", sender])
                return NoReply()
            case ["reply and continue", *steps]:
                return Continue(steps, reply="replied")
            case ["continue and reply", *steps]:
                return Continue([*steps, ["reply", sender]])
            case "stop with reply":
                return Stop("normal", reply="stopping")
            case ["stop without reply", reason]:
                return Stop(reason)
            case ["noreply and stop", reason]:
                self.reply(sender, "replied")
                return Stop(reason)
            case "hang":
                time.sleep(PATIENCE)
            case "crash":
                raise ZeroDivisionError("crashed")
            case ["idle", seconds]:
                self.idle_timeout = seconds
            case ["monitor", ref]:
                self.monitor(ref)
            case ["delegate", ref]:
                ref.cast(["answer", sender])
                return NoReply()
            case ["start", argument]:
                return Server.start_link(argument)
        return None

    def handle_cast(self, request: Any) -> Any:
        match request:
            case "crash":
                raise ZeroDivisionError("crashed")
            case ["stop", reason]:
                return Stop(reason)
            case ["answer", sender]:
                self.reply(sender, "delayed")
            case ["continue", *steps]:
                return Continue(steps)
            case _:
                self.seen.append(["cast", request])
        return None

    def handle_info(self, message: Any) -> Any:
        match message:
            case ["answer", sender]:
                self.reply(sender, "delayed")
            case "crash":
                raise ZeroDivisionError("crashed")
            case ["stop", reason]:
                return Stop(reason)
            case ["continue", *steps]:
                return Continue(steps)
            case Down():
                self.seen.append(["down", message.reason])
            case Exit():
                self.seen.append(["exit", message.reason])
            case Timeout():
                self.seen.append("timeout")
            case _:
                self.seen.append(["info", message])
        return None

    def handle_continue(self, argument: Any) -> Any:
        first, *rest = argument
        match first:
            case "stop":
                return Stop("stopped")
            case ["reply", sender]:
                self.reply(sender, self.seen)
            case _:
                self.seen.append(["continue", first])
        return Continue(rest) if rest else None

    def terminate(self, reason: Reason) -> None:
        if self.state == "hangs in terminate":
            time.sleep(PATIENCE)
        if self.state == "crashes in terminate":
            raise ZeroDivisionError("crashed in terminate")


class Bare(GenServer):
    """Has no callbacks."""


class CallsWhatIsNotThere(GenServer):
    """Its callbacks call what is not there: that is no missing callback."""

    def handle_cast(self, request: Any) -> None:
        self.not_there()  # type: ignore[attr-defined]

    def handle_info(self, message: Any) -> None:
        self.not_there()  # type: ignore[attr-defined]

    def terminate(self, reason: Reason) -> None:
        self.not_there()  # type: ignore[attr-defined]


def reason_of(ref: Any, act: Callable[[], Any]) -> Any:
    """Return the reason for which an actor ends when this is done."""
    monitor = ref.monitor()
    act()
    return monitor.wait(PATIENCE).reason


# -- start -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [None, "my_test_name"])
@pytest.mark.parametrize("way", ["start", "start_link"])
def test_start(way: str, name: str | None) -> None:
    """start1 to start12: with and without a name, with and without a link."""
    ref = getattr(Server, way)(name=name)
    assert ref.call("started_p") == "ok"
    if name is not None:
        with pytest.raises(AlreadyRegistered) as taken:
            getattr(Server, way)(name=name)
        assert taken.value.ref.pid == ref.pid
        assert whereis(name) == ref
    pid = ref.pid
    assert ref.call("stop with reply") == "stopping"
    assert wait_for_end(pid)
    assert name is None or whereis(name) is None
    with pytest.raises(NoProcess):
        ref.call("started_p", timeout=1)


@pytest.mark.parametrize("way", ["start", "start_link"])
def test_start_fails(way: str) -> None:
    """By ignore, stop, error and exit; the name is free at once."""
    start_ = getattr(Server, way)
    assert start_("ignore", name="free") is None
    for how, why in (("stop", "stopped"), ("error", "refused"), ("exit", "SystemExit")):
        with pytest.raises(StartFailed, match=why):
            start_(how, name="free")
    ref = start_(name="free")
    ref.stop()


@pytest.mark.slow
def test_loop_start_fail() -> None:
    """Starts that fail, one after the other, leave nothing behind."""
    descriptors = len(os.listdir("/proc/self/fd"))
    for how in ("stop", "error", "exit") * 4:
        with pytest.raises(StartFailed):
            Server.start_link(how)
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert all(wait_for_end(pid) for pid in linux.children())


def test_an_actor_whose_start_of_another_fails_goes_on(capfd: Any) -> None:
    """The error is the caller's own: its start ends nobody that catches it."""
    ref = Server.start_link()
    with pytest.raises(RemoteError, match="refused"):
        ref.call(["start", "error"])


def test_start_name_is_free_after_a_kill() -> None:
    ref = Server.start_link(name="again")
    kill_actor(ref)
    again = Server.start_link(name="again")
    assert again.call("started_p") == "ok"


# -- crash -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["call", "cast", "send"])
def test_crash(way: str, capfd: Any) -> None:
    """What a callback raises is the reason, with its traceback."""
    ref = Server.start_link()

    def crash() -> None:
        if way == "call":
            with pytest.raises(RemoteError, match="ZeroDivisionError: crashed"):
                ref.call("crash")
        else:
            getattr(ref, way)("crash")

    reason = reason_of(ref, crash)
    assert isinstance(reason, RemoteError)
    assert (reason.kind, reason.message) == ("ZeroDivisionError", "crashed")
    assert "handle_" in reason.trace


@pytest.mark.parametrize(
    ("argument", "reason"), [("normal", "normal"), ("shutdown", "shutdown"), ("other", "other")]
)
def test_crash_is_told_to_those_who_are_linked(argument: str, reason: str, capfd: Any) -> None:
    """The one that traps exits is told, by whatever reason."""
    owner = Server.start_link("trap")
    child: Ref = owner.call(["start", None])
    child.cast(["stop", argument])
    assert eventually(lambda: owner.call("seen")) == [["exit", reason]]


@pytest.mark.parametrize("reason", ["normal", "shutdown", Shutdown("x"), "other"])
@pytest.mark.parametrize("way", ["cast", "send"])
def test_stop_from_a_callback(way: str, reason: Any, capfd: Any) -> None:
    ref = Server.start_link()
    assert reason_of(ref, lambda: getattr(ref, way)(["stop", reason])) == reason


def test_terminate_crash(capfd: Any) -> None:
    """terminate_crash_format: an error in terminate is the reason that is told."""
    ref = Server.start_link("crashes in terminate")
    reason = reason_of(ref, lambda: ref.cast(["stop", "normal"]))
    assert isinstance(reason, RemoteError)
    assert reason.message == "crashed in terminate"


# -- call ------------------------------------------------------------------------------------------


def test_call() -> None:
    ref = Server.start_link(name="called")
    assert ref.call("started_p") == "ok"
    assert ref.call(["delayed_answer", 0.01]) == "delayed"
    with pytest.raises(CallTimeout):
        ref.call(["delayed_answer", 0.2], timeout=0.01)
    assert ref.call("started_p") == "ok"
    assert ref.call(["delayed_answer", 0.3]) == "delayed"  # the late reply, before it, is nobody's
    assert ref.call(["echo", 1]) == 1
    named = whereis("called")
    assert named is not None
    assert named.call("started_p") == "ok"
    with pytest.raises(ProcessDown):
        ref.call(["stop without reply", "shutdown"])
    with pytest.raises(NoProcess):
        ref.call("started_p")


@pytest.mark.parametrize("reason", ["normal", "shutdown", Shutdown("x"), "other"])
def test_call_that_ends_the_server(reason: Any, capfd: Any) -> None:
    """Its reason is told in the place of a reply, unless there was one."""
    ref = Server.start_link()
    with pytest.raises(ProcessDown) as down:
        ref.call(["stop without reply", reason])
    assert down.value.reason == reason
    other = Server.start_link()
    assert other.call(["noreply and stop", reason]) == "replied"


@pytest.mark.parametrize("timeout", [-1, 0, 0.01])
def test_call_timeout(timeout: float) -> None:
    """A negative one is over, as what is left until a deadline may be."""
    ref = Server.start_link()
    with pytest.raises(CallTimeout):
        ref.call(["delayed_answer", PATIENCE], timeout=timeout)


def test_call_without_a_timeout() -> None:
    ref = Server.start_link()
    assert ref.call(["delayed_answer", 0.1], timeout=None) == "delayed"


@pytest.mark.parametrize("timeout", ["soon", float("nan"), object()])
def test_call_with_a_timeout_that_is_none(timeout: Any) -> None:
    ref = Server.start_link()
    with pytest.raises((ValueError, TypeError)):
        ref.call("started_p", timeout=timeout)


def test_call_of_a_killed_one() -> None:
    ref = Server.start_link()
    future = ref.call_async(["delayed_answer", PATIENCE])
    kill_actor(ref)
    with pytest.raises(ProcessDown, match="killed"):
        future.result(PATIENCE)


def test_call_with_huge_message_queue() -> None:
    """A call is answered though the caller has many answers that it has not read."""
    ref = Server.start_link()
    futures = [ref.call_async(["echo", n], timeout=None) for n in range(2000)]
    assert ref.call("started_p") == "ok"
    assert [future.result(PATIENCE) for future in futures] == list(range(2000))


def test_send_request() -> None:
    """send_request, wait_response, receive_response, check_response."""
    ref = Server.start_link()
    futures = {n: ref.call_async(["delayed_answer", n / 50]) for n in (3, 1, 2)}
    with pytest.raises(CallTimeout):
        futures[3].result(0.001)
    assert not futures[3].done()
    assert [futures[n].result(PATIENCE) for n in (1, 2, 3)] == ["delayed"] * 3
    assert futures[1].result(0) == "delayed"  # as often as one likes
    kill_actor(ref)
    with pytest.raises(NoProcess):
        ref.call_async("started_p")


def test_send_request_to_one_that_ends(capfd: Any) -> None:
    ref = Server.start_link()
    future = ref.call_async(["stop without reply", "other"])
    error = future.exception(PATIENCE)
    assert isinstance(error, ProcessDown)
    assert error.reason == "other"


def test_send_request_from_a_loop() -> None:
    ref = Server.start_link()

    async def ask() -> list[Any]:
        return await asyncio.gather(*(ref.acall(["echo", n]) for n in range(20)))

    assert asyncio.run(ask()) == list(range(20))


def test_reply_by_another_process() -> None:
    """reply_by_alias_with_payload: another actor replies, with whatever term."""
    one, other = Server.start_link(), Server.start_link()
    assert one.call(["delegate", other]) == "delayed"


# -- cast, info, continue --------------------------------------------------------------------------


def test_cast() -> None:
    ref = Server.start_link(name="cast")
    for n in range(3):
        ref.cast(n)
    named = whereis("cast")
    assert named is not None
    named.cast("by name")
    assert ref.call("seen") == [["cast", 0], ["cast", 1], ["cast", 2], ["cast", "by name"]]


def test_cast_fast() -> None:
    """A cast to nobody is told at once."""
    ref = Server.start_link()
    kill_actor(ref)
    for send in (ref.cast, ref.send):
        with pytest.raises(NoProcess):
            send("anything")


def test_cast_does_not_wait() -> None:
    ref = Server.start_link()
    future = ref.call_async("hang")
    before = time.monotonic()
    ref.cast("later")
    assert time.monotonic() - before < PATIENCE / 2
    kill_actor(ref)
    assert isinstance(future.exception(PATIENCE), ProcessDown)


def test_info() -> None:
    ref = Server.start_link()
    ref.send("hello")
    assert ref.call("seen") == [["info", "hello"]]


def test_info_timeout() -> None:
    ref = Server.start_link()
    ref.call(["idle", 0.02])
    assert eventually(lambda: ref.get_state()["seen"])[0] == "timeout"


def test_continue() -> None:
    """From init, and from each kind of callback, before anything else is served."""
    ref = Server.start_link(["continue", 1, 2])
    assert ref.call("seen") == [["continue", 1], ["continue", 2]]
    assert ref.call(["reply and continue", 3]) == "replied"
    ref.cast(["continue", 4, 5])
    ref.send(["continue", 6])
    assert ref.call("seen") == [["continue", n] for n in range(1, 7)]
    assert ref.call(["continue and reply", 7]) == [["continue", n] for n in range(1, 8)]


@pytest.mark.parametrize("way", ["cast", "send"])
def test_continue_may_stop(way: str, capfd: Any) -> None:
    ref = Server.start_link()
    assert reason_of(ref, lambda: getattr(ref, way)(["continue", 1, "stop"])) == "stopped"


def test_continue_from_init_may_stop(capfd: Any) -> None:
    """The start was a success: its end comes after it."""
    ref = Server.start_link(["continue", "stop"])
    try:
        assert ref.monitor().wait(PATIENCE).reason in {"stopped", "exit status 1"}
    except NoProcess:
        assert not ref.is_alive()


def test_multicall() -> None:
    refs = [Server.start_link() for _ in range(3)]
    assert multi_call(refs, "started_p").replies == [(ref, "ok") for ref in refs]
    assert multi_call([], "started_p") == ([], [])


def test_multicall_down() -> None:
    alive, dead, slow = (Server.start_link() for _ in range(3))
    kill_actor(dead)
    slow.call_async("hang")
    replies, errors = multi_call([dead, alive, slow], "started_p", timeout=0.5)
    assert replies == [(alive, "ok")]
    assert {ref: type(error) for ref, error in errors} == {dead: NoProcess, slow: CallTimeout}
    kill_actor(slow)


def test_abcast() -> None:
    refs = [Server.start_link() for _ in range(3)]
    for ref in refs:
        ref.cast("all")
    assert [ref.call("seen") for ref in refs] == [[["cast", "all"]]] * 3


# -- sys -------------------------------------------------------------------------------------------


def test_get_state() -> None:
    ref = Server.start_link([1, 2])
    assert ref.get_state()["state"] == [1, 2]
    ref.suspend()
    assert ref.get_state()["state"] == [1, 2]  # also of a suspended one
    ref.resume()
    kill_actor(ref)
    with pytest.raises(NoProcess):
        ref.get_state()


def test_replace_state() -> None:
    ref = Server.start_link("first")
    assert ref.replace_state(state="second")["state"] == "second"
    assert ref.get_state()["state"] == "second"
    ref.suspend()
    assert ref.replace_state(state="third")["state"] == "third"
    ref.resume()
    assert ref.get_state()["state"] == "third"


# -- undef -----------------------------------------------------------------------------------------


def test_undef_handle_call(capfd: Any) -> None:
    ref = Bare.start_link()
    with pytest.raises(RemoteError, match="Bare serves no calls: 'hello'"):
        ref.call("hello")
    assert eventually(lambda: not ref.is_alive())


def test_undef_handle_cast(capfd: Any) -> None:
    ref = Bare.start_link()
    reason = reason_of(ref, lambda: ref.cast("hello"))
    assert "Bare serves no casts: 'hello'" in str(reason)


def test_undef_handle_info(capfd: Any) -> None:
    """It is logged, and no crash."""
    ref = Bare.start_link()
    ref.send("hello")
    ref.stop()
    assert "received an unexpected message: 'hello'" in capfd.readouterr().err


def test_undef_init() -> None:
    with pytest.raises(StartFailed, match="has no init, and takes no arguments"):
        Bare.start_link(1)


def test_undef_terminate() -> None:
    ref = Bare.start_link()
    assert reason_of(ref, ref.stop) == "normal"


@pytest.mark.parametrize("way", ["cast", "send"])
def test_undef_in_a_callback(way: str, capfd: Any) -> None:
    """undef_in_handle_info: an error within a callback is one, and not taken for a missing one."""
    ref = CallsWhatIsNotThere.start_link()
    reason = reason_of(ref, lambda: getattr(ref, way)("hello"))
    assert "has no attribute 'not_there'" in str(reason)


def test_undef_in_terminate(capfd: Any) -> None:
    ref = CallsWhatIsNotThere.start_link()
    with pytest.raises(ProcessDown, match="has no attribute 'not_there'"):
        ref.stop()


# -- stop ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["normal", "shutdown", Shutdown("x"), "other"])
def test_stop(reason: Any, capfd: Any) -> None:
    """stop1 to stop3: it returns when the actor has ended, whose reason it is."""
    ref = Server.start_link()
    assert reason_of(ref, lambda: ref.stop(reason)) == reason
    assert not ref.is_alive()


def test_stop_of_nobody() -> None:
    """stop4: whoever has ended cannot be stopped."""
    ref = Server.start_link()
    ref.stop()
    with pytest.raises(NoProcess):
        ref.stop()


def test_stop_by_name() -> None:
    """stop5."""
    ref = Server.start_link(name="stopped")
    named = whereis("stopped")
    assert named is not None
    named.stop()
    assert whereis("stopped") is None
    assert not ref.is_alive()


def test_stop_in_time() -> None:
    """stop6, stop7: it goes on to wait for what does not end in time, which lives."""
    ref = Server.start_link("hangs in terminate")
    before = time.monotonic()
    with pytest.raises(CallTimeout):
        ref.stop(timeout=0.1)
    assert time.monotonic() - before < PATIENCE / 2
    os.kill(ref.pid, signal.SIGKILL)


def test_stop_while_it_ends_for_another_reason(capfd: Any) -> None:
    """stop8 to stop10: what it ends of is told."""
    ref = Server.start_link("crashes in terminate")
    with pytest.raises(ProcessDown, match="crashed in terminate"):
        ref.stop()


# -- monitors --------------------------------------------------------------------------------------


def test_start_monitor(capfd: Any) -> None:
    """One that is watched from its start on, by a program and by an actor."""
    ref, watcher = Server.start_link(), Server.start_link()
    monitor = ref.monitor()
    watcher.call(["monitor", ref])
    eventually(lambda: ref.statistics()["monitors"] == 2)
    ref.cast(["stop", "other"])
    down = monitor.wait(PATIENCE)
    assert (down.ref, down.reason) == (ref, "other")
    assert eventually(lambda: watcher.call("seen")) == [["down", "other"]]
    watcher.call(["monitor", ref])
    assert eventually(lambda: len(watcher.call("seen")) == 2)
    assert watcher.call("seen")[1] == ["down", "noproc"]


def test_a_monitor_tells_a_kill() -> None:
    ref = Counter.start_link()
    assert reason_of(ref, lambda: kill_actor(ref)) == "killed"
