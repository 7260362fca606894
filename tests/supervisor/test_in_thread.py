"""What asyncio has done in a thread: a start that is cancelled leaves nothing running."""

import asyncio
import os
from pathlib import Path

import pytest
from actors import Counter, Refuses
from processes import PATIENCE, eventually, turns_during

from supervisor import GenServer, StartFailed, named
from supervisor.client.in_thread import made_in_thread


class Gated(GenServer):
    """Starts when somebody has written into a FIFO."""

    def init(self, begun: str, gate: str) -> None:
        os.close(os.open(begun, os.O_WRONLY))
        os.close(os.open(gate, os.O_RDONLY))


def test_a_start_lets_the_loop_go_on_and_raises_what_it_raises() -> None:
    async def main() -> None:
        ref, turns = await turns_during(Counter.astart_link(5), pause=0.001)
        assert turns > 1
        assert await ref.acall("get") == 5
        await ref.astop()
        with pytest.raises(StartFailed, match="no start today"):
            await Refuses.astart("raise")

    asyncio.run(main())


def test_a_start_that_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    begun, gate = str(tmp_path / "begun"), str(tmp_path / "gate")
    os.mkfifo(begun)
    os.mkfifo(gate)

    async def main() -> None:
        task = asyncio.create_task(Gated.astart_link(begun, gate, name="gated"))
        os.close(await asyncio.to_thread(os.open, begun, os.O_RDONLY))  # it is starting
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        os.close(await asyncio.to_thread(os.open, gate, os.O_WRONLY))
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())
    eventually(lambda: not named("gated").is_alive())


def test_a_cancelled_making_that_fails_is_cancelled_all_the_same() -> None:
    undone: list[object] = []

    def make() -> None:
        raise RuntimeError("not made")

    async def undo(made: object) -> None:
        undone.append(made)

    async def main() -> None:
        task = asyncio.create_task(made_in_thread(make, undo))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert undone == []
