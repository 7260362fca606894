"""Classic BPF made eBPF: any program has the same verdict, and tcpdump's."""

import contextlib
import os
import random
import re
import select
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tuncer import Flag, tunctl
from tuncer.tunctl import Program
from tuncer.tunctl.linux import bpf

LINK_TYPES = {Flag.TUN: 12, Flag.TAP: 1}  # DLT_RAW, DLT_EN10MB


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


def make_packet(choose: Callable[[list[Any]], Any]) -> bytes:
    """Make an IP packet with headers that say something."""
    ports = [7, 53, 55, 80, 1024]
    protocol = choose([17, 17, 17, 6, 6, 1, 58, 0])
    length = choose(list(range(40)))
    payload = struct.pack("!HHHH", choose(ports), choose(ports), choose(list(range(99))), 0)
    payload += bytes(choose([0, 2, 16, 18, 255]) for _ in range(length))
    if choose([True, False]):
        places = ["10.9.0.1", "10.9.0.2", "192.0.2.1", "224.0.0.1"]
        pair = b"".join(socket.inet_aton(choose(places)) for _ in range(2))
        options = bytes(4 * choose([0, 0, 1, 3]))
        fragment = choose([0, 0, 0, 0x2000, 0x0007])
        words = (0x45 + len(options) // 4, 0, 20 + len(options) + len(payload), 0, fragment)
        made = struct.pack("!BBHHH", *words) + struct.pack("!BBH", choose([1, 64]), protocol, 0)
        made += pair + options
    else:
        places = ["fd00::1", "fd00::2", "ff02::1"]
        pair = b"".join(socket.inet_pton(socket.AF_INET6, choose(places)) for _ in range(2))
        made = struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64) + pair
    whole = made + payload
    return whole[: choose(list(range(1, len(whole))))] if choose([False, False, True]) else whole


@st.composite
def packets(draw: st.DrawFn) -> bytes:
    return make_packet(lambda options: draw(st.sampled_from(options)))


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


class Machine:
    """A device in which the kernel runs filters, and a way to send through it."""

    def __init__(self, kind: Flag, directory: Path) -> None:
        self.kind = kind
        self.capture = directory / "capture"
        self.fd = tunctl.create("k0", kind | Flag.NO_PI)
        tunctl.up(self.fd, link_local=False)
        self.sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self.sender.bind(("k0", 0))
        self.taken = {True: 0, False: 0}
        self.verdicts: set[bool] = set()

    def close(self) -> None:
        self.sender.close()
        os.close(self.fd)

    def compare(self, expression: str, found: list[bytes]) -> None:
        """Compare tcpdump's verdicts with those of libpcap here and of the kernel."""
        found = list(dict.fromkeys(framed(packet, self.kind) for packet in found))
        try:
            program = tunctl.compile_filter(expression, self.kind)
        except ValueError as error:
            # As tcpdump says of what no packet can be.
            assert "rejects all packets" in str(error)  # noqa: PT017 - it may succeed as well
            with pytest.raises(subprocess.CalledProcessError):
                told_by_tcpdump(expression, self.kind, found, self.capture)
            return
        expected = told_by_tcpdump(expression, self.kind, found, self.capture)
        assert [program.accepts(packet) for packet in found] == expected
        taken = tunctl.attach_filter(self.fd, program)
        self.taken[taken] += 1
        if not taken:
            assert "protochain" in expression
            return
        passed = []
        for packet in found:
            with contextlib.suppress(OSError):  # too short for the kernel to send
                self.sender.send(packet)
                passed.append(packet)
        got = []
        while select.select([self.fd], [], [], 0)[0]:
            got.append(os.read(self.fd, 70_000))
        verdicts = dict(zip(found, expected, strict=True))
        assert got == [packet for packet in passed if verdicts[packet]]
        self.verdicts |= {verdicts[packet] for packet in passed}


@pytest.fixture(name="machine", params=[Flag.TUN, Flag.TAP], ids=["tun", "tap"])
def make_machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(request.param, tmp_path)
    yield machine
    machine.close()


@pytest.mark.parametrize("expression", _PRIMITIVES)
def test_every_primitive_has_tcpdumps_verdicts(machine: Machine, expression: str) -> None:
    choose = random.Random(expression).choice
    nothing_known = bytes(28)  # in a frame it is taken for ARP
    machine.compare(expression, [nothing_known, *(make_packet(choose) for _ in range(200))])
    impossible = machine.kind == Flag.TUN and expression == "arp"
    assert machine.verdicts == {True, False} or impossible or machine.taken[False]


def test_verdicts_are_tcpdumps_here_and_in_the_kernel(machine: Machine) -> None:
    suppressed = [HealthCheck.function_scoped_fixture]

    @settings(max_examples=60, deadline=None, suppress_health_check=suppressed)
    @given(EXPRESSION, st.lists(packets(), min_size=1, max_size=12))
    def compare(expression: str, drawn: list[bytes]) -> None:
        machine.compare(expression, drawn)

    compare()
    assert machine.taken[True] > machine.taken[False]


@pytest.mark.parametrize(
    ("expression", "payload", "kind"),
    [
        ("not (1 << ip[28:4]) = 0", b"\0\0\0\x20", Flag.TUN),  # shifted by 32
        ("not (1 << ip[28:4]) = 0", b"\0\0\0\x20", Flag.TAP),
        ("udp and ip[ip[28:4]] = 0x45", b"\xff\xf0\0\0", Flag.TUN),  # SKF_NET_OFF, by the index
        ("udp and ip[ip[28:4]] = 0x45", b"\xff\xef\xff\xf2", Flag.TAP),
        ("ip[ip[28:4]] >= 0", b"\xff\xff\xff\xf2", Flag.TAP),  # the sum wraps
        ("not ip[2:2] / ip[9] > 2", b"", Flag.TUN),
    ],
)
def test_what_the_kernel_would_tell_otherwise(
    tmp_path: Path, expression: str, payload: bytes, kind: Flag
) -> None:
    machine = Machine(kind, tmp_path)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 28 + len(payload), 0, 0, 64, 17, 0) + bytes(8)
    packet = head + struct.pack("!HHHH", 53, 53, 8 + len(payload), 0) + payload
    program = tunctl.compile_filter(expression, kind)
    found = [framed(packet, kind)]
    if tunctl.attach_filter(machine.fd, program):
        machine.sender.send(found[0])
        passed = bool(select.select([machine.fd], [], [], 0)[0])
        assert [passed] == told_by_tcpdump(expression, kind, found, machine.capture)
    else:
        assert "<<" in expression
    machine.close()


_PACKET = bytes.fromhex("46010040000120004011000001020304050607080900ff00") + bytes(range(60))


_SMALL = st.integers(0, 90)  # sometimes beyond the packet's end


_NUMBER = st.one_of(_SMALL, st.integers(0, 2**32 - 1))


_CELL = st.integers(0, 15)


_BY_K = [0x04, 0x14, 0x24, 0x34, 0x44, 0x54, 0x94, 0xA4]  # add sub mul div or and mod xor


_STEP = st.one_of(
    st.tuples(st.sampled_from([0x20, 0x28, 0x30, 0x40, 0x48, 0x50, 0xB1]), _SMALL),  # of the packet
    st.tuples(st.sampled_from([0x00, 0x01]), _NUMBER),  # immediate
    st.tuples(st.sampled_from([0x60, 0x61, 0x02, 0x03]), _CELL),  # memory
    st.tuples(st.sampled_from([0x80, 0x81, 0x07, 0x87, 0x84]), st.just(0)),  # length, TAX, TXA, neg
    st.tuples(st.sampled_from(_BY_K), _NUMBER.filter(bool)),
    st.tuples(st.sampled_from([code | 8 for code in _BY_K]), st.just(0)),
    st.tuples(st.sampled_from([0x64, 0x74]), st.integers(0, 31)),  # shifts
    st.tuples(
        st.sampled_from([0x15, 0x25, 0x35, 0x45, 0x1D, 0x2D, 0x3D, 0x4D]),  # conditions
        _NUMBER,
        st.integers(0, 3),
        st.integers(0, 3),
    ),
)


@st.composite
def programs(draw: st.DrawFn) -> bytes:
    """Draw classic programs that end by returning A, in which every jump is one forward."""
    steps = draw(st.lists(_STEP, min_size=1, max_size=25))
    # What memory holds at first, libpcap does not say.
    made = [struct.pack("=HBBI", 0x02, 0, 0, cell) for cell in range(16)]
    for place, (code, k, *jumps) in enumerate(steps):
        left = len(steps) - place - 1
        jt, jf = (min(jump, left) for jump in jumps) if jumps else (0, 0)
        made.append(struct.pack("=HBBI", code, jt, jf, k))
    return b"".join([*made, struct.pack("=HBBI", 0x16, 0, 0, 0)])


def test_any_program_has_the_same_verdict_in_the_kernel(tmp_path: Path) -> None:
    machine = Machine(Flag.TUN, tmp_path)

    @settings(max_examples=400, deadline=None)
    @given(programs())
    def compare(code: bytes) -> None:
        program = Program("", code)
        taken = tunctl.attach_filter(machine.fd, program)
        machine.taken[taken] += 1
        if not taken:
            return  # the verifier has seen what can never be reached
        machine.sender.send(_PACKET)
        passed = bool(select.select([machine.fd], [], [], 0)[0])
        if passed:
            os.read(machine.fd, 70_000)
        assert passed == program.accepts(_PACKET)
        machine.verdicts.add(passed)

    compare()
    machine.close()
    assert machine.taken[True] > machine.taken[False]
    assert machine.verdicts == {True, False}


@given(st.binary(max_size=80).map(lambda raw: raw[: len(raw) // 8 * 8]))
def test_any_program_is_converted_or_refused(code: bytes) -> None:
    with contextlib.suppress(bpf.CannotConvert):
        bpf.convert(code)
    assert isinstance(bpf.has_same_verdicts(code), bool)
