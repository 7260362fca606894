"""The packet information that precedes a packet when NO_PI was not asked for.

Source: ``struct tun_pi`` of ``linux/if_tun.h``: two 16-bit numbers, the flags in the
host's byte order, the protocol (an EtherType) in network byte order.
"""

import struct
import sys
from typing import NamedTuple

TRUNCATED = 0x0001
"""``TUN_PKT_STRIP``: the buffer was too short for the packet."""

SIZE = 4
"""Bytes of packet information before each packet."""


class TunPi(NamedTuple):
    """Packet information and the packet it stood before."""

    flags: int
    proto: int
    payload: bytes


def header(data: bytes) -> TunPi:
    """Split packet information from the packet.

    Args:
        data: what was read from a device without NO_PI: at least 4 bytes.

    Raises:
        ValueError: fewer than 4 bytes.
    """
    if len(data) < SIZE:
        raise ValueError(f"packet information is {SIZE} bytes long, this is {len(data)}")
    flags = int.from_bytes(data[:2], sys.byteorder)
    (proto,) = struct.unpack_from("!H", data, 2)
    return TunPi(flags, proto, bytes(data[SIZE:]))
