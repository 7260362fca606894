"""Calls of recv that wait for a packet."""

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from devices import OTHER
from processes import PATIENCE, Run, eventually, program
from traffic import send_one

from tuncer import Device


def test_a_packet_for_a_caller_that_was_killed_goes_to_the_next(dev: Device) -> None:
    command = (
        "import tuncer; d = tuncer.attach('lab0'); d.statistics()\n"
        "print('now', flush=True); d.recv()\n"
    )
    with program(sys.executable, "-c", command) as caller:
        caller.expect("now")
        eventually(lambda: "poll" in Path(f"/proc/{caller.process.pid}/wchan").read_text())
        caller.process.kill()
        caller.process.wait(PATIENCE)
        for number in range(3):
            send_one(OTHER, b"%d" % number)
        assert [dev.recv(PATIENCE)[28:] for _ in range(3)] == [b"0", b"1", b"2"]


def test_recv_while_the_link_is_deleted(dev: Device, run: Run) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(dev.recv, PATIENCE)
        eventually(lambda: dev.statistics()["restarts"] is not None)
        run("ip", "link", "del", "lab0")
        with pytest.raises(OSError, match=r"was deleted|no such device"):
            waiting.result(PATIENCE)


def test_hundreds_that_wait_are_refused_when_the_device_becomes_active(dev: Device) -> None:
    async def main() -> set[str]:
        waiting = [asyncio.ensure_future(dev.arecv(PATIENCE)) for _ in range(450)]
        await asyncio.to_thread(eventually, lambda: dev.statistics()["receivers"], 450)
        await asyncio.to_thread(dev.setopt, active=True)
        return {str(error) for error in await asyncio.gather(*waiting, return_exceptions=True)}

    (told,) = asyncio.run(main())
    assert "is in active mode" in told
    assert dev.statistics()["restarts"] == 0
