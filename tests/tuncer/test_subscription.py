"""Subscriptions: what is lost is counted, what is closed is at its end."""

import asyncio
import errno
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from devices import ADDRESS, OTHER, TUN
from processes import PATIENCE, Run, eventually, kill
from traffic import FLOWS, send_flows, send_one, take

import tuncer
from supervisor import GenServer, Sender
from tuncer import Device, DeviceEvent, Packet
from tuncer.client.ring_subscription import RingSubscription


@pytest.mark.parametrize("transport", ["ring", "zmq"])
def test_a_closed_subscription_is_at_its_end(dev: Device, transport: str) -> None:
    subscription = dev.subscribe(transport=transport)
    subscription.close()
    reader, writer = os.pipe()  # takes over the numbers of its descriptors
    os.write(writer, b"not yours")
    assert list(subscription) == []
    with pytest.raises(EOFError, match="closed"):
        subscription.recv()
    subscription.close()
    assert os.read(reader, 20) == b"not yours"
    os.close(reader)
    os.close(writer)


def test_counts_add_up_at_the_devices_end(run: Run) -> None:
    with tuncer.create("lab0", TUN) as dev:
        run("ip", "link", "set", "lab0", "addrgenmode", "none")
        dev.up("10.9.0.1/24")
        slow = dev.subscribe(transport="zmq")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.connect((OTHER, 9))
            while dev.statistics()["packets_read"] < 150_000:
                for _ in range(5_000):
                    sender.send(b"x" * 100)
        witness = dev.subscribe()
    # The log outlives the device in the witness's memory, and says how long it became at last.
    assert isinstance(witness, RingSubscription)
    assert witness._ring is not None
    read = witness._ring.control.head
    witness.close()
    packets = list(slow)
    assert slow.stats()["delivered"] == len(packets)
    assert slow.stats()["delivered"] + slow.stats()["lost"] == read
    slow.close()


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


@pytest.mark.parametrize("transport", ["ring", "zmq"])
def test_a_subscription_yields_every_packet_from_its_beginning(dev: Device, transport: str) -> None:
    send_one(OTHER, b"before")
    with dev.subscribe(transport=transport) as subscription:
        first = take(subscription)[0]
        payloads = [b"%d" % n for n in range(50)]
        for payload in payloads:
            send_one(OTHER, payload)
        packets = take(subscription, 50)
        assert [p.data[28:] for p in packets] == payloads
        assert [p.seq for p in packets] == list(range(packets[0].seq, packets[0].seq + 50))
        assert packets[0].device == "lab0"
        assert packets[0].timestamp <= packets[-1].timestamp
        assert first.lost == 0
        assert subscription.stats()["lost"] == 0
        with pytest.raises(TimeoutError):
            while True:
                subscription.recv(0.01)


@pytest.mark.parametrize("transport", ["ring", "zmq"])
def test_batches(dev: Device, transport: str) -> None:
    with dev.subscribe(batch=True, transport=transport) as subscription:
        for n in range(20):
            send_one(OTHER, b"%d" % n)
        found: list[bytes] = []
        while len(found) < 20:
            batch = subscription.recv(PATIENCE)
            assert isinstance(batch, list)
            found += [p.data[28:] for p in batch if p.data[0] >> 4 == 4]
        assert found == [b"%d" % n for n in range(20)]


@pytest.mark.parametrize("transport", ["ring", "zmq"])
def test_asyncio(dev: Device, transport: str) -> None:
    async def take(count: int) -> list[bytes]:
        found: list[bytes] = []
        with dev.subscribe(transport=transport) as subscription:
            loop = asyncio.get_running_loop()
            loop.call_soon(lambda: [send_one(OTHER, b"%d" % n) for n in range(count)])
            async for packet in subscription:
                assert isinstance(packet, Packet)
                if packet.data[0] >> 4 == 4:
                    found.append(packet.data[28:])
                if len(found) == count:
                    return found
        return found

    assert asyncio.run(asyncio.wait_for(take(20), PATIENCE)) == [b"%d" % n for n in range(20)]


def test_a_subscription_ends_with_the_device(run: Run) -> None:
    with tuncer.create("lab0", TUN) as dev:
        run("ip", "link", "set", "lab0", "addrgenmode", "none")  # no packets but ours
        dev.up(ADDRESS)
        subscriptions = [dev.subscribe(transport=t) for t in ("ring", "zmq")]
        send_one(OTHER)
        eventually(lambda: dev.statistics()["packets_read"])
    for subscription in subscriptions:
        packets = list(subscription)
        assert packets
        assert subscription.stats() == {"delivered": len(packets), "lost": 0}
        subscription.close()


def test_a_process_without_room_for_descriptors_is_told(dev: Device) -> None:
    program_ = (
        "import resource, tuncer\n"
        "dev = tuncer.attach('lab0'); dev.statistics(); kept = []\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))\n"
        "try:\n"
        "    while True: kept.append(dev.subscribe())\n"
        "except OSError as error: print(error.errno, len(kept) > 2)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program_],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.stdout == f"{errno.EMFILE} True\n", done.stderr
    assert dev.statistics()["restarts"] == 0


def test_a_merged_subscription_does_not_sleep_on_what_it_has(two_queues: Device) -> None:
    with two_queues.subscribe(events=True) as subscription:
        two_queues.mtu(1300)
        assert subscription.recv(PATIENCE) == DeviceEvent("mtu", "lab0", 1300)
        while two_queues.statistics()["packets_read"] < FLOWS:
            send_flows()
        for _ in range(FLOWS):
            assert isinstance(subscription.recv(0), Packet)


@pytest.mark.slow
def test_events_that_were_missed_are_counted_and_the_end_is_known(dev: Device) -> None:
    count = 1500
    subscription = dev.subscribe(events=True)
    begun = subscription._counted_events()
    for number in range(count):
        dev.mtu(1300 + number % 100)
    told = [subscription.recv(PATIENCE) for _ in range(10)]
    assert all(isinstance(e, DeviceEvent) and e.kind == "mtu" for e in told)
    found = len(told)
    while found < count:
        item = subscription.recv(PATIENCE)
        assert isinstance(item, DeviceEvent)
        found += item.value if item.kind == "missed" else 1  # type: ignore[operator]
    assert found == count
    for number in range(count):
        dev.mtu(1300 + number % 100)
    # Otherwise they happen while no worker runs, and only what differs in the end is told.
    eventually(lambda: subscription._counted_events() >= begun + 2 * count)
    kill(dev.pid)  # whoever knows what was missed goes
    dev.destroy()
    found = 0
    with pytest.raises(EOFError):  # in order, though there was no room to tell it
        while True:
            item = subscription.recv(PATIENCE)
            assert isinstance(item, DeviceEvent)
            found += item.value if item.kind == "missed" else 1  # type: ignore[operator]
    assert found in {count, count + 1}  # one may be told twice, of a worker that is killed
    subscription.close()


def test_events_that_a_merged_subscription_missed(two_queues: Device) -> None:
    count = 1500
    with two_queues.subscribe(events=True) as subscription:
        for number in range(count):
            two_queues.mtu(1300 + number % 100)
        found = 0
        while found < count:
            item = subscription.recv(PATIENCE)
            assert isinstance(item, DeviceEvent)
            found += item.value if item.kind == "missed" else 1  # type: ignore[operator]
        assert found == count


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


def test_a_subscription_that_is_closed_ends_its_loop() -> None:
    async def main(transport: str, queues: int) -> int:
        async with await tuncer.acreate("d0", TUN, queues=queues) as device:
            await device.aup("10.9.0.1/24", link_local=False)
            subscription = await device.asubscribe(transport=transport)
            taken, one_is_there = 0, asyncio.Event()

            async def follow() -> None:
                nonlocal taken
                async for _ in subscription:
                    taken += 1
                    one_is_there.set()

            task = asyncio.create_task(follow())
            await asyncio.sleep(0)  # it waits for a packet
            send_one("10.9.0.2")
            await asyncio.wait_for(one_is_there.wait(), PATIENCE)
            subscription.close()
            await asyncio.wait_for(task, PATIENCE)
            return taken

    for transport in ("ring", "zmq"):
        for queues in (1, 2):
            assert asyncio.run(main(transport, queues)) == 1


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


PATCHED = """
import select
del select.epoll
import tuncer
device = tuncer.create("d0", tuncer.Flag.TUN | tuncer.Flag.NO_PI)
print(device.statistics()["restarts"])
device.subscribe()
"""


def test_a_patched_select_is_told() -> None:
    found = subprocess.run(
        [sys.executable, "-c", PATCHED], capture_output=True, text=True, check=False
    )
    assert found.stdout == "0\n", found.stderr
    assert "patch_all(select=False) leaves it" in found.stderr
