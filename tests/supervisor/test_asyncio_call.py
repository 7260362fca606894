"""Callers in asyncio: the loop goes on, and a cancelled call disturbs nobody."""

import asyncio
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
from actors import Counter, Later
from processes import PATIENCE, eventually, turns_during, wait_for_end

from supervisor import (
    CallTimeout,
    Cancelled,
    ChildSpec,
    Down,
    GenServer,
    MailboxFull,
    NoProcess,
    ProcessDown,
    RemoteError,
    Supervisor,
    named,
)


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


def test_the_loop_goes_on_while_an_end_is_waited_for() -> None:
    ref, other = Counter.start_link(), Later.start_link()

    async def main() -> None:
        monitor = ref.monitor()

        async def ended() -> Down:
            return await monitor

        waiting = asyncio.create_task(ended())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        _, turns = await turns_during(ref.astop("done"))
        assert turns > 0
        assert (await waiting).reason == "done"
        with pytest.raises(NoProcess):
            await ref.astop()
        closed = other.monitor()
        closed.close()
        with pytest.raises(Cancelled):
            await closed
        pid = other.pid
        os.kill(pid, signal.SIGSTOP)
        stopping = asyncio.create_task(other.astop())
        await asyncio.sleep(0.01)
        stopping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopping
        os.kill(pid, signal.SIGCONT)
        await asyncio.to_thread(wait_for_end, pid)

    asyncio.run(main())


class Fails(GenServer):
    def terminate(self, reason: object) -> None:
        raise ValueError("in terminate")


def test_an_error_of_terminate_reaches_who_stops_from_asyncio() -> None:
    ref = Fails.start_link()
    with pytest.raises(ProcessDown, match="in terminate"):
        asyncio.run(ref.astop())


def test_casts_wait_for_room_while_the_loop_goes_on() -> None:
    ref = Counter.start_link()
    ref.suspend()

    async def main() -> None:
        sent = 0
        with pytest.raises(MailboxFull, match="does not serve its mailbox, which is full"):
            while True:
                await ref.acast(1, timeout=0.01)
                sent += 1
        assert sent > 100
        waiting = asyncio.create_task(ref.acast(1, timeout=None))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        await asyncio.to_thread(ref.resume)
        await waiting
        assert await ref.acall("get") == sent + 1
        with pytest.raises(TypeError, match="cannot travel"):
            await ref.acast(object())  # type: ignore[call-overload]
        with pytest.raises(NoProcess):
            await named("nobody").acast("x", retry=0.01)

    asyncio.run(main())


def test_events_are_iterated_from_asyncio() -> None:
    sup = Supervisor.start_link([ChildSpec("n", Counter)], intensity=5)

    async def main() -> list[str]:
        kinds = []
        with sup.events() as events:
            os.kill(sup.child("n").pid, signal.SIGKILL)
            async for event in events:
                kinds.append(event.kind)
                if event.kind == "restarted":
                    await sup.astop()
        return kinds

    assert asyncio.run(main()) == ["exited", "restarted", "exited"]
