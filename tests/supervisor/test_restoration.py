"""Whoever looks for a name while a removed runtime directory is restored waits for it."""

import asyncio
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from actors import Counter
from directories import remove
from processes import PATIENCE, turns_during
from traffic import send_one

import tuncer
from supervisor import (
    NoProcess,
    Ref,
    linux,
    whereis,
)
from supervisor.protocol import restoration
from supervisor.protocol import runtime_dir as runtime
from tuncer import Flag


def test_a_device_goes_on(runtime_dir: Path) -> None:
    with tuncer.create("d0", Flag.TUN | Flag.NO_PI) as device:
        device.up("10.9.0.1/24", link_local=False)
        with device.subscribe() as former:
            remove(runtime_dir)
            with tuncer.attach("d0").subscribe() as later:
                send_one("10.9.0.2")
                assert former.recv(timeout=PATIENCE).data == later.recv(timeout=PATIENCE).data
            assert device.statistics()["restarts"] == 0
            os.kill(device.pid, signal.SIGKILL)
            assert device.statistics()["restarts"] == 1


def test_the_first_look_after_a_removal_finds_everything(runtime_dir: Path) -> None:
    """It comes before the root has made the directory again, and waits for that."""
    Counter.start_link(5, name="named")
    with tuncer.create("d0", Flag.TUN | Flag.NO_PI) as device:
        for look in (
            lambda: whereis("named").call("get") == 5,
            lambda: Ref(name="named").call("get") == 5,
            lambda: device.subscribe().close() is None,
            lambda: tuncer.attach("d0").name == "d0",
            lambda: [found.name for found in tuncer.devices()] == ["d0"],
        ):
            remove(runtime_dir)
            assert look()
    assert whereis("nobody") is None


def test_what_is_found_ends_an_absence(runtime_dir: Path) -> None:
    runtime.directory()
    restoration.remember()
    shutil.rmtree(runtime_dir)
    for _ in range(2):
        answers = iter([None, "found"])
        assert restoration.look_up(lambda answers=answers: next(answers)) == "found"
        time.sleep(restoration.PATIENCE)  # the time itself is what matters
    runtime_dir.mkdir()


def test_asyncio_goes_on_while_a_name_is_being_restored(runtime_dir: Path) -> None:
    async def main() -> tuple[Any, int]:
        return await turns_during(Ref(name="named").acall("get"))

    Counter.start_link(5, name="named")
    remove(runtime_dir)
    found, turns = asyncio.run(main())
    assert found == 5
    assert turns > 100


def test_an_actor_that_has_ended_is_not_waited_for() -> None:
    ref = Counter.start_link()
    process = linux.process(ref.pid)
    ref.stop()
    with pytest.raises(NoProcess):
        type(ref)(process).call("get")
