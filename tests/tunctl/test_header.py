"""Headers before packets, and flags: pure, with properties; and both ways through the kernel."""

import os
import select
import socket
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ip_links import read
from processes import Run

from tuncer import tunctl
from tuncer.tunctl import Flag, GsoType, Offload, Protocol, TunPi, VnetHdr

WORD = st.integers(0, 2**16 - 1)


BYTE = st.integers(0, 255)


@given(WORD, WORD, st.binary(max_size=64))
def test_packet_information_comes_back(flags: int, protocol: int, payload: bytes) -> None:
    made = TunPi(flags, protocol, payload)
    found = tunctl.header(made.pack())
    assert found == made
    assert isinstance(found.proto, Protocol) == (protocol in set(Protocol))


def test_protocols_are_told_by_name() -> None:
    assert [
        tunctl.header(bytes.fromhex(f"0000{number:04x}")).proto for number in (0x800, 0x806)
    ] == [
        Protocol.IPV4,
        Protocol.ARP,
    ]
    found = tunctl.header(b"\0\0\x86\xdd").proto
    assert isinstance(found, Protocol)
    assert found.name == "IPV6"


@given(BYTE, BYTE, WORD, WORD, WORD, WORD, st.binary(max_size=64), st.sampled_from([10, 12, 24]))
def test_a_virtio_net_hdr_comes_back(
    flags: int, kind: int, length: int, size: int, start: int, offset: int, data: bytes, wide: int
) -> None:
    made = VnetHdr(flags, kind, length, size, start, offset, data)
    packed = made.pack(wide)
    assert len(packed) == wide + len(data)
    assert VnetHdr.parse(packed, wide) == made


@given(st.binary(max_size=9))
def test_a_virtio_net_hdr_that_is_cut_off(data: bytes) -> None:
    with pytest.raises(ValueError, match="virtio_net_hdr"):
        VnetHdr.parse(data)
    with pytest.raises(ValueError, match="10 bytes"):
        VnetHdr.parse(bytes(20), len(data))


def next_ipv4(fd: int, skip: int) -> bytes:
    while True:
        assert select.select([fd], [], [], 5)[0]
        data = os.read(fd, 70_000)
        if data[skip] >> 4 == 4:
            return data


def echo_request(source: bytes, target: bytes, payload: bytes) -> bytes:
    """An ICMP echo request whose checksums are right."""

    def checksum(data: bytes) -> bytes:
        words = sum(int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2))
        while words >> 16:
            words = (words & 0xFFFF) + (words >> 16)
        return (~words & 0xFFFF).to_bytes(2, "big")

    icmp = b"\x08\0\0\0\x12\x34\0\1" + payload
    icmp = icmp[:2] + checksum(icmp) + icmp[4:]
    ip = b"\x45\0" + (20 + len(icmp)).to_bytes(2, "big") + b"\0\0\0\0\x40\x01\0\0" + source + target
    return ip[:10] + checksum(ip) + ip[12:] + icmp


@pytest.mark.parametrize("wide", [10, 12])
@pytest.mark.parametrize("information", [False, True])
def test_packets_with_a_virtio_net_hdr_both_ways(wide: int, information: bool) -> None:
    fd = tunctl.create("t0", Flag.TUN | Flag.VNET_HDR | (0 if information else Flag.NO_PI))
    tunctl.vnet_hdr_size(fd, wide)
    tunctl.up(fd, "10.0.0.1/24", link_local=False)
    before = 4 if information else 0
    ours, theirs = socket.inet_aton("10.0.0.1"), socket.inet_aton("10.0.0.2")
    packet = VnetHdr(payload=echo_request(theirs, ours, b"ab")).pack(wide)
    os.write(fd, TunPi(0, Protocol.IPV4, packet).pack() if information else packet)
    answer = next_ipv4(fd, before + wide)
    if information:
        told = tunctl.header(answer)
        assert told.proto is Protocol.IPV4
        answer = told.payload
    found = VnetHdr.parse(answer, wide)
    assert found.gso_type == GsoType.NONE
    assert found.payload[20] == 0  # an echo reply
    assert found.payload[-2:] == b"ab"
    os.close(fd)


def test_offload_hands_over_partial_checksums_until_it_is_switched_off() -> None:
    fd = tunctl.create("t0", Flag.TUN | Flag.NO_PI | Flag.VNET_HDR)
    tunctl.offload(fd, Offload.CSUM | Offload.TSO4 | Offload.TSO6)
    tunctl.up(fd, "10.0.0.1/24", link_local=False)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"hello", ("10.0.0.2", 7))
        partial = VnetHdr.parse(next_ipv4(fd, 10))
        assert (partial.flags, partial.csum_start, partial.csum_offset) == (1, 20, 6)
        tunctl.offload(fd, 0)
        sender.sendto(b"hello", ("10.0.0.2", 7))
        assert VnetHdr.parse(next_ipv4(fd, 10))[:6] == (0, 0, 0, 0, 0, 0)
    os.close(fd)


def test_packet_information(run: Run) -> None:
    fd = tunctl.create("t0", Flag.TUN)
    tunctl.up(fd, "10.0.0.1/24")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"hello", ("10.0.0.2", 7))
    flags, protocol, payload = tunctl.header(read(fd, lambda p: p[2:4] == b"\x08\x00"))
    assert (flags, protocol, payload[28:]) == (0, 0x0800, b"hello")
    os.close(fd)


@given(st.binary(max_size=64))
def test_header_splits_any_bytes(data: bytes) -> None:
    if len(data) < 4:
        with pytest.raises(ValueError, match="4 bytes"):
            tunctl.header(data)
    else:
        flags, protocol, payload = tunctl.header(data)
        assert flags.to_bytes(2, sys.byteorder) + protocol.to_bytes(2, "big") + payload == data
