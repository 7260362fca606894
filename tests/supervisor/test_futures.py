"""Replies that are waited for later: futures."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
from actors import Counter, Later
from processes import PATIENCE, eventually, wait_for_end

from supervisor import (
    CallFuture,
    CallTimeout,
    Cancelled,
    GenServer,
    NoProcess,
    NoReply,
    ProcessDown,
    RemoteError,
    Sender,
    handler,
)


def test_replies_can_be_waited_for_later_in_any_order() -> None:
    ref = Counter.start_link()
    futures = [ref.call_async(["echo", n]) for n in range(1000)]
    assert [future.result() for future in reversed(futures)] == list(reversed(range(1000)))
    assert all(future.done() for future in futures)
    failing, pid = ref.call_async("raise"), ref.pid
    assert isinstance(failing.exception(PATIENCE), RemoteError)
    with pytest.raises(RemoteError):
        failing.result()
    assert wait_for_end(pid)
    with pytest.raises(NoProcess):
        ref.call_async("get")


def test_a_future_is_awaited_and_outlives_who_was_cancelled() -> None:
    ref = Counter.start_link(3)

    async def main() -> None:
        futures = [ref.call_async(["echo", n]) for n in range(100)]
        assert [await future for future in futures] == list(range(100))
        with pytest.raises(RemoteError):
            await ref.call_async("raise")

    asyncio.run(main())
    later = Later.start_link()

    async def give_up() -> Any:
        waiting = later.call_async("wait")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await waiting
        assert not waiting.done()
        return waiting

    kept = asyncio.run(give_up())
    later.call(["reply", "went"])
    assert kept.result(PATIENCE) == "went"

    async def dead() -> None:
        waiting = later.call_async("wait")
        os.kill(later.pid, signal.SIGKILL)
        with pytest.raises(ProcessDown):
            await waiting

    asyncio.run(dead())


def test_a_future_tells_whether_it_is_done() -> None:
    ref = Later.start_link()
    future = ref.call_async("wait")
    assert not future.done()
    with pytest.raises(CallTimeout):
        future.result(0.01)
    assert ref.call(["reply", 5]) == 1
    assert future.done()
    assert (future.result(), future.exception()) == (5, None)
    dropped = ref.call_async("wait")
    dropped.cancel()
    ref.call(["reply", 6])
    with pytest.raises(Cancelled):
        dropped.result()


def test_twenty_thousand_calls_that_nobody_reads_are_answered_and_others_served() -> None:
    ref = Counter.start_link(name="busy")
    other = (
        "from supervisor import whereis\n"
        "for n in range(300): assert whereis('busy').call(['echo', n]) == n"
    )
    with subprocess.Popen([sys.executable, "-c", other]) as beside:
        futures = [ref.call_async(["echo", n]) for n in range(20_000)]
        assert beside.wait(PATIENCE) == 0
    assert [future.result(PATIENCE) for future in futures] == list(range(20_000))


def test_calls_under_way_are_told_of_the_end() -> None:
    ref = Later.start_link()
    futures = [ref.call_async("wait") for _ in range(10)]
    os.kill(ref.pid, signal.SIGKILL)
    for future in futures:
        with pytest.raises(ProcessDown, match="killed"):
            future.result(PATIENCE)


# -- callbacks of futures --------------------------------------------------------------------------


def test_a_callback_is_called_when_the_reply_has_come(caplog: pytest.LogCaptureFixture) -> None:
    ref, later = Counter.start_link(3), Later.start_link()
    found: list[Any] = []
    future = ref.call_async("get")
    future.add_done_callback(lambda done: found.append(done.result()))
    future.add_done_callback(lambda done: found.append(done is future))
    assert future.result() == 3
    assert found == [3, True]
    future.add_done_callback(lambda _: found.append("at once"))
    assert found == [3, True, "at once"]
    dying = later.call_async("wait")
    dying.add_done_callback(lambda done: found.append(type(done.exception())))
    os.kill(later.pid, signal.SIGKILL)
    with pytest.raises(ProcessDown):
        dying.result(PATIENCE)
    assert found[-1] is ProcessDown
    future.add_done_callback(lambda done: done.nothing)  # type: ignore[attr-defined]
    assert "a callback of a future has raised" in caplog.text


def test_a_cancelled_future_calls_back_too() -> None:
    future = Later.start_link().call_async("wait")
    found: list[Any] = []
    future.add_done_callback(lambda done: found.append(done.exception()))
    future.cancel()
    assert isinstance(found[0], Cancelled)


class Asks(GenServer):
    """Asks others without waiting, and is called back between messages."""

    def init(self) -> None:
        self.found: list[Any] = []
        self.busy = False

    def handle_call(self, request: Any, sender: Sender) -> Any:
        match request:
            case ["ask", ref, what]:
                ref.call_async(what).add_done_callback(self.answered)
            case ["ask", ref, what, "and call"]:
                self.busy = True
                ref.call_async(what).add_done_callback(self.answered)
                ref.call("pid")  # reads the reply to the former, too
                self.busy = False
            case "found":
                return self.found
            case "fds":
                return len(os.listdir("/proc/self/fd"))
        return None

    def answered(self, future: CallFuture) -> None:
        error = future.exception(0.0)
        self.found.append([error and type(error).__name__, error or future.result(), self.busy])


def test_an_actor_is_called_back_between_messages() -> None:
    asks, other = Asks.start_link(), Counter.start_link(3)
    asks.call(["ask", other, "get"])
    eventually(lambda: asks.call("found"), [[None, 3, False]])
    asks.call(["ask", other, "get", "and call"])
    eventually(lambda: len(asks.call("found")), 2)
    assert asks.call("found")[1] == [None, 3, False]
    before = asks.call("fds")
    for _ in range(10):
        asks.call(["ask", Counter.start_link(), "get"])
    eventually(lambda: len(asks.call("found")), 12)
    asks.call(["ask", other, "kill"])
    eventually(lambda: asks.call("found")[-1][0], "ProcessDown")
    assert asks.call("fds") <= before + 11


def test_a_callback_that_comes_back_is_called_once() -> None:
    ref = Counter.start_link(3)
    found: list[Any] = []

    def again(future: CallFuture) -> None:
        found.append(future.result())
        future.cancel()
        found.append(ref.call("get"))

    future = ref.call_async("get")
    future.add_done_callback(again)
    assert future.result(PATIENCE) == 3
    assert found == [3, 3]


class Threaded(GenServer):
    """Asks another actor, of which a thread of its own reads the answers."""

    def init(self, other: Any) -> None:
        self.other = other
        threading.Thread(target=self.ask_often, daemon=True).start()

    def ask_often(self) -> None:
        while True:
            self.other.call("get")
            time.sleep(0.0005)

    @handler
    def ask(self) -> NoReply:
        sender = self.sender
        assert sender is not None

        def answered(future: CallFuture) -> None:
            self.reply(sender, [future.result(), threading.current_thread().name])

        self.other.call_async("get").add_done_callback(answered)
        return NoReply()


def test_a_thread_of_an_actor_may_read_the_reply_and_the_loop_calls_back() -> None:
    other = Counter.start_link(3)
    ref = Threaded.start_link(other)
    for _ in range(200):
        assert ref.call(Threaded.ask) == [3, "MainThread"]


@pytest.mark.parametrize("what", ["a monitor", "events", "a future"])
def test_whoever_waits_is_woken_by_a_close(what: str) -> None:
    ref = Later.start_link()
    waits: Any = {"a monitor": ref.monitor, "events": ref.trace}
    waited_for = ref.call_async("wait") if what == "a future" else waits[what]()
    close = waited_for.cancel if what == "a future" else waited_for.close
    wait = {"a monitor": "wait", "events": "next", "a future": "result"}[what]
    began = time.monotonic()
    thread = threading.Timer(0.05, close)
    thread.start()
    with pytest.raises((Cancelled, StopIteration)):
        getattr(waited_for, wait)(PATIENCE)
    assert time.monotonic() - began < PATIENCE / 2
    thread.join()


def test_a_task_that_waits_is_woken_by_a_close() -> None:
    ref = Later.start_link()

    async def main() -> None:
        monitor, future, events = ref.monitor(), ref.call_async("wait"), ref.trace()

        async def ended() -> Any:
            return await monitor

        async def answered() -> Any:
            return await future

        tasks = [asyncio.create_task(work) for work in (ended(), answered(), events.anext())]
        await asyncio.sleep(0.01)
        for close in (monitor.close, future.cancel, events.close):
            close()
        found = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), PATIENCE)
        assert [type(error) for error in found] == [Cancelled, Cancelled, StopAsyncIteration]

    asyncio.run(main())
