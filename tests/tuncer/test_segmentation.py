"""Large packets cut into ordinary ones: by tables, by properties, and as the kernel cuts them."""

import os
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from devices import TUN
from hypothesis import given, settings
from hypothesis import strategies as st
from packets import (
    ACK,
    CWR,
    ECE,
    FIN,
    PSH,
    checksum,
    frame,
    large_tcp,
    large_udp,
    problems,
    shifted,
)
from processes import Run, eventually
from traffic import UDP_SEGMENT

from tuncer import Flag, GsoType, VnetHdr, tunctl
from tuncer.offload.segmentation import segment
from tuncer.tunctl import Offload

TIMESTAMPS = bytes.fromhex("0101080a0000000100000002")


def numbers_of(packets: list[bytes], transport: int) -> list[int]:
    return [int.from_bytes(packet[transport + 4 : transport + 8], "big") for packet in packets]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(("size", "count", "last"), [(3000, 3, 1000), (2000, 2, 1000), (1, 1, 1)])
def test_tcp(version: int, size: int, count: int, last: int) -> None:
    packet, header = large_tcp(
        size, 1000, version=version, flags=ACK | PSH | FIN, options=TIMESTAMPS
    )
    start = header.csum_start
    found = segment(packet, header).payloads()
    assert [len(one) - start - 32 for one in found] == [1000] * (count - 1) + [last]
    assert b"".join(one[start + 32 :] for one in found) == packet[start + 32 :]
    assert numbers_of(found, start) == [1 + 1000 * number for number in range(count)]
    assert [one[start + 13] for one in found] == [ACK] * (count - 1) + [ACK | PSH | FIN]
    assert all(one[start + 20 : start + 32] == TIMESTAMPS for one in found)
    assert not any(map(problems, found))


def test_numbers_and_identifications_begin_again_at_0() -> None:
    packet, header = large_tcp(3000, 1000, number=2**32 - 1500, identification=0xFFFF)
    found = segment(packet, header).payloads()
    assert numbers_of(found, 20) == [2**32 - 1500, 2**32 - 500, 500]
    assert [int.from_bytes(one[4:6], "big") for one in found] == [0xFFFF, 0, 1]
    assert not any(map(problems, found))


def test_congestion_window_reduced_is_told_once() -> None:
    packet, header = large_tcp(3000, 1000, flags=ACK | CWR | ECE)
    ecn = header._replace(gso_type=header.gso_type | 0x80)
    found = segment(packet, ecn).payloads()
    assert [one[33] for one in found] == [ACK | CWR | ECE, ACK | ECE, ACK | ECE]
    assert not any(map(problems, found))


@pytest.mark.parametrize("version", [4, 6])
def test_udp(version: int) -> None:
    packet, header = large_udp(2500, 1000, version=version)
    found = segment(packet, header).payloads()
    start = header.csum_start
    assert [len(one) - start - 8 for one in found] == [1000, 1000, 500]
    assert b"".join(one[start + 8 :] for one in found) == packet[start + 8 :]
    assert not any(map(problems, found))


@pytest.mark.parametrize("tags", [0, 1, 2])
@pytest.mark.parametrize("version", [4, 6])
def test_frames(version: int, tags: int) -> None:
    packet, header = large_tcp(2500, 999, version=version)
    before = 14 + 4 * tags
    found = segment(frame(packet, tags), shifted(header, before), is_frame=True).payloads()
    assert len(found) == 3
    assert all(one[:before] == frame(packet, tags)[:before] for one in found)
    assert not any(problems(one, before) for one in found)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 9000),
    st.integers(1, 3000),
    st.sampled_from([4, 6]),
    st.sampled_from(["tcp", "udp"]),
    st.booleans(),
)
def test_segments_are_right(size: int, gso: int, version: int, kind: str, in_frame: bool) -> None:
    make = large_tcp if kind == "tcp" else large_udp
    packet, header = make(size, gso, version=version)
    before, head = (14, 20) if in_frame else (0, 20)
    if in_frame:
        packet, header = frame(packet), shifted(header, before)
    found = segment(packet, header, is_frame=in_frame).payloads()
    begin = header.csum_start + (head if kind == "tcp" else 8)
    assert b"".join(one[begin:] for one in found) == packet[begin:]
    assert len(found) == -(-size // gso)
    assert not any(problems(one, before) for one in found)


WRONG = {
    "no checksum to complete": {"flags": 0},
    "another version": {"gso_type": GsoType.TCPV6},
    "fragments of UDP": {"gso_type": GsoType.UDP},
    "an unknown kind": {"gso_type": 0x42},
    "no size": {"gso_size": 0},
    "the headers behind the packet": {"csum_start": 60_000},
    "the headers in the IP header": {"csum_start": 4},
    "an odd place": {"csum_start": 21},
    "another field": {"csum_offset": 6},
    "no payload": {"csum_start": 2980},
}


@pytest.mark.parametrize("fields", WRONG.values(), ids=WRONG)
def test_what_is_wrong_with_a_header(fields: dict[str, int]) -> None:
    packet, header = large_tcp(2960, 1000)
    with pytest.raises(ValueError, match=r"cut|packet|payload"):
        segment(packet, header._replace(**fields))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.tuples(*[st.integers(0, 255)] * 2, *[st.integers(0, 300)] * 4))
def test_whatever_is_there_is_cut_or_refused(data: bytes, fields: tuple[int, ...]) -> None:
    header = VnetHdr._make((*fields, b""))
    for is_frame in (False, True):
        try:
            found = segment(data, header, is_frame=is_frame)
        except ValueError:
            continue
        assert len(found.memory) <= 4 << 20


def test_tiny_segments_with_large_headers_do_not_fill_the_memory() -> None:
    packet, header = large_tcp(30_000, 1, version=6)
    long_header = packet[:40] + bytes(30_000) + packet[40:]
    with pytest.raises(ValueError, match="segments"):
        segment(long_header, header._replace(csum_start=30_040))


# -- against the kernel ----------------------------------------------------------------------------


@pytest.fixture(name="path")
def through_the_kernel(run: Run) -> Iterator[tuple[int, int]]:
    """A device with offload, whose packets the kernel forwards to one without: it cuts them."""
    a = tunctl.create("in0", TUN | Flag.VNET_HDR)
    b = tunctl.create("out0", TUN)
    for fd, net in ((a, 1), (b, 2)):
        tunctl.up(fd, f"10.{net}.0.1/24", link_local=False)
        run("ip", "-6", "addr", "add", f"fd0{net}::1/64", "dev", tunctl.devname(fd), "nodad")
    run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    run("ip", "-6", "route", "add", "fd00::1/128", "dev", "out0")
    run("ip", "route", "add", "10.9.0.1/32", "dev", "out0")
    run("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.in0.rp_filter=0")
    yield a, b
    os.close(a)
    os.close(b)


def read_all(fd: int, count: int) -> list[bytes]:
    """Return the packets of TCP and UDP that arrive."""
    found: list[bytes] = []

    def arrived() -> bool:
        try:
            while True:
                packet = os.read(fd, 70_000)
                protocol = packet[9] if packet[0] >> 4 == 4 else packet[6]
                found.extend([packet] if protocol in {6, 17} else [])
        except BlockingIOError:
            return len(found) >= count

    eventually(arrived)
    return found


def forwarded(packet: bytes) -> bytes:
    """Return an IP packet as a router sends it: with a lifetime of one less."""
    if packet[0] >> 4 == 6:
        return packet[:7] + bytes([packet[7] - 1]) + packet[8:]
    head = packet[:8] + bytes([packet[8] - 1]) + packet[9:10] + b"\0\0" + packet[12:20]
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + packet[20:]


@pytest.mark.parametrize(
    "large",
    [
        lambda: large_tcp(5000, 1000, flags=ACK | PSH | FIN, options=TIMESTAMPS),
        lambda: large_tcp(5001, 999, number=2**32 - 2000, identification=0xFFFE),
        lambda: large_tcp(60_000, 1428, flags=ACK | PSH, version=6, options=TIMESTAMPS),
        lambda: large_tcp(5000, 1000, flags=ACK | CWR | ECE),
        lambda: large_udp(5000, 1000),
        lambda: large_udp(4001, 999, version=6),
    ],
    ids=["tcp", "odd", "v6", "ecn", "udp", "udp6"],
)
def test_the_kernel_cuts_alike(path: tuple[int, int], large: Any) -> None:
    packet, header = large()
    if packet[33] & CWR and packet[9] == 6:
        header = header._replace(gso_type=header.gso_type | 0x80)
    expected = segment(forwarded(packet), header).payloads()
    os.write(path[0], header._replace(payload=packet).pack())
    found = read_all(path[1], len(expected))
    assert found == expected


def test_the_kernels_own_large_packets_are_cut(run: Run) -> None:
    """What it hands out of a socket with UDP_SEGMENT, and what it would have sent itself."""
    fd = tunctl.create("lab0", TUN | Flag.VNET_HDR)
    tunctl.up(fd, "10.9.0.1/24", link_local=False)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.bind(("10.9.0.1", 1000))
        sender.setsockopt(socket.SOL_UDP, UDP_SEGMENT, 1000)
        payload = os.urandom(3500)
        every = Offload.CSUM | Offload.TSO4 | Offload.TSO6 | Offload.USO4 | Offload.USO6
        try:
            tunctl.offload(fd, every)
        except OSError:
            pytest.skip("this kernel has no USO")
        sender.sendto(payload, ("10.9.0.2", 9))
        large = VnetHdr.parse(os.read(fd, 70_000))
        assert large.gso_type == GsoType.UDP_L4
        tunctl.offload(fd, 0)
        sender.sendto(payload, ("10.9.0.2", 9))
        cut = [VnetHdr.parse(os.read(fd, 70_000)).payload for _ in range(4)]
    found = segment(large.payload, large).payloads()
    assert [one[28:] for one in found] == [one[28:] for one in cut]
    assert not any(map(problems, found))
    os.close(fd)
