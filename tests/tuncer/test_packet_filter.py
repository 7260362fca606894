"""Filters: tcpdump's verdicts, in the kernel and in the worker; over restarts, and removed."""

import errno
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from devices import LOOP, OTHER, TAP, TUN, kill_at_once, kill_worker, make, neighbour
from processes import PATIENCE, Run, eventually
from traffic import FLOWS, send_flows, send_one

import tuncer
from tuncer import Device, DeviceError, Flag, VnetHdr, tunctl
from tuncer.tunctl import pcap


@pytest.fixture(name="dev", params=[TUN, TAP], ids=["tun", "tap"])
def device(request: pytest.FixtureRequest, run: Run) -> Iterator[Device]:
    with tuncer.create("lab0", request.param) as dev:
        dev.up("10.9.0.1/24", link_local=False)
        if Flag.TAP in request.param:
            neighbour(run)
        yield dev


def send_to(port: int, payload: bytes) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(payload, (OTHER, port))


def payloads(subscription: Any, count: int) -> list[bytes]:
    return [subscription.recv(PATIENCE).data[-2:] for _ in range(count)]


def test_only_what_is_wanted_comes(dev: Device) -> None:
    with dev.subscribe() as subscription:
        assert dev.filter("udp port 53") == "kernel"
        for number in range(10):
            send_to(53 if number % 2 else 54, b"%02d" % number)
        assert payloads(subscription, 5) == [b"%02d" % n for n in range(1, 10, 2)]
        assert dev.statistics()["filter_runs"] == "kernel"
        assert dev.statistics()["filter"] == "udp port 53"
        assert dev.statistics()["dropped"] == 5
        kill_worker(dev)
        send_to(54, b"no")
        send_to(53, b"ye")
        assert payloads(subscription, 1) == [b"ye"]
        assert dev.filter("udp port 54") == "kernel"
        send_to(53, b"no")
        send_to(54, b"YE")
        assert payloads(subscription, 1) == [b"YE"]
        assert dev.filter(None) is None
        send_to(99, b"99")
        assert payloads(subscription, 1) == [b"99"]
        assert dev.statistics()["filter_runs"] is None
        assert subscription.stats()["lost"] == 0


def test_what_was_queued_before_is_filtered_too(dev: Device) -> None:
    for port in (53, 54, 55):
        send_to(port, b"%d" % port)
    dev.filter("udp port 54 or udp port 56")
    send_to(53, b"53")
    send_to(56, b"56")
    assert dev.recv(PATIENCE)[-2:] == b"54"
    assert dev.recv(PATIENCE)[-2:] == b"56"
    with pytest.raises(TimeoutError):
        dev.recv(0.05)
    counts = dev.statistics()
    assert (counts["packets_read"], counts["packets_filtered"], counts["dropped"]) == (2, 2, 1)


"""libpcap makes a loop of it, which no kernel takes."""


def test_what_the_kernel_does_not_take_runs_in_the_worker(dev: Device) -> None:
    with dev.subscribe(transport="zmq") as subscription:
        assert dev.filter(LOOP) == "worker"
        for number in range(10):
            send_to(53 if number % 2 else 54, b"%02d" % number)
        assert payloads(subscription, 5) == [b"%02d" % n for n in range(1, 10, 2)]
        eventually(lambda: dev.statistics()["packets_filtered"], 5)
        counts = dev.statistics()
        assert (counts["packets_read"], counts["dropped"]) == (5, 0)
        assert counts["filter_runs"] == "worker"
        for number in range(3):  # each time there is nothing more to read in between
            send_to(54, b"no")
            eventually(lambda number=number: dev.statistics()["packets_filtered"] >= 6 + number)
        assert dev.statistics()["packets_read"] == 5
        kill_worker(dev)
        send_to(54, b"no")
        send_to(53, b"ye")
        assert payloads(subscription, 1) == [b"ye"]


def test_without_the_right_to_load_ebpf_a_tuns_filter_runs_in_the_worker() -> None:
    code = """
import socket, tuncer
from tuncer import Flag
if __name__ == "__main__":
    with tuncer.create("lab0", Flag.TUN | Flag.NO_PI) as dev:
        dev.up("10.9.0.1/24", link_local=False)
        print(dev.filter("udp port 53"))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for port in (54, 53, 55):
                sender.sendto(b"%d" % port, ("10.9.0.2", port))
        print(dev.recv(10.0)[-2:])
"""
    limit = Path("/proc/sys/kernel/unprivileged_bpf_disabled")
    if limit.read_text().strip() == "0":
        pytest.skip("everybody may load eBPF here")
    gone = "-bpf,-sys_admin,-perfmon"
    done = subprocess.run(
        ["setpriv", f"--bounding-set={gone}", f"--inh-caps={gone}", sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == ["worker", "b'53'"], done.stderr


def test_a_kill_at_any_time_lets_nothing_unwanted_pass(dev: Device) -> None:
    count = 400
    with dev.subscribe() as subscription:
        dev.filter(LOOP)
        for number in range(count):
            send_to(53 if number % 2 else 54, b"%04d" % number)
            if number % 40 == 20:
                kill_at_once(dev)
        found = [subscription.recv(PATIENCE).data[-4:] for _ in range(count // 2)]
        assert found == [b"%04d" % n for n in range(1, count, 2)]
        with pytest.raises(TimeoutError):
            subscription.recv(0.05)


@pytest.mark.parametrize("flags", [Flag.TUN, TUN | Flag.VNET_HDR, Flag.TAP | Flag.VNET_HDR])
@pytest.mark.parametrize("expression", ["udp port 53", LOOP])
def test_a_filter_sees_the_packet_behind_its_headers(
    run: Run, flags: Flag, expression: str
) -> None:
    with tuncer.create("lab0", flags) as dev:
        dev.up("10.9.0.1/24", link_local=False)
        if Flag.TAP in flags:
            neighbour(run)
        if Flag.VNET_HDR in flags:
            dev.vnet_hdr_size(12)
        dev.filter(expression)
        for port in (54, 53, 55):
            send_to(port, b"%d" % port)
        found = dev.recv(PATIENCE)
        assert found[-2:] == b"53"
        if Flag.VNET_HDR in flags:
            inner = found if Flag.NO_PI in flags else tuncer.header(found).payload
            assert VnetHdr.parse(inner, 12).payload[-2:] == b"53"


@pytest.mark.parametrize(
    ("expression", "error"),
    [
        ("udp prot 53", ValueError),
        ("(", ValueError),
        ("udp port 53\0", ValueError),
        ("host nowhere.invalid", ValueError),
        (b"udp", TypeError),
        (53, TypeError),
    ],
)
def test_what_is_no_filter_leaves_the_present_one(
    dev: Device, expression: Any, error: type[Exception]
) -> None:
    dev.filter("udp port 53")
    with pytest.raises(error, match="filter"):
        dev.filter(expression)
    assert dev.statistics()["filter"] == "udp port 53"


def test_an_empty_expression_accepts_everything(dev: Device) -> None:
    dev.filter("")
    send_one(OTHER, b"all")
    assert dev.recv(PATIENCE)[-3:] == b"all"


def test_without_libpcap_the_error_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pcap, "_NAMES", ())
    monkeypatch.setattr("ctypes.util.find_library", lambda _: None)
    pcap._library.cache_clear()
    with pytest.raises(OSError, match="apt-get install libpcap"):
        tunctl.compile_filter("udp", Flag.TUN)
    pcap._library.cache_clear()


@pytest.mark.parametrize("flags", [TUN, TAP], ids=["tun", "tap"])
def test_a_filter_that_an_earlier_user_left_is_taken_away(run: Run, flags: Flag) -> None:
    fd = tunctl.create("lab0", flags)
    tunctl.persist(fd)
    assert tunctl.attach_filter(fd, tunctl.compile_filter("udp port 53", flags))
    if Flag.TAP in flags:
        tunctl.receive_filter(fd, ["02:00:00:00:00:09"])
    os.close(fd)
    with tuncer.create("lab0", flags) as dev:
        dev.up("10.9.0.1/24", link_local=False)
        if Flag.TAP in flags:
            neighbour(run)
        send_one(OTHER, b"hello")
        assert dev.recv(PATIENCE)[-5:] == b"hello"
        dev.persist(False)


def test_filter_of_a_device_that_has_gone(dev: Device) -> None:
    dev.destroy()
    with pytest.raises(DeviceError, match="no such device"):
        dev.filter("udp")


def test_a_filter_sees_behind_the_headers_of_every_queue() -> None:
    with make(flags=TUN | Flag.VNET_HDR, queues=2) as dev, dev.subscribe() as subscription:
        assert dev.vnet_hdr_size(12) == 12
        assert dev.filter(LOOP) == "worker"
        send_flows(port=53)
        for _ in range(FLOWS):
            subscription.recv(PATIENCE)
        assert dev.statistics()["packets_filtered"] == 0


@pytest.mark.parametrize("dev", [TUN], indirect=True)  # a TAP's takes no descriptor
def test_a_filter_that_cannot_be_set_leaves_the_one_before(dev: Device) -> None:
    assert dev.filter("udp port 53") == "kernel"
    dev.statistics()  # connected
    program = tunctl.compile_filter("udp port 9", Flag.TUN)
    before = resource.prlimit(dev.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(dev.pid, resource.RLIMIT_NOFILE, (3, before[1]))
    with pytest.raises(OSError, match="open files") as caught:
        dev._call("filter", program.expression, program.instructions, None)
    assert caught.value.errno == errno.EMFILE
    resource.prlimit(dev.pid, resource.RLIMIT_NOFILE, before)
    assert dev.statistics()["filter"] == "udp port 53"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for port in (9, 53):
            sender.sendto(b"%d" % port, (OTHER, port))
    assert dev.recv(PATIENCE)[28:] == b"53"
