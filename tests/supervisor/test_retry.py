"""Requests that are repeated over a restart, because their caller says that they may be."""

import asyncio
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from actors import Counter
from processes import PATIENCE, descriptors, eventually, kill, turns_during

from supervisor import (
    Backoff,
    CallTimeout,
    ChildSpec,
    GenServer,
    NoProcess,
    NoReply,
    ProcessDown,
    Sender,
    StartFailed,
    Supervisor,
    SupervisorRef,
    handler,
    linux,
    named,
)
from supervisor.client import retry


class Frail(GenServer):
    """Is killed as it serves, until a file has so many bytes."""

    def init(self, path: str) -> None:
        self.path = path

    @handler
    def survive(self, attempts: int) -> int:
        with open(self.path, "a") as file:
            file.write(".")
        if os.path.getsize(self.path) < attempts:
            os.kill(os.getpid(), 9)
        return os.path.getsize(self.path)

    @handler
    def pid(self) -> int:
        return os.getpid()

    def handle_call(self, request: Any, sender: Sender) -> Any:
        return self.survive(request)

    def handle_cast(self, request: Any) -> None:
        self.survive(request)


def frail(path: Path, **options: Any) -> SupervisorRef:
    spec = ChildSpec("frail", Frail, args=(str(path / "attempts"),), name="frail", **options)
    return Supervisor.start_link([spec], intensity=100)


CALLS: dict[str, Callable[..., int]] = {
    "a term": lambda ref, n: ref.call(n, retry=PATIENCE),
    "a method": lambda ref, n: ref.within(retry=PATIENCE).call(Frail.survive, n),
    "from asyncio": lambda ref, n: asyncio.run(ref.acall(n, retry=PATIENCE)),
    "a method, from asyncio": lambda ref, n: asyncio.run(
        ref.within(retry=PATIENCE).acall(Frail.survive, n)
    ),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_call_is_repeated_until_it_is_served(tmp_path: Path, call: str) -> None:
    frail(tmp_path)
    assert CALLS[call](named("frail", Frail), 5) == 5


def test_without_retry_nothing_is_repeated(tmp_path: Path) -> None:
    sup = frail(tmp_path)
    ref = named("frail", Frail)
    with pytest.raises(ProcessDown, match="killed"):
        ref.call(Frail.survive, 2)
    assert sup.child("frail", Frail).call(Frail.survive, 1) == 2


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    frail(tmp_path)
    ref = named("frail", Frail).within(retry=PATIENCE)
    ref.call(Frail.pid)
    before = len(os.listdir("/proc/self/fd"))
    assert ref.call(Frail.survive, 4) == 4
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_actor_that_has_not_started_yet_is_waited_for(*, asynchronous: bool) -> None:
    def start() -> None:
        eventually(looking.is_set)
        started.append(Counter.start_link(3, name="later"))

    started: list[Any] = []
    looking = threading.Event()
    thread = threading.Thread(target=start)
    thread.start()
    ref = named("later").within(retry=PATIENCE)
    looking.set()
    if asynchronous:
        found, turns = asyncio.run(turns_during(ref.acall("get")))
        assert turns > 0
    else:
        found = ref.call("get")
    thread.join()
    assert found == 3
    ref.cast(4)
    assert ref.call("get") == 7


def test_a_cast_is_repeated_if_it_was_not_sent(tmp_path: Path) -> None:
    sup = frail(tmp_path, backoff=Backoff(0.2, 1.0))
    kill(sup.child("frail").pid)
    named("frail", Frail).within(retry=PATIENCE).cast(Frail.survive, 1)
    assert sup.child("frail", Frail).call(Frail.survive, 1) == 2


@pytest.mark.parametrize("asynchronous", [False, True])
def test_when_the_seconds_are_over_the_last_error_is_raised(*, asynchronous: bool) -> None:
    ref = named("nobody")
    began = time.monotonic()
    with pytest.raises(NoProcess, match="nobody has the name 'nobody'"):
        asyncio.run(ref.acall("x", retry=0.2)) if asynchronous else ref.call("x", retry=0.2)
    assert time.monotonic() - began >= 0.2


def test_a_timeout_is_not_repeated() -> None:
    ref = Counter.start_link(name="slow")
    ref.suspend()
    with pytest.raises(CallTimeout):
        ref.call("get", timeout=0.01, retry=PATIENCE)
    ref.resume()


def test_what_the_actor_refuses_by_hanging_up_is_not_sent_for_ever() -> None:
    """It lives, and will not take the same message from the next connection either."""
    ref = Counter.start_link(name="strict")
    with pytest.raises(ProcessDown):
        ref._bounded_call(14, "no method", PATIENCE, PATIENCE)
    assert ref.call("get") == 0


@pytest.mark.parametrize("lacks", ["inotify", "a directory"])
def test_without_inotify_the_name_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacks: str
) -> None:
    if lacks == "inotify":
        monkeypatch.setattr(linux, "inotify", lambda: -1)
    else:
        monkeypatch.setattr(linux, "watch_creations", lambda *_: False)
    frail(tmp_path, backoff=Backoff(0.05, 1.0))
    ref = named("frail", Frail)
    assert ref.call(3, retry=PATIENCE) == 3
    assert asyncio.run(ref.acall(6, retry=PATIENCE)) == 6


def test_what_is_wrong_is_told_at_once() -> None:
    ref, unnamed = named("somebody"), Counter.start_link()
    with pytest.raises(ValueError, match="retry needs a reference with a name"):
        unnamed.within(retry=1.0)
    with pytest.raises(ValueError, match="retry needs a reference with a name"):
        unnamed.call("get", retry=1.0)
    for wrong in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="retry is a number of seconds from 0 on"):
            ref.within(retry=wrong)
    with pytest.raises(TypeError, match="retry is a number of seconds, not '1'"):
        ref.within(retry="1")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a timeout is a number of seconds, or None"):
        ref.within("1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a future belongs to one process"):
        ref.within(retry=1.0).call_async("get")


def test_the_bounds_do_not_change_who_is_meant(tmp_path: Path) -> None:
    sup = frail(tmp_path)
    ref = sup.child("frail", Frail)
    other = ref.within(1.0, retry=2.0)
    assert other == ref
    assert hash(other) == hash(ref)
    assert type(sup.within(1.0)) is SupervisorRef
    assert sup.within(1.0).child("frail") == ref
    assert ref.within(None).call(Frail.pid) == ref.pid


def test_a_name_of_an_actor_that_fails_to_start_is_waited_for_in_vain(tmp_path: Path) -> None:
    with pytest.raises(StartFailed):
        Frail.start_link(name="frail")
    with pytest.raises(NoProcess):
        named("frail").call("x", retry=0.01)


def test_the_wait_goes_on_though_the_directory_of_names_is_removed(runtime_dir: Path) -> None:
    """Inotify tells nothing of a directory that is made again: it is looked for once a second."""
    successor = retry.NextProcess("nobody", 60.0)
    error = NoProcess("nobody")
    assert not successor.is_there(error)
    assert successor.patience() <= 1.0
    successor.close()
    successor.close()


class Relays(GenServer):
    """Answers by the end of somebody else."""

    def init(self) -> None:
        self.asked = 0

    @handler
    def ask(self) -> NoReply:
        self.asked += 1
        assert self.sender is not None
        self.refuse(self.sender, ProcessDown("somebody else", "killed"))
        return NoReply()


def test_the_end_of_somebody_else_is_an_answer() -> None:
    ref = Relays.start_link(name="relays").within(retry=PATIENCE)
    with pytest.raises(ProcessDown, match="somebody else"):
        ref.call(Relays.ask)
    with pytest.raises(ProcessDown, match="somebody else"):
        asyncio.run(ref.acall(Relays.ask))
    assert ref.get_state()["asked"] == 2


def test_many_waits_take_few_instances_of_inotify() -> None:
    async def main() -> int:
        ref = named("nobody")
        calls = [asyncio.create_task(ref.acall("x", retry=0.3)) for _ in range(60)]
        await asyncio.sleep(0.1)
        found = list(descriptors(os.getpid()).values())
        await asyncio.gather(*calls, return_exceptions=True)
        return found.count("anon_inode:inotify")

    assert 0 < asyncio.run(main()) <= 16
    assert retry._open == 0
