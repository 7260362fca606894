"""Callers of every kind: pipelines, asyncio, many at once, cycles, replies by others, ``sys``."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from actors import Counter, Later, Relay
from processes import PATIENCE, eventually, gone, stop, wait_for_end

from supervisor import (
    CallCycle,
    CallTimeout,
    Cancelled,
    ChildSpec,
    MailboxFull,
    NoProcess,
    ProcessDown,
    RemoteError,
    Supervisor,
    SupervisorRef,
    multi_call,
)
from supervisor.protocol import message_kinds

# -- pipelines -------------------------------------------------------------------------------------


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


def test_a_loop_that_reads_a_threads_reply_wakes_that_thread() -> None:
    ref = Counter.start_link(3)

    async def main() -> None:
        async def call() -> None:
            for number in range(300):
                assert await ref.call_async(["echo", number]) == number

        def block() -> None:
            for number in range(300):
                assert ref.call(["echo", number], timeout=PATIENCE) == number

        began = time.monotonic()
        await asyncio.gather(call(), *(asyncio.to_thread(block) for _ in range(2)))
        assert time.monotonic() - began < PATIENCE  # no reply was waited for until its deadline

    for _ in range(5):
        asyncio.run(main())


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


def test_calls_that_timed_out_do_not_use_up_what_may_be_under_way() -> None:
    ref = Later.start_link()
    for _ in range(message_kinds.IN_FLIGHT + 10):
        with pytest.raises(CallTimeout):
            ref.call("wait", timeout=0)
    assert ref.call("log") == [["continue", "from init"]]
    assert ref.call(["reply", 1]) == message_kinds.IN_FLIGHT + 10  # all too late, and dropped
    assert ref.call("log") == [["continue", "from init"]]


def test_too_many_calls_under_way() -> None:
    ref = Later.start_link()
    futures = [ref.call_async("wait") for _ in range(message_kinds.IN_FLIGHT)]
    with pytest.raises(MailboxFull, match="500 calls are under way"):
        ref.call_async("wait", timeout=0.01)
    ref.send("answer")
    assert {future.result(PATIENCE) for future in futures} == {"answer"}


def test_five_thousand_casts_to_a_stopped_actor_do_not_reach_its_successor(capfd: Any) -> None:
    sup: SupervisorRef = Supervisor.start_link([ChildSpec("c", Counter, name="c")])
    ref = sup.child("c")
    assert ref.call("get") == 0
    pid = ref.pid
    stop(ref.pid)
    for _ in range(5000):
        ref.cast(1)
    calls = [ref.call_async("get") for _ in range(50)]
    os.kill(pid, signal.SIGKILL)
    for call in calls:
        with pytest.raises(ProcessDown, match="killed"):
            call.result(PATIENCE)
    assert sup.child("c") == ref
    assert ref.call("get") == 0
    assert ref.pid != pid
    ref.cast(3)
    assert ref.call("get") == 3


@pytest.mark.slow
def test_a_reply_of_an_actor_that_stops_is_never_lost() -> None:
    for _ in range(10):
        refs = [Counter.start_link() for _ in range(2)]
        assert [future.result() for future in [ref.call_async("stop") for ref in refs]] == [
            "stopping",
            "stopping",
        ]


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_thousand_stops_with_a_reply(capfd: Any) -> None:
    counter = ChildSpec("c", Counter, name="c")
    sup: SupervisorRef = Supervisor.start_link([counter], intensity=1000, period=1000)
    for _ in range(1000):
        ref = sup.child("c")
        pid = ref.pid
        assert ref.call("stop") == "stopping"
        assert wait_for_end(pid)
    capfd.readouterr()


def test_a_mailbox_is_bounded_in_bytes_too() -> None:
    ref = Counter.start_link()
    stop(ref.pid)
    big = b"x" * (1 << 20)
    sent = 0
    with pytest.raises(MailboxFull):
        for _ in range(100):
            ref.cast(big, timeout=0.01)
            sent += 1
    assert (
        sent == message_kinds.MAILBOX_BYTES // len(big) - 1
    )  # a message is a little more than its term
    os.kill(ref.pid, signal.SIGKILL)


# -- asyncio ---------------------------------------------------------------------------------------


def test_asyncio_callers() -> None:
    ref = Counter.start_link(5)
    slow = Later.start_link()

    async def main() -> None:
        assert await ref.acall("get") == 5
        echoes = await asyncio.gather(*(ref.acall(["echo", n]) for n in range(2000)))
        assert echoes == list(range(2000))
        with pytest.raises(CallTimeout):
            await slow.acall("wait", timeout=0.01)
        waiting = asyncio.create_task(slow.acall("wait"))
        await asyncio.sleep(0)  # it has begun
        assert await slow.acall(["reply", 7]) == 2
        assert await waiting == 7
        cancelled = asyncio.create_task(slow.acall("wait", timeout=None))
        await asyncio.sleep(0)
        await slow.acall("log")
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        with pytest.raises(RemoteError, match="on request"):
            await ref.acall("raise")
        eventually(lambda: not (ref.is_alive()))
        with pytest.raises(NoProcess):
            await ref.acall("get")
        with pytest.raises(TypeError, match="cannot travel"):
            await slow.acall(object())

    for _ in range(3):
        if not ref.is_alive():
            ref = Counter.start_link(5)
            slow = Later.start_link()
        asyncio.run(main())


def test_asyncio_is_told_of_the_end_at_once() -> None:
    ref = Later.start_link()

    async def main() -> None:
        calls = [asyncio.create_task(ref.acall("wait", timeout=None)) for _ in range(3)]
        await ref.acall("log")
        os.kill(ref.pid, signal.SIGKILL)
        for call in calls:
            with pytest.raises(ProcessDown, match="killed"):
                await call

    asyncio.run(main())


def test_asyncio_and_threads_share_a_reference() -> None:
    ref = Counter.start_link()

    async def tasks() -> int:
        return sum(await asyncio.gather(*(ref.acall(["echo", 1]) for _ in range(300))))

    def loops() -> int:
        return sum(asyncio.run(tasks()) for _ in range(3))

    def calls() -> int:
        return sum(ref.call(["echo", 1]) for _ in range(900))

    def casts() -> int:
        for _ in range(5000):
            ref.cast(1)
        return 900

    with ThreadPoolExecutor() as pool:
        done = [pool.submit(job) for job in (loops, calls, loops, casts, calls)]
        assert [future.result(PATIENCE) for future in done] == [900] * 5
    assert ref.call("get") == 5000


def test_asyncio_waits_for_room() -> None:
    ref = Later.start_link()

    async def main() -> None:
        calls = [
            asyncio.create_task(ref.acall("wait")) for _ in range(message_kinds.IN_FLIGHT + 100)
        ]
        await asyncio.sleep(0)
        with pytest.raises((MailboxFull, CallTimeout)):
            await ref.acall("log", timeout=0.1)
        ref.send("answer")
        done, _ = await asyncio.wait(calls, timeout=PATIENCE, return_when="FIRST_COMPLETED")
        assert done
        while len(done) < len(calls):
            ref.send("answer")
            done, _ = await asyncio.wait(calls, timeout=0.05)
        assert {call.result() for call in calls} == {"answer"}

    asyncio.run(main())


# -- several actors --------------------------------------------------------------------------------


def test_multi_call() -> None:
    refs = [Counter.start_link(n) for n in range(5)]
    dead, slow, down = Counter.start_link(), Counter.start_link(), Counter.start_link()
    dead.stop()
    stop(slow.pid)
    stop(down.pid)
    threading.Timer(0.05, os.kill, (down.pid, signal.SIGKILL)).start()
    before = time.monotonic()
    replies, errors = multi_call([dead, *refs, slow, down], "get", timeout=0.5)
    assert 0.5 <= time.monotonic() - before < 5
    assert replies == list(zip(refs, range(5), strict=True))
    assert [(ref, type(error)) for ref, error in errors] == [
        (dead, NoProcess),
        (slow, CallTimeout),
        (down, ProcessDown),
    ]
    os.kill(slow.pid, signal.SIGKILL)


def test_a_cycle_of_calls_is_raised_not_waited_for(capfd: Any) -> None:
    a, b, c = (Relay.start_link(name=name) for name in "abc")
    before = time.monotonic()
    for way in ([a, a], [a, b, a], [a, b, c, b], [a, b, c, a]):
        found = way[0].call(["call", *way[1:]], timeout=PATIENCE)
        assert found.startswith("CallCycle"), found
    assert time.monotonic() - before < 5
    assert a.call(["call", b, c]) == "the end"
    assert a.call(["cast", b, a]) == "sent"  # a does not wait for b: no cycle
    eventually(lambda: b.call("heard"), ["the end"])
    with pytest.raises(CallCycle):
        raise CallCycle("for its name")


def test_a_reply_from_another_process() -> None:
    boss, worker = Relay.start_link(), Relay.start_link()
    futures = [boss.call_async(["delegate", worker, n]) for n in range(100)]
    assert [future.result(PATIENCE) for future in futures] == [n * n for n in range(100)]
    assert boss.statistics()["replies"] < 100  # they were not its own


def test_a_fork_of_an_actor_is_a_caller_like_others() -> None:
    ref = Counter.start_link(3)
    assert ref.call("fork", timeout=PATIENCE) == [3, 5]


# -- system calls ----------------------------------------------------------------------------------


def test_state_can_be_seen_and_replaced() -> None:
    ref = Counter.start_link(5)
    assert ref.get_state() == {"n": 5}
    assert ref.replace_state(n=7, lock="x") == {"n": 7, "lock": "x"}
    assert ref.call("get") == 7
    with pytest.raises(ValueError, match="'_actor' is no attribute"):
        ref.replace_state(_actor=5)
    later = Relay.start_link()
    assert later.get_state()["opaque"].startswith("<object object")
    with pytest.raises(ValueError, match="no request to an actor's system"):
        ref._ask(message_kinds.SYSTEM, {"x": 1}, 5.0)


def test_a_suspended_actor_serves_later_and_in_order() -> None:
    ref = Counter.start_link()
    ref.suspend()
    for n in range(3000):
        ref.cast(n)
    call = ref.call_async("get")
    assert ref.statistics()["suspended"]
    assert ref.get_state() == {"n": 0}
    assert not call.done()
    ref.resume()
    assert call.result(PATIENCE) == sum(range(3000))
    assert not ref.statistics()["suspended"]
    ref.suspend()
    ref.stop()  # it ends all the same
    assert not ref.is_alive()


def test_a_suspended_actor_has_a_bounded_mailbox_and_no_timers() -> None:
    ref = Later.start_link()
    ref.call(["after", 0.01, "late"])
    ref.suspend()
    with pytest.raises(MailboxFull):
        for _ in range(2 * message_kinds.MAILBOX):
            ref.send("x", timeout=0.01)
    assert "late" not in ref.get_state()["log"]
    ref.resume()
    eventually(lambda: "late" in ref.call("log"))


def test_statistics() -> None:
    ref = Counter.start_link()
    for _ in range(3):
        ref.call("get")
    ref.cast(1)
    found = ref.statistics()
    assert abs(found.pop("started") - time.time()) < 60
    assert found.pop("cpu") > 0
    assert found.pop("monitors") == 0
    assert found == {"calls": 3, "casts": 1, "infos": 0, "replies": 3, "suspended": False}


def test_a_trace_shows_what_is_served_and_replied() -> None:
    ref = Counter.start_link()
    with ref.trace() as trace:
        ref.cast(5)
        assert ref.call("get") == 5
        seen = [trace.next(PATIENCE) for _ in range(3)]
        assert [(event.kind, event.term) for event in seen] == [
            ("cast", 5),
            ("call", "get"),
            ("reply", 5),
        ]
    with pytest.raises(StopIteration):
        trace.next()
    ref.cast(1)
    again = ref.trace()
    ref.call("stop")
    assert [event.kind for event in again] == ["call", "reply"]  # and ends with the actor


def test_a_trace_that_nobody_reads_counts_what_it_lost() -> None:
    ref = Counter.start_link()
    trace = ref.trace()
    for _ in range(20_000):
        ref.cast(1)
    assert ref.call("get") == 20_000
    ref.cast(0)
    seen = 0
    while seen < 20_003:
        seen += 1 + trace.next(PATIENCE).lost
    assert seen == 20_003
    trace.close()


def test_an_end_leaves_nobody_waiting_in_threads_and_loops() -> None:
    ref = Later.start_link()
    pid = ref.pid
    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(ref.call, "wait", None) for _ in range(5)]
        eventually(lambda: ref.statistics()["calls"] >= 5)
        os.kill(pid, signal.SIGKILL)
        assert {type(future.exception(PATIENCE)) for future in waiting} == {ProcessDown}
    assert wait_for_end(pid)
    assert gone(pid)
