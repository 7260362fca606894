"""Packets as lines of text: tcpdump is the oracle, hostile bytes raise nothing."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packets import made
from processes import run
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, ICMPv6ND_RS, IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether

from tuncer.cli import packet_text
from tuncer.protocol import pcapng
from tuncer.protocol.packet import Framing, packet_class

MACS = {"dst": "02:00:00:00:00:01", "src": "02:00:00:00:00:02"}
ENDS = {"src": "10.0.0.1", "dst": "10.0.0.2"}
ENDS6 = {"src": "fd00::1", "dst": "fd00::2"}


@pytest.mark.parametrize(
    ("packet", "line"),
    [
        (
            IP(**ENDS) / UDP(sport=5, dport=9) / b"hello",
            "IP 10.0.0.1.5 > 10.0.0.2.9: UDP, length 5",
        ),
        (
            IP(**ENDS) / TCP(sport=5, dport=9, seq=7, ack=8, flags="PA", window=512) / b"abc",
            "IP 10.0.0.1.5 > 10.0.0.2.9: Flags [P.], seq 7, ack 8, win 512, length 3",
        ),
        (
            IP(**ENDS) / TCP(sport=5, dport=9, flags="S", options=[("MSS", 1460)]),
            "IP 10.0.0.1.5 > 10.0.0.2.9: Flags [S], seq 0, win 8192, length 0",
        ),
        (
            IP(**ENDS) / ICMP(type=8, id=3, seq=4) / b"abcd",
            "IP 10.0.0.1 > 10.0.0.2: ICMP echo request, id 3, seq 4, length 12",
        ),
        (
            IPv6(**ENDS6) / ICMPv6EchoRequest(id=3, seq=4),
            "IP6 fd00::1 > fd00::2: ICMP6 echo request, id 3, seq 4, length 8",
        ),
        (
            IPv6(**ENDS6) / ICMPv6ND_RS(),
            "IP6 fd00::1 > fd00::2: ICMP6 router solicitation, length 8",
        ),
        (
            IPv6(**ENDS6) / UDP(sport=5, dport=9),
            "IP6 fd00::1.5 > fd00::2.9: UDP, length 0",
        ),
        (IP(**ENDS, proto=47) / b"abcd", "IP 10.0.0.1 > 10.0.0.2: proto 47, length 4"),
        (
            IP(**ENDS, proto=17, id=6, frag=2) / b"abcd",
            "IP 10.0.0.1 > 10.0.0.2: proto 17, length 4 (fragment 6 at 16)",
        ),
        (b"\x45", "no IP, length 1"),
    ],
)
def test_ip_packets(packet: Any, line: str, tmp_path: Path) -> None:
    assert packet_text.line(made(packet)) == line
    assert packet_text.line(made(packet, start=4)) == line
    behind_tag = Ether(**MACS) / Dot1Q(vlan=7) / packet
    if not isinstance(packet, bytes):
        assert packet_text.line(made(behind_tag, is_frame=True)) == f"vlan 7, {line}"
    # tcpdump tells more of some packets, but that it tells, too, up to the first comma.
    if "proto" not in line and "no IP" not in line:
        file = tmp_path / "one.pcapng"
        file.write_bytes(pcapng.section() + pcapng.blocks([made(packet)], {})[0])
        said = run("tcpdump", "-n", "-t", "-r", str(file)).replace("ICMP6,", "ICMP6")
        assert said.startswith(line.partition(",")[0])


@pytest.mark.parametrize(
    ("frame", "line"),
    [
        (
            ARP(op=1, psrc="10.0.0.1", pdst="10.0.0.2"),
            "ARP, Request who-has 10.0.0.2 tell 10.0.0.1",
        ),
        (
            ARP(op=2, psrc="10.0.0.1", hwsrc="02:00:00:00:00:03"),
            "ARP, Reply 10.0.0.1 is-at 02:00:00:00:00:03",
        ),
        (ARP(op=9), "ARP, operation 9"),
        (b"xyz", "ethertype 0x9000, length 17"),
    ],
)
def test_frames(frame: Any, line: str) -> None:
    kind = {} if isinstance(frame, ARP) else {"type": 0x9000}
    packet = made(Ether(**MACS, **kind) / frame, is_frame=True)
    assert packet_text.line(packet) == line
    told = packet_text.line(packet, with_macs=True)
    assert told.startswith("02:00:00:00:00:02 > 02:00:00:00:00:01, ethertype 0x")
    assert told.endswith(line)
    assert packet_text.line(made(b"short", is_frame=True)) == "a frame that is cut, length 5"


@given(
    st.binary(max_size=100), st.booleans(), st.integers(0, 12), st.sampled_from([b"", b"E", b"`"])
)
def test_hostile_bytes_are_a_line(data: bytes, is_frame: bool, start: int, first: bytes) -> None:
    packet = packet_class(Framing(is_frame, start))(first + data, 0, 0, "lab0")
    for with_macs in (False, True):
        told = packet_text.line(packet, with_macs=with_macs)
        assert told.isprintable()


@given(st.binary(max_size=100))
def test_bytes_in_hexadecimal(data: bytes) -> None:
    told = packet_text.dump(data)
    digits = "".join(line[10:].partition("   ")[0] for line in told.splitlines())
    assert all(line[:3] == "\t0x" for line in told.splitlines())
    assert bytes.fromhex("".join(line[10:50] for line in told.splitlines())) == data, digits
