"""Filters: tcpdump's verdicts, in the kernel and in the worker; over restarts, and removed."""

import contextlib
import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import PATIENCE, wait_for_end
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from traffic import send_one

import tuncer
from tuncer import Device, DeviceError, Flag, VnetHdr, tunctl
from tuncer.tunctl import Program, pcap
from tuncer.tunctl.linux import bpf

Run = Callable[..., str]
TUN, TAP = Flag.TUN | Flag.NO_PI, Flag.TAP | Flag.NO_PI
OTHER = "10.9.0.2"
LINK_TYPES = {Flag.TUN: 12, Flag.TAP: 1}  # DLT_RAW, DLT_EN10MB
NAMES = {Flag.TUN: "RAW", Flag.TAP: "EN10MB"}


@pytest.fixture(name="dev", params=[TUN, TAP], ids=["tun", "tap"])
def device(request: pytest.FixtureRequest, run: Run) -> Iterator[Device]:
    with tuncer.create("lab0", request.param) as dev:
        dev.up("10.9.0.1/24", link_local=False)
        if Flag.TAP in request.param:
            run("ip", "neigh", "add", OTHER, "lladdr", "02:00:00:00:00:02", "dev", "lab0")
        yield dev


def send_to(port: int, payload: bytes) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(payload, (OTHER, port))


def payloads(subscription: Any, count: int) -> list[bytes]:
    return [subscription.recv(PATIENCE).data[-2:] for _ in range(count)]


def kill_worker(dev: Device) -> None:
    pid = dev.pid
    os.kill(pid, signal.SIGKILL)
    assert wait_for_end(pid)


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


LOOP = "ip6 protochain 17 or udp port 53"
"""libpcap makes a loop of it, which no kernel takes."""


def test_what_the_kernel_does_not_take_runs_in_the_worker(dev: Device) -> None:
    with dev.subscribe(transport="zmq") as subscription:
        assert dev.filter(LOOP) == "worker"
        for number in range(10):
            send_to(53 if number % 2 else 54, b"%02d" % number)
        assert payloads(subscription, 5) == [b"%02d" % n for n in range(1, 10, 2)]
        while (counts := dev.statistics())["packets_filtered"] < 5:
            pass
        assert (counts["packets_read"], counts["dropped"]) == (5, 0)
        assert counts["filter_runs"] == "worker"
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
                os.kill(dev.pid, signal.SIGKILL)
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
            run("ip", "neigh", "add", OTHER, "lladdr", "02:00:00:00:00:02", "dev", "lab0")
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
            run("ip", "neigh", "add", OTHER, "lladdr", "02:00:00:00:00:02", "dev", "lab0")
        send_one(OTHER, b"hello")
        assert dev.recv(PATIENCE)[-5:] == b"hello"
        dev.persist(False)


def test_filter_of_a_device_that_has_gone(dev: Device) -> None:
    dev.destroy()
    with pytest.raises(DeviceError, match="no such device"):
        dev.filter("udp")


# -- tcpdump's verdict -----------------------------------------------------------------------------

_PRIMITIVES = [
    "ip",
    "ip6",
    "arp",
    "udp",
    "tcp",
    "icmp",
    "icmp6",
    "port 53",
    "udp port 53",
    "tcp port 80",
    "src port 53",
    "dst port 7",
    "portrange 50-60",
    "host 10.9.0.1",
    "src host 10.9.0.1",
    "dst net 10.0.0.0/8",
    "net fd00::/16",
    "ip6 host fd00::1",
    "greater 60",
    "less 40",
    "len > 50",
    "ip[8] = 64",
    "ip[6:2] & 0x1fff = 0",
    "udp[4:2] > 20",
    "tcp[tcpflags] & tcp-syn != 0",
    "ip[ip[9]] > 3",
    "ip[2:2] % 7 = 3",
    "(ip[2:2] << 2) - ip[8] * 3 > 40",
    "ip[2:2] / ip[9] > 2",
    "ip proto 17",
    "ip6 proto 17",
    "ip multicast",
    "ip6 protochain 17",
]
EXPRESSION = st.recursive(
    st.sampled_from(_PRIMITIVES),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda two: f"({two[0]}) and ({two[1]})"),
        st.tuples(inner, inner).map(lambda two: f"({two[0]}) or ({two[1]})"),
        inner.map("not ({})".format),
    ),
    max_leaves=4,
)
BYTE = st.integers(0, 255)


@st.composite
def packets(draw: st.DrawFn) -> bytes:
    """Draw IP packets, most of them with headers that say something."""
    ports = st.sampled_from([7, 53, 55, 80, 1024])
    protocol = draw(st.sampled_from([1, 6, 17, 58, 0]))
    payload = struct.pack("!HHHH", draw(ports), draw(ports), draw(st.integers(0, 99)), 0)
    payload += bytes(draw(st.lists(BYTE, max_size=40)))
    if draw(st.booleans()):
        addresses = st.sampled_from(["10.9.0.1", "10.9.0.2", "192.0.2.1", "224.0.0.1"])
        pair = b"".join(socket.inet_aton(draw(addresses)) for _ in range(2))
        fragment = draw(st.sampled_from([0, 0, 0, 0x2000, 0x0007]))
        words = (draw(st.sampled_from([0x45, 0x46])), 0, 20 + len(payload), 0, fragment)
        made = struct.pack("!BBHHH", *words) + struct.pack("!BBH", 64, protocol, 0) + pair
    else:
        addresses = st.sampled_from(["fd00::1", "fd00::2", "ff02::1"])
        pair = b"".join(socket.inet_pton(socket.AF_INET6, draw(addresses)) for _ in range(2))
        made = struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64) + pair
    whole = made + payload
    return whole[: draw(st.integers(1, len(whole)))] if draw(st.booleans()) else whole


def framed(packet: bytes, kind: Flag) -> bytes:
    if kind == Flag.TUN:
        return packet
    ether = {4: b"\x08\0", 6: b"\x86\xdd"}.get(packet[0] >> 4, b"\x08\x06")
    return b"\xff" * 6 + b"\2\0\0\0\0\1" + ether + packet


def told_by_tcpdump(expression: str, kind: Flag, found: list[bytes], path: Path) -> list[bool]:
    """Ask the real tcpdump which packets of a capture it shows."""
    head = struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, LINK_TYPES[kind])
    if kind == Flag.TUN:
        head = head[:-4] + struct.pack("=I", 101)  # LINKTYPE_RAW in files
    records = [struct.pack("=IIII", n, 0, len(p), len(p)) + p for n, p in enumerate(found)]
    path.write_bytes(head + b"".join(records))
    shown = subprocess.run(
        ["tcpdump", "-Z", "root", "-n", "-tt", "-r", str(path), expression],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    numbers = {int(n) for n in re.findall(r"^(\d+)\.000000", shown, re.MULTILINE)}
    return [n in numbers for n in range(len(found))]


@pytest.mark.parametrize("kind", [Flag.TUN, Flag.TAP], ids=["tun", "tap"])
def test_verdicts_are_tcpdumps_here_and_in_the_kernel(
    kind: Flag, tmp_path: Path, runtime_dir: Path
) -> None:
    fd = tunctl.create("k0", kind | Flag.NO_PI)
    tunctl.up(fd, link_local=False)
    sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    sender.bind(("k0", 0))
    counts = {True: 0, False: 0}

    @settings(
        max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(EXPRESSION, st.lists(packets(), min_size=1, max_size=12))
    def compare(expression: str, drawn: list[bytes]) -> None:
        found = [framed(packet, kind) for packet in drawn]
        try:
            program = tunctl.compile_filter(expression, kind)
        except ValueError as error:
            # As tcpdump says of what no packet can be.
            assert "rejects all packets" in str(error)  # noqa: PT017
            with pytest.raises(subprocess.CalledProcessError):
                told_by_tcpdump(expression, kind, found, tmp_path / "capture")
            return
        expected = told_by_tcpdump(expression, kind, found, tmp_path / "capture")
        assert [program.accepts(packet) for packet in found] == expected
        tunctl.detach_filter(fd)
        taken = tunctl.attach_filter(fd, program)
        counts[taken] += 1
        if not taken:
            assert "protochain" in expression
            return
        passed = []
        for packet in found:
            with contextlib.suppress(OSError):  # too short for the kernel to send
                sender.send(packet)
                passed.append(packet)
        got = []
        while select.select([fd], [], [], 0)[0]:
            got.append(os.read(fd, 70_000))
        verdicts = dict(zip(found, expected, strict=True))
        assert got == [packet for packet in passed if verdicts[packet]]

    compare()
    sender.close()
    os.close(fd)
    assert counts[True] > counts[False]


@given(st.binary(max_size=80).map(lambda raw: raw[: len(raw) // 8 * 8]))
def test_any_program_is_converted_or_refused(code: bytes) -> None:
    with contextlib.suppress(bpf.CannotConvert):
        bpf.convert(code)
    assert isinstance(bpf.is_special(code), bool)


def test_a_program_knows_its_size() -> None:
    assert len(Program("", bytes(16))) == 2
