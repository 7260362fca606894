"""Calls of a device's worker from asyncio, over kills; a device that was pickled."""

import asyncio
import contextlib
import pickle

import pytest
from devices import ADDRESS, OTHER, TUN, kill_at_once
from processes import PATIENCE, eventually
from traffic import number_in, send_numbers, send_one

import tuncer
from supervisor import ProcessDown
from tuncer import Device, DeviceError


def test_calls_from_asyncio_go_on_over_a_kill(dev: Device) -> None:
    async def main() -> None:
        for _ in range(20):
            kill_at_once(dev)
            send_one(OTHER, b"x")
            with contextlib.suppress(ProcessDown):  # it was killed in the middle of the call
                assert (await dev.arecv(PATIENCE))[28:] == b"x"

    asyncio.run(main())


def test_asyncio_has_the_same_calls() -> None:
    async def main() -> None:
        async with tuncer.create("lab0", TUN) as dev:
            dev.up(f"{ADDRESS}/24", link_local=False)
            with pytest.raises(TimeoutError):
                await dev.arecv(0.01)
            with pytest.raises(ValueError, match="1 to"):
                await dev.asend(b"")
            waiting = asyncio.ensure_future(dev.arecv(PATIENCE))
            await asyncio.sleep(0)
            send_numbers(0, 1)
            packet = await waiting
            assert int(packet[28:]) == 0
            assert await dev.asend(packet) == 1
            async with dev.subscribe() as subscription:
                with pytest.raises(OSError, match="active mode"):
                    await dev.arecv()
                with pytest.raises(TimeoutError):
                    await subscription.arecv(0.01)
                with pytest.raises(ValueError, match="number of seconds"):
                    await subscription.arecv(-1)
                send_numbers(5, 6)
                eventually(lambda: dev.statistics()["packets_read"] >= 2)
                assert number_in(await subscription.arecv(0)) == 5
                send_numbers(1, 3)
                assert number_in(await subscription.arecv(PATIENCE)) == 1
                async for item in subscription:
                    assert number_in(item) == 2
                    break
        with pytest.raises(DeviceError):
            await dev.arecv()

    asyncio.run(main())
    assert tuncer.devices() == []


def test_a_device_that_was_pickled_receives_too(dev: Device) -> None:
    send_numbers(0, 1)
    assert int(pickle.loads(pickle.dumps(dev)).recv(PATIENCE)[28:]) == 0
