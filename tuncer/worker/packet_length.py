"""How long a packet is, by what it says itself. Pure.

Used for the one packet that a killed worker had read without having stored its length, if the
kernel's counters do not tell: another process reads the device, too.
Sources: RFC 791 (total length), RFC 8200 (payload length), RFC 826 (ARP), IEEE 802.1Q.
"""

from __future__ import annotations

from tuncer.protocol.frames import ARP, IPV4, IPV6, inside

_ARP = 28  # bytes, for Ethernet and IPv4


def ip_length(packet: memoryview) -> int | None:
    """Return the bytes of an IP packet, or None if it is none, or a jumbogram."""
    version = packet[0] >> 4
    if version == 4:
        return int.from_bytes(packet[2:4], "big") or None
    if version == 6:
        payload = int.from_bytes(packet[4:6], "big")
        return 40 + payload if payload or packet[6] != 0 else None
    return None


def frame_length(frame: memoryview) -> int | None:
    """Return the bytes of an Ethernet frame of IP or ARP, or None if it carries anything else.

    Padding, which nothing in a frame tells of, is not counted.
    """
    kind, start = inside(frame)
    if kind == ARP:
        return start + _ARP
    if kind in {IPV4, IPV6}:
        length = ip_length(frame[start:])
        return None if length is None else start + length
    return None
