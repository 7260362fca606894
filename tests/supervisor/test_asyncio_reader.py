"""A loop of asyncio that reads a connection, beside threads that do so too."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest
from actors import Counter, Later, Recorder
from processes import (
    PATIENCE,
    stop,
)
from users import ordinary_buffer

from supervisor import (
    CallTimeout,
    MailboxFull,
)
from supervisor.protocol import framing, message_kinds


def test_asyncio_waits_for_the_kernels_room_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framing, "enlarge", ordinary_buffer)
    ref = Recorder.start_link()

    async def main() -> None:
        stop(ref.pid)  # however busy this machine is, it serves nothing
        calls = [asyncio.create_task(ref.acall("x" * 20_000, PATIENCE)) for _ in range(300)]
        await asyncio.sleep(0.1)  # what there is room for has been sent
        began = time.process_time()
        await asyncio.sleep(1)
        assert time.process_time() - began < 0.5  # the loop does not poll for room all the time
        os.kill(ref.pid, signal.SIGCONT)
        assert set(await asyncio.gather(*calls)) == {"x" * 20_000}

    asyncio.run(main())


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
