"""Packets of tests, with checksums by the plain rule of RFC 1071; and what is wrong with others."""

import struct
from ipaddress import IPv4Address, ip_address
from typing import Any

from tuncer import GsoType, Packet, VnetHdr
from tuncer.protocol.packet import Framing, packet_class

ETHERNET = bytes.fromhex("020000000001020000000002")
SYN, ACK, PSH, FIN, ECE, CWR = 0x02, 0x10, 0x08, 0x01, 0x40, 0x80


def made(data: Any, *, is_frame: bool = False, start: int = 0) -> Packet:
    """Return a packet of a device that frames packets so."""
    kind = packet_class(Framing(is_frame, start))
    return kind(bytes(start) + bytes(data), 0, 0, "lab0")


def checksum(data: bytes) -> int:
    """Return the checksum of RFC 1071, by adding pairs of bytes one after the other."""
    total = 0
    for (word,) in struct.iter_unpack("!H", data + b"\0" * (len(data) % 2)):
        total += word
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def tcp(
    payload: bytes,
    *,
    number: int = 1,
    flags: int = ACK,
    options: bytes = b"",
    ports: tuple[int, int] = (1000, 2000),
) -> bytes:
    """Return a TCP segment without a checksum."""
    offset = (20 + len(options)) // 4 << 4
    head = struct.pack("!HHIIBBHHH", *ports, number, 7, offset, flags, 512, 0, 0)
    return head + options + payload


def udp(payload: bytes) -> bytes:
    """Return a UDP datagram without a checksum."""
    return struct.pack("!HHHH", 1000, 2000, 8 + len(payload), 0) + payload


def ip(
    inner: bytes,
    source: str = "10.9.0.2",
    target: str = "10.9.0.1",
    *,
    protocol: int = 6,
    identification: int = 7,
    fragment: int = 0x4000,
    lifetime: int = 64,
    partial: bool = False,
) -> bytes:
    """Return an IP packet of a TCP segment or a UDP datagram, with right checksums.

    With ``partial`` the inner checksum is the sum of the pseudo-header alone, as offload has it.
    """
    addresses = ip_address(source).packed + ip_address(target).packed
    pseudo = addresses + struct.pack("!HH", protocol, len(inner))
    field = 16 if protocol == 6 else 6
    found = ~checksum(pseudo) & 0xFFFF if partial else checksum(pseudo + inner)
    if protocol == 17 and not partial and found == 0:
        found = 0xFFFF
    inner = inner[:field] + found.to_bytes(2, "big") + inner[field + 2 :]
    if not isinstance(ip_address(source), IPv4Address):
        return struct.pack("!IHBB", 6 << 28, len(inner), protocol, lifetime) + addresses + inner
    fields = (0x45, 0, 20 + len(inner), identification, fragment, lifetime, protocol)
    head = struct.pack("!BBHHHBBH", *fields, 0) + addresses
    return head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + inner


def frame(packet: bytes, tags: int = 0) -> bytes:
    """Return an Ethernet frame of an IP packet, with VLAN tags."""
    kind = b"\x08\0" if packet[0] >> 4 == 4 else b"\x86\xdd"
    return ETHERNET + b"\x81\0\0\5" * tags + kind + packet


def problems(packet: bytes, start: int = 0) -> list[str]:
    """Return what is wrong with an IP packet of TCP or UDP that begins at an offset."""
    data, found = packet[start:], []
    if data[0] >> 4 == 4:
        head, addresses, protocol = (data[0] & 15) * 4, data[12:20], data[9]
        if checksum(data[:head]):
            found.append("the checksum of its IP header")
        if int.from_bytes(data[2:4], "big") != len(data):
            found.append("its total length")
    else:
        head, addresses, protocol = 40, data[8:40], data[6]
        if int.from_bytes(data[4:6], "big") != len(data) - 40:
            found.append("its payload length")
    inner = data[head:]
    if checksum(addresses + struct.pack("!HH", protocol, len(inner)) + inner):
        found.append("its checksum")
    if protocol == 17 and int.from_bytes(inner[4:6], "big") != len(inner):
        found.append("its UDP length")
    if protocol == 17 and inner[6:8] == b"\0\0":
        found.append("no UDP checksum")
    return found


def large_tcp(
    size: int, gso_size: int, *, flags: int = ACK, version: int = 4, options: bytes = b"", **of: int
) -> tuple[bytes, VnetHdr]:
    """Return a TCP packet that is to be cut, and its virtio_net_hdr."""
    payload = bytes(number * 7 % 251 for number in range(size))
    source, target = ("10.9.0.2", "10.9.0.1") if version == 4 else ("fd00::2", "fd00::1")
    inner = tcp(payload, flags=flags, options=options, number=of.pop("number", 1))
    packet = ip(inner, source, target, partial=True, **of)
    start = 20 if version == 4 else 40
    kind = GsoType.TCPV4 if version == 4 else GsoType.TCPV6
    return packet, VnetHdr(1, kind, start + 20 + len(options), gso_size, start, 16)


def large_udp(size: int, gso_size: int, *, version: int = 4) -> tuple[bytes, VnetHdr]:
    """Return a UDP packet that is to be cut, and its virtio_net_hdr."""
    source, target = ("10.9.0.2", "10.9.0.1") if version == 4 else ("fd00::2", "fd00::1")
    inner = udp(bytes(number * 7 % 251 for number in range(size)))
    packet = ip(inner, source, target, protocol=17, partial=True)
    start = 20 if version == 4 else 40
    return packet, VnetHdr(1, GsoType.UDP_L4, start + 8, gso_size, start, 6)


def shifted(header: VnetHdr, bytes_before: int) -> VnetHdr:
    """Return the header of a packet that has more bytes before it: an Ethernet header."""
    return header._replace(csum_start=header.csum_start + bytes_before)
