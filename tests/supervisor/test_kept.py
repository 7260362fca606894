"""Attributes that survive a crash: what is kept, when, and what a kill at any line leaves."""

import enum
import os
import random
import signal
import time
from collections import Counter, OrderedDict
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, ClassVar, NamedTuple

import pytest
from processes import PATIENCE, eventually, kill
from trees import start, wait_for

from supervisor import (
    ChildSpec,
    Continue,
    GenServer,
    NoReply,
    ProcessDown,
    Ref,
    RemoteError,
    Sender,
    StartFailed,
    Stop,
    Supervisor,
    SupervisorRef,
    handler,
    named,
)


class Tally(GenServer):
    kept = ("n", "seen")

    def init(self) -> None:
        if not self.restored:
            self.n = 0
            self.seen: dict[Any, Any] = {}
        self.forgotten = "anew"

    @handler
    def add(self, n: int) -> int:
        self.n += n
        return self.n

    @handler
    def get(self) -> tuple[int, dict[Any, Any], str, bool]:
        return self.n, self.seen, self.forgotten, self.restored

    @handler
    def set(self, key: Any, value: Any) -> None:
        self.seen[key] = value
        self.forgotten = "changed"

    @handler
    def fail(self) -> None:
        self.n = 4711
        raise ValueError("on request")

    @handler
    def die(self) -> None:
        self.n = 4711
        os.kill(os.getpid(), signal.SIGKILL)

    @handler
    def reply_and_die(self) -> NoReply:
        assert self.sender is not None
        self.n += 1
        self.reply(self.sender, self.n)
        self.n = 4711
        os.kill(os.getpid(), signal.SIGKILL)
        return NoReply()

    @handler
    def go_on(self) -> Continue:
        return Continue("go on", reply=None)

    @handler
    def later(self) -> None:
        self.call_later(0.001, self._count)

    @handler
    def read(self) -> None:
        self.eventfd = os.eventfd(1)
        self.add_reader(self.eventfd, self._read)

    @handler
    def wait_idle(self) -> None:
        self.idle_timeout = 0.001

    @handler
    def leave(self) -> Stop:
        self.n += 1
        return Stop("left", reply=self.n)

    @handler
    def opaque(self) -> None:
        self.n = object()  # type: ignore[assignment]

    @handler
    def fds(self) -> list[str]:
        return sorted(self.stored_fds())

    @handler
    def die_at_write(self, number: int) -> None:
        """Be killed just before this one of the next system calls that write."""
        pwrite, calls = os.pwrite, iter(range(number))

        def counted(*arguments: Any) -> int:
            if next(calls, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return pwrite(*arguments)

        os.pwrite = counted

    def _read(self) -> None:
        os.eventfd_read(self.eventfd)
        self._count()

    def _count(self) -> None:
        self.n += 1

    def handle_cast(self, request: Any) -> None:
        self.n += request

    def handle_info(self, message: Any) -> None:
        self.n += 1
        self.idle_timeout = None

    def handle_continue(self, argument: Any) -> None:
        self.n += 1


def tally(**options: Any) -> tuple[SupervisorRef, Ref[Tally]]:
    sup = start(ChildSpec("tally", Tally, name="tally", **options), intensity=1000)
    return sup, sup.child("tally", Tally)


def killed(sup: SupervisorRef) -> Ref[Tally]:
    """Kill it, and return its successor."""
    kill(sup.child("tally").pid)
    return sup.child("tally", Tally).within(retry=PATIENCE)


def test_what_is_kept_is_back_before_init() -> None:
    sup, ref = tally()
    assert ref.call(Tally.get) == (0, {}, "anew", False)
    values = {(1, 2): {3}, "big": 2**100, "bytes": b"\0", 5: [None, 1.5, True], "ref": ref}
    for key, value in values.items():
        ref.call(Tally.set, key, value)
    ref.call(Tally.add, 3)
    assert ref.call(Tally.get) == (3, values, "changed", False)
    assert killed(sup).call(Tally.get) == (3, values, "anew", True)
    assert killed(sup).call(Tally.get) == (3, values, "anew", True)


CALLBACKS = {
    "a cast": lambda ref: ref.cast(1),
    "a cast of a method": lambda ref: ref.cast(Tally.add, 1),
    "a message": lambda ref: ref.send("x"),
    "a continue": lambda ref: ref.call(Tally.go_on),
    "a timer": lambda ref: ref.call(Tally.later),
    "a descriptor": lambda ref: ref.call(Tally.read),
    "idleness": lambda ref: ref.call(Tally.wait_idle),
    "replace_state": lambda ref: ref.replace_state(n=1),
}


@pytest.mark.parametrize("callback", CALLBACKS)
def test_every_callback_is_followed_by_a_write(callback: str) -> None:
    sup, ref = tally()
    CALLBACKS[callback](ref)
    eventually(lambda: ref.get_state()["n"], 1)
    assert killed(sup).call(Tally.get)[0] == 1


@pytest.mark.parametrize("method", [Tally.fail, Tally.die])
def test_a_callback_that_does_not_return_has_changed_nothing(method: Any) -> None:
    sup, ref = tally()
    ref.call(Tally.add, 3)
    with pytest.raises((RemoteError, ProcessDown)):
        ref.call(method)
    assert killed(sup).call(Tally.get)[0] == 3


def test_what_a_reply_tells_is_kept() -> None:
    sup, ref = tally()
    assert ref.call(Tally.reply_and_die) == 1
    assert sup.child("tally", Tally).within(retry=PATIENCE).call(Tally.get)[0] == 1


def test_an_orderly_end_keeps_it_if_the_child_is_started_again() -> None:
    sup, ref = tally()
    assert ref.call(Tally.leave) == 1
    wait_for(sup, {"tally": "running"})
    assert named("tally", Tally).within(retry=PATIENCE).call(Tally.get)[0] == 1


def test_a_child_that_is_stopped_for_good_is_forgotten() -> None:
    sup, ref = tally()
    ref.call(Tally.add, 3)
    sup.terminate_child("tally")
    assert sup.restart_child("tally", Tally).call(Tally.get) == (0, {}, "anew", False)


def test_a_killed_supervisor_does_not_lose_it() -> None:
    inner = ChildSpec(
        "inner", Supervisor, args=([ChildSpec("tally", Tally, name="tally")],), name="inner"
    )
    start(inner, intensity=10)
    ref = named("tally", Tally).within(retry=PATIENCE)
    ref.call(Tally.add, 3)
    for _ in range(3):
        kill(named("inner").within(retry=PATIENCE).pid)
        eventually(lambda: named("tally").is_alive())
        assert ref.call(Tally.add, 1)
    assert ref.call(Tally.get)[0] == 6


def test_without_a_supervisor_there_is_nothing_to_keep() -> None:
    ref = Tally.start_link()
    assert ref.call(Tally.add, 3) == 3
    assert ref.call(Tally.get) == (3, {}, "anew", False)


def test_the_memfd_is_not_among_the_actors_own() -> None:
    sup, ref = tally()
    assert ref.call(Tally.fds) == []
    assert killed(sup).call(Tally.fds) == []


def test_what_cannot_be_written_ends_the_actor() -> None:
    sup, ref = tally()
    ref.call(Tally.add, 3)
    with pytest.raises(RemoteError, match=r"Tally.kept cannot be written: kept\['n'\] is"):
        ref.call(Tally.opaque)
    assert sup.child("tally", Tally).within(retry=PATIENCE).call(Tally.get)[0] == 3


class NeverStarts(GenServer):
    kept = ("n",)

    def init(self) -> None:
        self.n = object()


def test_what_cannot_be_written_fails_the_start() -> None:
    with pytest.raises(StartFailed, match=r"NeverStarts.kept cannot be written"):
        start(ChildSpec("never", NeverStarts))


class Kind(enum.IntEnum):
    ONE = 1


class Pair(NamedTuple):
    one: int
    two: int


ODD = {
    "counter": Counter("a"),
    "ordered": OrderedDict(a=1),
    "enum": Kind.ONE,
    "pair": Pair(1, 2),
    "zone": datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=5, minutes=30))),
    "naive": datetime(2026, 1, 1),
}


class Odd(GenServer):
    """Keeps what would come back as something else."""

    kept = ("value",)

    def init(self) -> None:
        self.value: Any = None

    @handler
    def put(self, name: str) -> None:
        self.value = [ODD[name], {"deep": (ODD[name],)}][name == "pair"]


@pytest.mark.parametrize("name", ODD)
def test_what_would_come_back_as_something_else_is_refused(name: str) -> None:
    """Otherwise an actor would fail only after its first crash."""
    ref = start(ChildSpec("odd", Odd)).child("odd", Odd)
    with pytest.raises(RemoteError, match=r"Odd.kept cannot be written.*"):
        ref.call(Odd.put, name)


def test_a_time_of_utc_comes_back_as_it_was() -> None:
    ref = start(ChildSpec("t", Tally, name="t"), intensity=5).child("t", Tally)
    times = [datetime(1969, 12, 31, 23, 59, 59, 500_000, UTC), datetime(2026, 1, 1, tzinfo=UTC)]
    ref.call(Tally.set, "times", times)
    os.kill(ref.pid, signal.SIGKILL)
    assert ref.within(retry=PATIENCE).call(Tally.get)[1] == {"times": times}


class Deletes(GenServer):
    kept = ("value",)

    def init(self) -> None:
        self.value = 1

    @handler
    def delete(self) -> None:
        del self.value


def test_a_callback_that_deletes_what_is_kept_is_told() -> None:
    ref = start(ChildSpec("d", Deletes)).child("d", Deletes)
    with pytest.raises(RemoteError, match=r"Deletes.kept names 'value', which a callback has del"):
        ref.call(Deletes.delete)


class Refuses(GenServer):
    kept = ("n",)

    def init(self) -> None:
        if not self.restored:
            self.n = 0

    @handler
    def refuse_and_hang(self) -> NoReply:
        self.n += 1
        assert self.sender is not None
        self.refuse(self.sender, ValueError("no"))
        signal.pause()
        return NoReply()

    @handler
    def get(self) -> int:
        return self.n


def test_who_is_refused_finds_what_was_changed() -> None:
    ref = start(ChildSpec("r", Refuses, name="r"), intensity=5).child("r", Refuses)
    pid = ref.pid
    with pytest.raises(ValueError, match="no"):
        ref.call(Refuses.refuse_and_hang)
    os.kill(pid, signal.SIGKILL)
    assert ref.within(retry=PATIENCE).call(Refuses.get) == 1


class Misspelt(GenServer):
    kept = ("dta",)

    def init(self) -> None:
        self.data = {}  # type: ignore[var-annotated]


def test_a_name_that_init_has_not_set_fails_the_start() -> None:
    with pytest.raises(StartFailed, match=r"Misspelt.kept names 'dta', which init has not set"):
        Misspelt.start_link()


@pytest.mark.parametrize("wrong", ["seen", ["seen"], (1,), ("a b",), ("_actor",)])
def test_what_a_class_may_not_say(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"Wrong.kept is a tuple of names of attributes"):
        type("Wrong", (GenServer,), {"kept": wrong})


@pytest.mark.parametrize("write", [0, 1])
def test_a_kill_between_two_writes_leaves_the_former_values_whole(write: int) -> None:
    """The first write is of the values, the second says where they are."""
    sup, ref = tally()
    for n in (1, 1000):
        ref.call(Tally.set, "x", "x" * n)
        ref.call(Tally.die_at_write, write)
        with pytest.raises(ProcessDown):
            ref.call(Tally.set, "x", "y" * 100_000)
        again = sup.child("tally", Tally).within(retry=PATIENCE)
        assert again.call(Tally.get)[1] == {"x": "x" * n}


def test_random_kills_lose_nothing_that_was_acknowledged() -> None:
    kill_often(20, seed=20)


def kill_often(kills: int, seed: int) -> None:
    """Count up, in the presence of kills: what was acknowledged is there, and nothing twice."""
    chance = random.Random(seed)
    sup, ref = tally()
    acknowledged = lost = 0
    for _ in range(kills):
        pid = sup.child("tally").pid
        until = time.monotonic() + chance.uniform(0.0, 0.02)
        futures = []
        while time.monotonic() < until:
            futures.append(ref.call_async(Tally.add, 1))
            if len(futures) > 20:
                acknowledged = max(acknowledged, futures.pop(0).result(PATIENCE))
        os.kill(pid, signal.SIGKILL)
        for future in futures:
            try:
                acknowledged = max(acknowledged, future.result(PATIENCE))
            except ProcessDown:
                lost += 1
        found = sup.child("tally", Tally).within(retry=PATIENCE).call(Tally.get)[0]
        assert acknowledged <= found <= acknowledged + lost
        acknowledged, lost = found, 0


def test_values_of_any_length() -> None:
    sup, ref = tally()
    chance = random.Random(3)
    for _ in range(5):
        size = chance.choice([0, 1, 4096, 70_000, 3_000_000])
        ref.call(Tally.set, "x", bytes(size))
        assert killed(sup).call(Tally.get)[1] == {"x": bytes(size)}


class Slow(GenServer):
    """Serves a call later, and is not asked by a handler."""

    kept = ("waited",)

    def init(self) -> None:
        self.waited = self.waited + 1 if self.restored else 0
        self.waiting: list[Sender] = []

    def handle_call(self, request: Any, sender: Sender) -> Any:
        if request == "get":
            return self.waited
        self.waiting.append(sender)
        return NoReply()


def test_init_itself_is_followed_by_a_write() -> None:
    sup = start(ChildSpec("slow", Slow, name="slow"), intensity=10)
    for n in range(3):
        assert named("slow").call("get", retry=PATIENCE) == n
        kill(sup.child("slow").pid)


class Waits(GenServer):
    """Keeps a number, and callers who wait for its end."""

    kept = ("n",)

    def init(self) -> None:
        if not self.restored:
            self.n = 0
        self.waiting: list[Sender] = []

    @handler
    def wait(self) -> NoReply:
        assert self.sender is not None
        self.waiting.append(self.sender)
        return NoReply()

    @handler
    def get(self) -> int:
        return self.n

    @handler
    def fail(self) -> None:
        self.n += 100
        raise ValueError("on request")

    @handler
    def tell_what_cannot_travel(self) -> object:
        self.n += 100
        return object()

    def handle_cast(self, request: Any) -> Continue:
        self.n += 1
        return Continue("and fail")

    def handle_continue(self, argument: Any) -> None:
        self.n += 100
        raise ValueError("on request")

    def terminate(self, reason: Any) -> None:
        for sender in self.waiting:
            self.reply(sender, "bye")


@pytest.mark.parametrize("how", ["raises", "tells what cannot travel"])
def test_a_reply_at_the_end_keeps_nothing_of_a_callback_that_failed(how: str) -> None:
    start(ChildSpec("w", Waits, name="w"), intensity=10)
    ref = named("w", Waits)
    future = ref.call_async(Waits.wait)
    with pytest.raises(RemoteError):
        ref.call(Waits.fail if how == "raises" else Waits.tell_what_cannot_travel)
    assert future.result(PATIENCE) == "bye"
    assert ref.within(retry=PATIENCE).call(Waits.get) == 0


def test_a_continue_that_fails_takes_nothing_back_of_what_came_before() -> None:
    sup = start(ChildSpec("w", Waits, name="w"), intensity=10)
    down = sup.child("w").monitor()
    named("w").cast("x")
    down.wait(PATIENCE)
    assert named("w", Waits).within(retry=PATIENCE).call(Waits.get) == 1


class Slotted(GenServer):
    __slots__ = ("n",)


class Mixed(Waits):
    kept = ("m", "n")

    def init(self) -> None:
        super().init()
        if not self.restored:
            self.m = 1


def test_names_that_cannot_be_kept() -> None:
    for kept, why in ((("n", "n"), "names 'n' twice"), (("call_later",), "which every actor has")):
        with pytest.raises(TypeError, match=why):
            type("Odd", (GenServer,), {"kept": kept})


def test_what_is_no_plain_attribute_is_refused() -> None:
    settable = property(lambda _: 1, lambda _, __: None)
    for name, namespace in (("n", {"n": settable}), ("__n", {})):
        with pytest.raises(TypeError, match=r"Odd.kept names '_*n', which is no plain attribute"):
            type("Odd", (GenServer,), {"kept": (name,), **namespace})
    with pytest.raises(TypeError, match=r"Odd.kept names 'n', which is no plain attribute"):
        type("Odd", (Slotted,), {"kept": ("n",)})
    assert Mixed.kept == ("n", "m")


class OfClass(GenServer):
    kept = ("seen",)
    seen: ClassVar[dict[str, int]] = {}


def test_an_attribute_of_the_class_is_not_the_objects() -> None:
    with pytest.raises(StartFailed, match="names 'seen', which init has not set on self"):
        OfClass.start_link()
