"""Who gets a device's packets, and when they are read: subscriptions, recv, modes."""

import errno
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from devices import ADDRESS, OTHER, TUN, kill_worker
from processes import PATIENCE, Run, eventually
from traffic import number_in, number_of, send_numbers, send_one

import tuncer
from supervisor import Supervisor, SupervisorRef
from tuncer import Device, DeviceError, DeviceEvent, Packet


def test_a_recv_that_waits_is_refused_when_the_device_becomes_active(dev: Device) -> None:
    for activate in (lambda: dev.setopt(active=True), lambda: dev.setopt(active=1), dev.subscribe):
        dev.setopt(active=False)
        eventually(lambda: not (dev.statistics()["active"]))
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(dev.recv, PATIENCE)
            eventually(lambda: dev.statistics()["receivers"])
            held = activate()
            with pytest.raises(OSError, match="active mode"):
                waiting.result(PATIENCE)
        if held is not None:
            held.close()


def test_no_packet_is_lost_between_modes(dev: Device) -> None:
    count, taken = 3000, []
    feeder = threading.Thread(target=send_numbers, args=(0, count))
    with dev.subscribe(events=True) as subscription:
        feeder.start()
        modes: list[Any] = [True, False, "once", 7, False, 3, True]
        turn = 0
        while len(taken) < count:
            dev.setopt(active=modes[turn % len(modes)])
            turn += 1
            try:
                while len(taken) < count:
                    item = subscription.recv(0.002)
                    taken += [] if isinstance(item, DeviceEvent) else [number_in(item)]
                    if isinstance(item, Packet) and len(taken) % 10 == 0:
                        break
            except TimeoutError:
                continue
        feeder.join()
        assert taken == list(range(count))
        assert subscription.stats() == {"delivered": count, "lost": 0}


def test_recv_in_passive_mode(dev: Device) -> None:
    with pytest.raises(TimeoutError, match="no packet in time"):
        while True:  # whatever the kernel has sent by itself
            dev.recv(timeout=0.05)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(dev.recv, PATIENCE)
        while not dev.statistics()["packets_read"] or not waiting.done():
            send_one(OTHER)
        assert waiting.result(PATIENCE)
    with dev.subscribe(), pytest.raises(OSError, match="active mode") as caught:
        dev.recv(0)
    assert caught.value.errno == errno.EINVAL
    # The end of a subscription is noticed soon after close.
    eventually(lambda: not dev.statistics()["active"])
    send_one(OTHER, b"again")
    eventually(lambda: dev.recv(PATIENCE)[28:], b"again")


def test_setopt_active(dev: Device, capfd: Any) -> None:
    dev.setopt(active=True)
    before = dev.statistics()["packets_read"]
    send_one(OTHER)
    eventually(lambda: dev.statistics()["packets_read"] != before)
    kill_worker(dev)
    assert dev.statistics()["active"]
    dev.setopt(active=False)
    kill_worker(dev)
    assert not dev.statistics()["active"]


def test_thousands_of_packets_by_ring_and_zmq_at_once(dev: Device) -> None:
    ours, theirs = dev.subscribe(), dev.subscribe(transport="zmq")
    numbers = list(range(3000))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect((OTHER, 9))
        for n in numbers:
            sender.send(n.to_bytes(8, "big"))
    for subscription in (ours, theirs):
        found = []
        while len(found) < len(numbers):
            number = number_of(subscription.recv(PATIENCE).data)  # type: ignore[union-attr]
            if number is not None:
                found.append(number)
        assert found == numbers
        subscription.close()


def test_subscribers_of_a_deleted_device_are_none_of_the_one_made_in_its_place(run: Run) -> None:
    spec = tuncer.child_spec("net", "lab0", TUN, restart="permanent", addresses=[ADDRESS])
    root: SupervisorRef = Supervisor.start_link([spec])
    former = tuncer.attach("lab0")
    with former.subscribe() as subscription:  # it stays open
        run("ip", "link", "del", "lab0")
        with pytest.raises(DeviceError, match="was deleted"):
            while True:
                subscription.recv(PATIENCE)
        new = eventually(lambda: next(iter(tuncer.devices()), None))
        assert new.statistics()["subscribers"] == 0
        assert not new.statistics()["active"]
    root.stop()
