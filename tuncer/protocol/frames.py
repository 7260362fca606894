"""Where the headers of a packet begin. Pure.

Sources: RFC 791, RFC 8200, IEEE 802.3 and 802.1Q.
"""

from __future__ import annotations

ARP, IPV4, IPV6 = 0x0806, 0x0800, 0x86DD
ETHERNET = 14
"""Bytes of an Ethernet header, without VLAN tags."""
_TAG = 4
_TAGS = (0x8100, 0x88A8)


def inside(frame: bytes | bytearray | memoryview, start: int = 0) -> tuple[int, int]:
    """Return the EtherType of an Ethernet frame, behind its VLAN tags; and where its payload is.

    Args:
        frame: of 14 bytes at least.
        start: where it begins.
    """
    begins, kind = start + ETHERNET, int.from_bytes(frame[start + 12 : start + 14], "big")
    while kind in _TAGS:
        kind = int.from_bytes(frame[begins + 2 : begins + 4], "big")
        begins += _TAG
    return kind, begins


def ip_header(packet: bytes | bytearray | memoryview, *, is_frame: bool) -> int | None:
    """Return where the IP header of a packet begins; None: it is no IP packet.

    Args:
        packet: of any length.
        is_frame: whether it is an Ethernet frame.
    """
    start = 0
    if is_frame:
        if len(packet) < ETHERNET:
            return None
        kind, start = inside(packet)
        if kind not in {IPV4, IPV6}:
            return None
    if len(packet) <= start or packet[start] >> 4 not in {4, 6}:
        return None
    return start
