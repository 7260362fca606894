"""How a worker comes by its device: created, adopted, persistent."""

import errno
import fcntl
import os
import signal
import struct
from typing import Any

import killed_workers
import pytest
from devices import OTHER, TAP, TUN, kill_worker, queues
from processes import PATIENCE, Run, wait_for_end
from traffic import FLOWS, send_flows, send_one, take

import tuncer
from supervisor import StartFailed, Supervisor
from tuncer import Device, Flag, Protocol, VnetHdr, tunctl


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"namespace": "nothere"}, OSError),
        ({"namespace": 1.5}, TypeError),
        ({"namespace": "/etc/passwd"}, OSError),
        ({"owner": "no-such-user"}, KeyError),
        ({"owner": -1}, ValueError),
        ({"group": "no-such-group"}, KeyError),
        ({"active": "twice"}, TypeError),
        ({"active": 40000}, ValueError),
        ({"txqueuelen": -1}, OSError),
        ({"log_packets": 3}, ValueError),
        ({"owner": -1, "persist": True}, ValueError),
        ({"persist": "no"}, TypeError),
        ({"owner": object()}, TypeError),
    ],
)
def test_a_wrong_option_creates_nothing(
    run: Run, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        tuncer.create("e0", TAP, **options)
    assert "e0" not in run("ip", "-br", "link")
    assert tuncer.devices() == []


def test_a_create_that_fails_leaves_an_existing_device_as_it_was(run: Run) -> None:
    run("ip", "tuntap", "add", "p0", "mode", "tun", "user", "1")
    before = run("ip", "-j", "-d", "link", "show", "dev", "p0")
    for options in ({"owner": 0, "group": "no-such-group"}, {"log_bytes": 3}, {"active": "twice"}):
        with pytest.raises((KeyError, ValueError, TypeError)):
            tuncer.create("p0", TUN, **options)
        assert run("ip", "-j", "-d", "link", "show", "dev", "p0") == before


def test_a_device_that_was_there_before_is_still_there_after(run: Run) -> None:
    run("ip", "tuntap", "add", "p0", "mode", "tun")
    with tuncer.create("p0", TUN) as dev:
        pid = dev.pid
    assert wait_for_end(pid)
    assert "p0" in run("ip", "-br", "link")
    with tuncer.create("p1", TUN, persist=True):
        pass
    assert "p1" in run("ip", "-br", "link")
    for name in ("p0", "p1"):
        tuncer.create(name, TUN).destroy()
        assert name not in run("ip", "-br", "link")


def test_a_descriptor_that_somebody_else_opened_is_adopted(run: Run) -> None:
    fd = tunctl.create("t0", TUN)
    tunctl.up(fd, "10.0.0.1/24", link_local=False)
    tunctl.txqueuelen(fd, 33)
    before = run("ip", "-j", "-d", "addr", "show", "dev", "t0")
    with tuncer.adopt(fd) as dev:
        os.close(fd)
        assert (dev.name, dev.flags()) == ("t0", TUN)
        assert run("ip", "-j", "-d", "addr", "show", "dev", "t0") == before
        with dev.subscribe() as subscription:
            kill_worker(dev)
            send_one("10.0.0.2", b"hello")
            assert subscription.recv(PATIENCE).data[28:] == b"hello"
        assert tuncer.attach("t0") == dev
    assert "t0" not in run("ip", "-br", "link")


def test_a_device_is_adopted_with_its_framing() -> None:
    fd = tunctl.create("t0", Flag.TUN | Flag.VNET_HDR)
    with tuncer.adopt(fd) as dev:
        os.close(fd)
        dev.up("10.0.0.1/24", link_local=False)
        send_one("10.0.0.2", b"hello")
        told = tuncer.header(dev.recv(PATIENCE))
        assert told.proto is Protocol.IPV4
        assert VnetHdr.parse(told.payload).payload[28:] == b"hello"


def test_what_cannot_be_adopted(tap: Device) -> None:
    held = tap.getfd()
    with pytest.raises(OSError, match="has a worker already") as caught:
        tuncer.adopt(held)
    assert caught.value.errno == errno.EBUSY
    os.close(held)
    with open("/dev/null", "rb") as other, pytest.raises(OSError, match="no TUN/TAP device"):
        tuncer.adopt(other.fileno())
    with pytest.raises(OSError, match="not open"):
        tuncer.adopt(10_000)
    with pytest.raises(TypeError, match="a number"):
        tuncer.adopt("e0")  # type: ignore[arg-type]
    assert tuncer.devices() == [tap]


def test_a_device_that_another_process_is_attached_to_is_not_shared_unasked(run: Run) -> None:
    fd = tunctl.create("lab0", TUN | Flag.MULTI_QUEUE)
    with pytest.raises(OSError, match="another process is attached") as caught:
        tuncer.create("lab0", TUN, queues=2)
    assert caught.value.errno == errno.EBUSY
    assert queues(run) == (1, 0)
    os.close(fd)


def test_persistent_and_taken_up_again(run: Run) -> None:
    with tuncer.create("lab0", TUN, queues=2, persist=True) as dev:
        dev.up("10.9.0.1/24")
        index = dev.ifindex()
        root = dev._call("belongs")[0].pid
        pids = dev.pids
        os.kill(root, signal.SIGKILL)
        assert all(wait_for_end(pid) for pid in pids)
        assert "lab0" in run("ip", "-br", "link")
        with tuncer.create("lab0", TUN, queues=2) as again:
            assert again.ifindex() == index
            again.persist(False)
            with again.subscribe() as subscription:
                send_flows()
                assert len({p.queue for p in take(subscription, FLOWS) if p.data[0] >> 4 == 4}) == 2
    assert "lab0" not in run("ip", "-br", "link")


def test_a_descriptor_that_blocks_is_adopted() -> None:
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", b"lab0", TUN))
    with tuncer.adopt(fd) as dev:
        dev.up("10.9.0.1/24", link_local=False)
        with dev.subscribe() as subscription:
            send_one(OTHER, b"one")
            assert subscription.recv(PATIENCE).data[28:] == b"one"
        assert dev.statistics()["packets_read"] == 1
    os.close(fd)


def test_a_kill_while_a_persistent_device_is_made() -> None:
    spec = killed_workers.spec(killed_workers.AsItIsPersistent, persist=True)
    with pytest.raises(StartFailed):
        Supervisor.start_link([spec])
    root = Supervisor.start_link([spec])
    dev = tuncer.attach("lab0")
    assert dev.txqueuelen() == 10_000
    dev.destroy()
    root.stop()
