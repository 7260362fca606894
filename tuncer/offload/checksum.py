"""Checksums of packets that the kernel hands out without one. Pure.

Sources: RFC 1071; RFC 768 (0 means no checksum); section 5.1.6 of the virtio specification.
"""

from __future__ import annotations

from tuncer.tunctl import VnetHdr
from tuncer.tunctl.header import VNET_SIZE

NEEDS_CSUM = 1
"""``VIRTIO_NET_HDR_F_NEEDS_CSUM``: the checksum is still to be computed."""
PLAIN = bytes(VNET_SIZE)
"""The virtio_net_hdr of a packet that is whole."""


def complete(packet: bytes | memoryview, header: VnetHdr) -> bytes:
    """Return a packet with the checksum that the kernel has left to whoever sends it.

    The field of the checksum has the sum of the pseudo-header already.

    Args:
        packet: without its virtio_net_hdr.
        header: its virtio_net_hdr, of which the ``payload`` is not used.

    Raises:
        ValueError: the field lies outside of the packet.
    """
    start, field = header.csum_start, header.csum_start + header.csum_offset
    if field + 2 > len(packet):
        raise ValueError(f"a checksum at byte {field}, in a packet of {len(packet)} bytes")
    # Of the two zeros 65535: a UDP checksum of 0 means that there is none.
    checksum = 65535 - ones_complement_sum(packet[start:])
    return b"".join((packet[:field], checksum.to_bytes(2, "big"), packet[field + 2 :]))


def ones_complement_sum(data: bytes | memoryview) -> int:
    """Return the sum of pairs of bytes of RFC 1071, not complemented; of the two zeros 0."""
    if len(data) % 2:
        data = bytes(data) + b"\0"
    return int.from_bytes(data, "big") % 65535
