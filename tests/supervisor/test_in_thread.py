"""What asyncio has done in a thread: a start that is cancelled leaves nothing running."""

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from actors import Counter, Refuses
from processes import PATIENCE, turns_during

from supervisor import GenServer, StartFailed, named
from supervisor.spawn.in_thread import made_in_thread


class Hangs(GenServer):
    """Tells that it starts, by a FIFO, and never does."""

    def init(self, begun: str) -> None:
        os.close(os.open(begun, os.O_WRONLY))
        threading.Event().wait()


def test_a_start_lets_the_loop_go_on_and_raises_what_it_raises() -> None:
    async def main() -> None:
        ref, turns = await turns_during(Counter.astart_link(5), pause=0.001)
        assert turns > 1
        assert await ref.acall("get") == 5
        await ref.astop()
        with pytest.raises(StartFailed, match="no start today"):
            await Refuses.astart("raise")
        assert await Refuses.astart("ignore") is None

    asyncio.run(main())


def test_a_start_does_without_the_loops_executor() -> None:
    """It may be full of starts that wait for this one."""
    gate = threading.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        busy = loop.run_in_executor(None, gate.wait)
        ref = await Counter.astart_link(5)
        await ref.astop()
        gate.set()
        await busy

    asyncio.run(main())


def test_a_start_that_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    begun = str(tmp_path / "begun")
    os.mkfifo(begun)

    async def main() -> None:
        task = asyncio.create_task(Hangs.astart(begun, name="hangs"))
        os.close(await asyncio.to_thread(os.open, begun, os.O_RDONLY))  # it is starting
        assert named("hangs").is_alive()
        task.cancel()
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(asyncio.CancelledError):
                await task
        assert not named("hangs").is_alive()

    asyncio.run(main())


def test_a_start_that_is_cancelled_twice_leaves_nothing_later(tmp_path: Path) -> None:
    """As by asyncio.run, which cancels what still waits for a cancelled start."""
    begun = str(tmp_path / "begun")
    os.mkfifo(begun)

    async def main() -> None:
        task = asyncio.create_task(Hangs.astart(begun, name="hangs"))
        os.close(await asyncio.to_thread(os.open, begun, os.O_RDONLY))
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    for thread in threading.enumerate():
        if thread.name == "supervisor start":  # it cleans up by itself
            thread.join(PATIENCE)
    assert not named("hangs").is_alive()


def test_what_was_made_meanwhile_is_undone() -> None:
    gate, undone = threading.Event(), threading.Event()

    async def main() -> None:
        task = asyncio.create_task(made_in_thread(gate.wait, lambda _: undone.set()))
        await asyncio.sleep(0)
        task.cancel()
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert undone.is_set()

    asyncio.run(main())


def test_what_was_made_in_the_same_turn_is_undone() -> None:
    undone = threading.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        made = asyncio.Event()

        def make() -> int:
            loop.call_soon_threadsafe(made.set)
            return 1

        task = asyncio.create_task(made_in_thread(make, lambda _: undone.set()))
        await made.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert undone.is_set()

    asyncio.run(main())


def test_a_cancelled_making_that_fails_is_cancelled_all_the_same() -> None:
    undone: list[object] = []
    gate = threading.Event()

    def make() -> None:
        gate.wait()
        raise RuntimeError("not made")

    async def main() -> None:
        task = asyncio.create_task(made_in_thread(make, undone.append))
        await asyncio.sleep(0)
        task.cancel()
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert undone == []
