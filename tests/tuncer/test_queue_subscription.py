"""The subscription of one queue: waiting, cancelling, and reading from a callback."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from devices import OTHER, TUN
from processes import PATIENCE
from traffic import send_one

import tuncer
from supervisor import GenServer, Sender
from tuncer import Device, Packet


def test_a_cancelled_anext_loses_nothing(dev: Device) -> None:
    async def take(count: int) -> list[int]:
        found: list[int] = []
        with dev.subscribe() as subscription:
            for number in range(count):
                send_one(OTHER, b"%d" % number)
            while len(found) < count:
                try:
                    packet = await asyncio.wait_for(anext(subscription), 0.0004)
                except TimeoutError:
                    continue
                found.append(int(packet.data[28:]))  # type: ignore[union-attr]
            assert subscription.stats() == {"delivered": count, "lost": 0}
        return found

    assert asyncio.run(take(1000)) == list(range(1000))


@pytest.mark.parametrize("timeout", [3e6, float("inf")])
def test_long_timeouts_of_a_subscription(dev: Device, timeout: float) -> None:
    with dev.subscribe() as subscription, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(subscription.recv, timeout)
        send_one(OTHER)
        assert waiting.result(PATIENCE)


def test_two_tasks_that_wait_for_one_subscription_are_told(dev: Device) -> None:
    async def main() -> None:
        with dev.subscribe() as subscription:
            first = asyncio.ensure_future(subscription.arecv(PATIENCE))
            await asyncio.sleep(0)
            await asyncio.sleep(0)  # it waits now
            with pytest.raises(RuntimeError, match="another task waits"):
                await subscription.arecv(PATIENCE)
            send_one(OTHER, b"one")
            item = await first
            assert isinstance(item, Packet)
            assert item.data[28:] == b"one"

    asyncio.run(main())


class Subscriber(GenServer):
    """Takes one packet a callback, and has more to do."""

    def init(self, device: str) -> None:
        self.taken = 0
        self.subscription = tuncer.attach(device).subscribe()
        self.add_reader(self.subscription.fileno(), self.take)

    def take(self) -> None:
        try:
            self.subscription.recv(timeout=0)
        except TimeoutError:
            return
        self.taken += 1

    def handle_call(self, request: Any, sender: Sender) -> int:
        return self.taken


@pytest.mark.parametrize("queues", [1, 2])
def test_one_packet_a_callback_is_enough(queues: int) -> None:
    with tuncer.create("d0", TUN, queues=queues) as device:
        device.up("10.9.0.1/24", link_local=False)
        ref = Subscriber.start_link("d0")
        for _ in range(300):
            send_one("10.9.0.2")
        deadline = time.monotonic() + PATIENCE
        while ref.call("taken") < 300:
            assert time.monotonic() < deadline
        ref.stop()
