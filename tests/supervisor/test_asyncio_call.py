"""Callers in asyncio: the loop goes on, and a cancelled call disturbs nobody."""

import asyncio
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
from actors import Counter, Later
from processes import PATIENCE, eventually

from supervisor import (
    CallTimeout,
    NoProcess,
    ProcessDown,
    RemoteError,
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
