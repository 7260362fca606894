"""What precedes a packet: packet information without NO_PI, then a virtio_net_hdr with VNET_HDR.

Sources: ``struct tun_pi`` of ``linux/if_tun.h``: two 16-bit numbers, the flags in the host's
byte order, the protocol (an EtherType) in network byte order. ``struct virtio_net_hdr`` of
``linux/virtio_net.h``, section 5.1.6 of the virtio specification; in the host's byte order,
unless TUNSETVNETLE or TUNSETVNETBE was used.
"""

import enum
import struct
import sys
from typing import NamedTuple, Self

TRUNCATED = 0x0001
"""``TUN_PKT_STRIP``: the buffer was too short for the packet."""

SIZE = 4
"""Bytes of packet information before each packet."""

VNET_SIZE = 10
"""Bytes of a virtio_net_hdr, unless ``vnet_hdr_size`` has set more."""

_VNET = struct.Struct("=BBHHHH")


class Protocol(enum.IntEnum):
    """EtherTypes of ``linux/if_ether.h`` that packet information most often tells."""

    IPV4 = 0x0800
    ARP = 0x0806
    VLAN = 0x8100
    IPV6 = 0x86DD
    MPLS = 0x8847


class TunPi(NamedTuple):
    """Packet information and the packet it stood before."""

    flags: int
    proto: int
    """A ``Protocol`` where it is one of these, otherwise the bare number."""
    payload: bytes

    def pack(self) -> bytes:
        """Return what to write to a device without NO_PI: the information, then the packet.

        Raises:
            ValueError: a number of more than 16 bits.
        """
        if not all(0 <= number < 1 << 16 for number in self[:2]):
            raise ValueError(f"flags and protocol are numbers of 16 bits, not {self[:2]}")
        head = self.flags.to_bytes(2, sys.byteorder) + self.proto.to_bytes(2, "big")
        return head + self.payload


class GsoType(enum.IntEnum):
    """``VIRTIO_NET_HDR_GSO_*``: how a packet is to be cut. ECN (0x80) may be added to TCP's."""

    NONE = 0
    TCPV4 = 1
    UDP = 3
    TCPV6 = 4
    UDP_L4 = 5


class VnetHdr(NamedTuple):
    """A virtio_net_hdr and the packet it stood before."""

    flags: int = 0
    """1: the checksum at ``csum_start`` is to be completed; 2: it was verified."""
    gso_type: int = GsoType.NONE
    hdr_len: int = 0
    """Bytes of headers, a hint: not to be trusted on forwarded packets."""
    gso_size: int = 0
    """Bytes of payload that each segment gets."""
    csum_start: int = 0
    """Where the sum begins, in bytes from the packet's start."""
    csum_offset: int = 0
    """Where the sum is to be stored, in bytes from ``csum_start``."""
    payload: bytes = b""

    def pack(self, size: int = VNET_SIZE) -> bytes:
        """Return what to write to a device with VNET_HDR: the header, then the packet.

        Args:
            size: bytes of the header, as ``vnet_hdr_size`` tells.

        Raises:
            ValueError: a number that its field has no room for, or fewer than 10 bytes.
        """
        if size < VNET_SIZE:
            raise ValueError(f"a virtio_net_hdr has {VNET_SIZE} bytes or more, not {size}")
        try:
            return _VNET.pack(*self[:6]).ljust(size, b"\0") + self.payload
        except struct.error as error:
            raise ValueError(f"no virtio_net_hdr: {error}: {self[:6]}") from None

    @classmethod
    def parse(cls, data: bytes, size: int = VNET_SIZE) -> Self:
        """Split a virtio_net_hdr from the packet.

        Args:
            data: what was read from a device with VNET_HDR and NO_PI.
            size: bytes of the header, as ``vnet_hdr_size`` tells.

        Raises:
            ValueError: fewer bytes than a header has.
        """
        _check_bytes(data, "a virtio_net_hdr")
        if size < VNET_SIZE or len(data) < size:
            needed = max(size, VNET_SIZE)
            raise ValueError(f"a virtio_net_hdr has {needed} bytes or more, this is {len(data)}")
        return cls(*_VNET.unpack_from(data))._replace(payload=bytes(data[size:]))


def _check_bytes(data: object, what: str) -> None:
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(f"{what} is bytes, not {type(data).__name__}")


def header(data: bytes) -> TunPi:
    """Split packet information from the packet.

    Args:
        data: what was read from a device without NO_PI: at least 4 bytes.

    Raises:
        ValueError: fewer than 4 bytes.
    """
    _check_bytes(data, "packet information")
    if len(data) < SIZE:
        raise ValueError(f"packet information is {SIZE} bytes long, this is {len(data)}")
    flags = int.from_bytes(data[:2], sys.byteorder)
    (number,) = struct.unpack_from("!H", data, 2)
    known = number in Protocol._value2member_map_
    return TunPi(flags, Protocol(number) if known else number, bytes(data[SIZE:]))
