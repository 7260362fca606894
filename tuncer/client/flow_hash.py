"""The flow of a packet, for choosing a queue: both directions of a connection have the same. Pure.

Sources: RFC 791, RFC 8200, IEEE 802.3 and 802.1Q; the ports are of TCP, UDP, SCTP and DCCP.
"""

from __future__ import annotations

from tuncer.client.packet_writer import Data
from tuncer.protocol.frames import ETHERNET, IPV4, IPV6, inside

_WITH_PORTS = {6, 17, 33, 132}
_MULTIPLIER = 0x9E3779B97F4A7C15  # 2 ** 64 divided by the golden ratio: Knuth's hash


def of_packet(packet: Data, start: int = 0) -> int:
    """Return a number of the flow of an IP packet that begins at an offset; 0 of what is none."""
    if len(packet) < start + 20:
        return 0
    version = packet[start] >> 4
    if version == 4:
        protocol = packet[start + 9]
        addresses, size = start + 12, 4
        ports = start + (packet[start] & 0xF) * 4
        if (packet[start + 6] & 0x3F) | packet[start + 7]:  # of a fragment only the first has any
            protocol = 0
    elif version == 6 and len(packet) >= start + 40:
        protocol = packet[start + 6]
        addresses, size = start + 8, 16
        ports = start + 40
    else:
        return 0
    middle = addresses + size
    flow = int.from_bytes(packet[addresses:middle], "big")
    flow ^= int.from_bytes(packet[middle : middle + size], "big")
    if protocol in _WITH_PORTS and len(packet) >= ports + 4:
        both = int.from_bytes(packet[ports : ports + 2], "big")
        both ^= int.from_bytes(packet[ports + 2 : ports + 4], "big")
        flow = flow << 16 | both
    return flow + 1


def of_frame(frame: Data, start: int = 0) -> int:
    """Return a number of the flow of an Ethernet frame; of what has no IP in it, of its MACs."""
    if len(frame) < start + ETHERNET:
        return 0
    kind, begins = inside(frame, start)
    if kind in {IPV4, IPV6}:
        return of_packet(frame, begins)
    there = int.from_bytes(frame[start : start + 6], "big")
    return there ^ int.from_bytes(frame[start + 6 : start + 12], "big")


def choose(flow: int, queues: int) -> int:
    """Return one of so many queues for a flow."""
    return (flow % 0xFFFFFFFFFFFFFFC5 * _MULTIPLIER & 0xFFFFFFFFFFFFFFFF) * queues >> 64
