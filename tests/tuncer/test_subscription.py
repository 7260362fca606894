"""Subscriptions: what is lost is counted, what is closed is at its end."""

import asyncio
import os
import subprocess
import sys

import pytest
from devices import ADDRESS, OTHER, TUN
from processes import PATIENCE, Run, eventually
from traffic import FLOWS, send_flows, send_one, take

import tuncer
from tuncer import Batch, Device, DeviceEvent, Flag, Packet


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
            assert isinstance(batch, Batch)
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


def test_a_merged_subscription_does_not_sleep_on_what_it_has(two_queues: Device) -> None:
    with two_queues.subscribe(events=True) as subscription:
        two_queues.mtu(1300)
        assert subscription.recv(PATIENCE) == DeviceEvent("mtu", "lab0", 1300)
        while two_queues.statistics()["packets_read"] < FLOWS:
            send_flows()
        for _ in range(FLOWS):
            assert isinstance(subscription.recv(0), Packet)


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


@pytest.mark.parametrize("transport", ["ring", "zmq"])
@pytest.mark.parametrize("kind", [TUN, Flag.TAP | Flag.NO_PI, Flag.TUN, Flag.TAP])
def test_packets_know_their_headers(run: Run, transport: str, kind: Flag) -> None:
    with tuncer.create("d0", kind) as device:
        device.up("10.9.0.1/24")
        if Flag.TAP in kind:
            mac = "02:00:00:00:00:02"
            run("ip", "neigh", "add", "10.9.0.2", "lladdr", mac, "dev", "d0")
        with device.subscribe(transport=transport, batch=True) as batches:
            send_one("10.9.0.2", b"x")
            packets = (packet for batch in batches for packet in batch)
            packet = next(packet for packet in packets if packet.proto == 17)
        assert packet.ip is not None
        assert (packet.ip.src, packet.ip.dst) == ("10.9.0.1", "10.9.0.2")
        assert packet.ports is not None
        assert (packet.ethernet is not None) == (Flag.TAP in kind)
        if packet.ethernet is not None:
            assert packet.ethernet.dst == "02:00:00:00:00:02"
