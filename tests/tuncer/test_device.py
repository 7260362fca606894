"""A device as its users see it: configuration, real programs, descriptors, errors, its end."""

import contextlib
import errno
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from devices import ADDRESS, OTHER, TUN
from processes import PATIENCE, Run, another_namespace, program, wait_for_end
from traffic import reply_to, send_one

import tuncer
from tuncer import Device, DeviceError, Flag, Packet, tunctl
from tuncer.client.packet_writer import MOST_BYTES


def test_configuration_is_what_ip_shows(dev: Device, run: Run) -> None:
    dev.up("fd00::1/64")
    dev.broadcast("10.9.0.127")
    assert dev.mtu(1400) == dev.mtu() == 1400
    link = json.loads(run("ip", "-j", "addr", "show", "dev", "lab0"))[0]
    addresses = {(a["local"], a["prefixlen"], a.get("broadcast")) for a in link["addr_info"]}
    assert {(ADDRESS, 24, "10.9.0.127"), ("fd00::1", 64, None)} <= addresses
    assert (link["mtu"], link["txqlen"], link["ifindex"]) == (1400, 10_000, dev.ifindex())
    dev.dstaddr(OTHER)
    dev.down()
    link = json.loads(run("ip", "-j", "addr", "show", "dev", "lab0"))[0]
    assert "UP" not in link["flags"]
    assert [a.get("address") for a in link["addr_info"] if a["family"] == "inet"] == [OTHER]


@pytest.mark.parametrize(
    ("use", "error"),
    [
        (lambda d: d.up("10.9.0"), ValueError),
        (lambda d: d.up(7), TypeError),
        (lambda d: d.broadcast("fd00::1"), ValueError),
        (lambda d: d.mtu(5), OSError),
        (lambda d: d.owner("nobody-of-that-name"), Exception),
        (lambda d: d.setopt(active="twice"), TypeError),
        (lambda d: d.setopt(active=1.5), TypeError),
        (lambda d: d.setopt(active=32768), ValueError),
        (lambda d: d.send(b""), ValueError),
        (lambda d: d.send(bytes(70_000)), ValueError),
        (lambda d: d.send(bytes(MOST_BYTES)), OSError),
        (lambda d: d.send(bytes(40)), OSError),
        (lambda d: d.send("text"), TypeError),
        (lambda d: d.subscribe(transport="pigeon"), ValueError),
        (lambda d: d.controlling_process(2**22 + 1), ProcessLookupError),
    ],
)
def test_bad_arguments_leave_the_device_intact(dev: Device, use: Any, error: Any) -> None:
    pid = dev.pid
    with pytest.raises(error):
        use(dev)
    assert dev.pid == pid
    assert dev.statistics()["restarts"] == 0


def test_the_device_is_used_from_another_process(dev: Device) -> None:
    program = (
        "import pickle, sys, tuncer\n"
        "dev = pickle.loads(bytes.fromhex(sys.argv[1]))\n"
        "sub = dev.subscribe()\n"
        "print('ready', flush=True)\n"
        "for p in sub:\n"
        "    if p.data[28:] == b'for you': dev.up('10.8.0.1/24'); print(p.device); break\n"
    )
    command = [sys.executable, "-c", program, pickle.dumps(dev).hex()]
    other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "ready\n"
    send_one(OTHER, b"for you")
    assert other.communicate(timeout=PATIENCE)[0] == "lab0\n"
    assert other.returncode == 0


def test_real_ping_is_answered(dev: Device, run: Run) -> None:
    with dev.subscribe() as subscription:
        ping = subprocess.Popen(
            ["ping", "-c", "5", "-i", "0.05", "-w", "20", OTHER], stdout=subprocess.PIPE, text=True
        )
        answered = 0
        while ping.poll() is None:
            with contextlib.suppress(TimeoutError):
                answer = reply_to(subscription.recv(0.1).data)
                if answer is not None:
                    assert dev.send(answer) == 1
                    answered += 1
        ping.communicate()
    assert ping.returncode == 0
    assert dev.statistics()["packets_sent"] == answered >= 5


def test_send_while_down(dev: Device) -> None:
    dev.down()
    with pytest.raises(OSError, match="down: bring it up") as caught:
        dev.send(b"\x45" + bytes(27))
    assert caught.value.errno == errno.EIO


def test_packet_information_when_asked_for() -> None:
    with tuncer.create("lab0", Flag.TUN) as dev:
        dev.up(ADDRESS)
        with dev.subscribe() as subscription:
            send_one(OTHER)
            while True:
                packet = subscription.recv(PATIENCE)
                assert isinstance(packet, Packet)
                flags, protocol, payload = tuncer.header(packet.data)
                if protocol == 0x0800:
                    break
            assert (flags, payload[28:]) == (0, b"hello")


@pytest.mark.parametrize("transport", ["ring", "zmq"])
def test_a_link_deleted_from_outside_is_a_device_error(
    dev: Device, run: Run, transport: str
) -> None:
    subscription = dev.subscribe(transport=transport)
    pid = dev.pid
    run("ip", "link", "del", "lab0")
    with pytest.raises(DeviceError, match="was deleted") as caught:
        while True:
            subscription.recv(PATIENCE)
    assert (caught.value.errno, caught.value.filename) == (errno.ENODEV, "lab0")
    subscription.close()
    assert wait_for_end(pid)
    with pytest.raises(DeviceError, match="no such device"):
        dev.statistics()


def test_a_link_deleted_from_outside_while_nobody_reads(dev: Device, run: Run) -> None:
    pid = dev.pid
    run("ip", "link", "del", "lab0")
    assert wait_for_end(pid)
    assert tuncer.devices() == []


def test_iperf3_and_tcpdump_run_on_the_interface(run: Run) -> None:
    """Two devices, forwarded to each other, carry a TCP connection between two namespaces."""
    with (
        tuncer.create("a0", TUN) as a,
        tuncer.create("b0", TUN) as b,
        contextlib.ExitStack() as stack,
    ):
        there = str(stack.enter_context(another_namespace()))
        inside = ["nsenter", "-t", there, "-n"]
        run("ip", "link", "set", "b0", "netns", there)
        run(*inside, "ip", "addr", "add", OTHER, "peer", ADDRESS, "dev", "b0")
        run(*inside, "ip", "link", "set", "b0", "up")
        a.up(f"{ADDRESS}/32")
        a.dstaddr(OTHER)
        for devices in ((a, b), (b, a)):
            source, target = (pickle.dumps(device).hex() for device in devices)
            forward = stack.enter_context(program(sys.executable, "-c", FORWARD, source, target))
            forward.expect("forwarding")
        dump = stack.enter_context(
            program("tcpdump", "-Z", "root", "-l", "-i", "a0", "-c", "20", "-n", "tcp")
        )
        dump.expect("listening on a0")
        server = stack.enter_context(program(*inside, "iperf3", "-s", "-1", "--forceflush"))
        server.expect("Server listening")
        report = json.loads(run("iperf3", "-c", OTHER, "-n", "2M", "-J"))
        assert report["end"]["sum_sent"]["bytes"] >= 2_000_000
        dump.expect("20 packets captured")


FORWARD = """
import os, pickle, sys
source, target = (pickle.loads(bytes.fromhex(device)) for device in sys.argv[1:])
fd = target.getfd()
with source.subscribe() as subscription:
    print("forwarding", flush=True)
    for packet in subscription:
        try:
            os.write(fd, packet.data)
        except OSError:
            pass
"""


def test_statistics_of_several_queues(two_queues: Device) -> None:
    with two_queues.subscribe(queue=1):
        counts = two_queues.statistics()
        assert counts["subscribers"] == 1
        assert [q["subscribers"] for q in counts["queues"]] == [0, 1]
        assert "attached" not in counts
        assert counts["kernel"] == tunctl.statistics("lab0")


def test_many_packets_are_sent_in_several_messages(dev: Device) -> None:
    packet = bytes.fromhex("4500057800000000400100000a0900020a090001") + bytes(1380)
    assert dev.send(*[packet] * 5000) == 5000
    assert dev.statistics()["kernel"]["rx_packets"] == 5000


@pytest.mark.parametrize(
    ("use", "error", "text"),
    [
        (lambda d: d.recv("soon"), TypeError, "number of seconds"),
        (lambda d: d.recv(float("nan")), ValueError, "number of seconds"),
        (lambda d: d.send("text"), TypeError, "bytes, not str"),
        (lambda d: d.send(b"short"), OSError, "no packet for this kind"),
        (lambda d: d.controlling_process("x"), TypeError, "a pid"),
        (lambda d: d.persist("no"), TypeError, "True or False"),
        (lambda d: d.link_local("no"), TypeError, "True or False"),
        (lambda d: d.vnet_hdr_size(1 << 20), ValueError, "at most 1024"),
        (lambda d: d.offload(1), OSError, "VNET_HDR"),
        (lambda d: d.owner("no-such-user"), KeyError, "there is no user"),
        (lambda d: tuncer.read(d.getfd(), 0), ValueError, "1 byte"),
        (lambda _: tuncer.create("all"), OSError, "can be called"),
        (lambda _: tuncer.create("x0", TUN, log_packets="x"), TypeError, "log_packets"),
        (lambda _: tuncer.create("x0", TUN, log_packets=2**40), ValueError, "power of two"),
        (lambda _: tuncer.create("x0", TUN, persist="x"), TypeError, "True or False"),
        (lambda _: tuncer.adopt(-1), OSError, "not open"),
        (lambda _: tuncer.header("abcdef"), TypeError, "bytes"),
    ],
)
def test_an_error_says_what_is_wrong(
    dev: Device, use: Callable[[Device], Any], error: type[Exception], text: str
) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(error, match=text):
        use(dev)
    kept = {str(dev._first.writer.descriptor)}  # send's own
    for number in set(os.listdir("/proc/self/fd")) - before - kept:  # of getfd
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{number}") == "/dev/net/tun":
                os.close(int(number))
    assert dev.devname() == "lab0"
