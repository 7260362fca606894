"""Ordinary packets put together to large ones, which the kernel takes by one write(2). Pure.

TCP segments of one flow that follow one another, and differ in their numbers alone, become one
packet with a virtio_net_hdr: the inverse of segmentation. The kernel does not look at the checksum
of each any more. So they are checked here, and what is wrong goes alone, as it is.

Sources: ``tcp_gro_receive`` and ``inet_gro_receive`` of the kernel; section 5.1.6 of the virtio
specification; RFC 791, RFC 8200, RFC 9293, RFC 1071.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tuncer.offload.checksum import NEEDS_CSUM, PLAIN, ones_complement_sum
from tuncer.protocol.frames import ip_header
from tuncer.tunctl import GsoType, VnetHdr

try:
    import numpy as np
except ImportError:  # an extra: without it nothing is put together
    np = None  # type: ignore[assignment]

_TCP, _ACK, _PSH = 6, 0x10, 0x08
_IPV4_HEADER, _IPV6_HEADER, _TCP_HEADER = 20, 40, 20
_LONGEST = 65535  # bytes of an IP packet


def coalesce(packets: Sequence[bytes], *, is_frame: bool = False) -> list[bytes]:
    """Return what to write to a device with offload, in the order of the packets.

    Args:
        packets: whole packets, without a virtio_net_hdr.
        is_frame: whether they are Ethernet frames, for a TAP; otherwise IP packets.

    Returns:
        Packets with a virtio_net_hdr before each: as many, or fewer and larger ones.
    """
    if len(packets) < 2 or np is None:
        return [PLAIN + packet for packet in packets]
    found: list[bytes] = []
    for one in _runs(packets, is_frame=is_frame):
        found += one.frames() if isinstance(one, _Run) else [PLAIN + one]
    return found


def _runs(packets: Sequence[bytes], *, is_frame: bool) -> Iterator[_Run | bytes]:
    """Yield packets that can be put together as a run, and all others one by one."""
    run: _Run | None = None
    for packet in packets:
        if run is not None and run.takes(packet):
            continue
        if run is not None:
            yield run
        layout = _layout(packet, is_frame=is_frame)
        run = None if layout is None else _begun(packet, layout)
        if run is None:
            yield packet
    if run is not None:
        yield run


class _Layout(NamedTuple):
    """Where the headers of a TCP segment lie."""

    network: int
    transport: int
    payload: int

    @property
    def is_v4(self) -> bool:
        """Whether it is of IPv4."""
        return self.transport - self.network == _IPV4_HEADER

    @property
    def addresses(self) -> int:
        """Where the addresses begin, which the checksum covers; the TCP header follows them."""
        return self.network + (12 if self.is_v4 else 8)


class _Fields(NamedTuple):
    """The headers of a segment: what is the same in all of a run, and what is not."""

    link: bytes
    """All before the length: of Ethernet, and the first bytes of IP."""
    length: int
    identification: int
    rest: bytes
    """Of IPv4 fragment, lifetime, protocol; of IPv6 protocol and hop limit."""
    ip_checksum: int
    """Of IPv6, which has none, 0."""
    addresses: bytes
    """And the ports."""
    number: int
    acknowledged: bytes
    """And the length of the header."""
    flags: int
    window: bytes
    checksum: int
    options: bytes


@functools.cache
def _format(layout: _Layout) -> struct.Struct:
    ip = "HH4sH12s" if layout.is_v4 else "H2s36s"
    options = layout.payload - layout.transport - 18
    return struct.Struct(f">{layout.network + (2 if layout.is_v4 else 4)}s{ip}I5sB2sH{options}s")


def _fields(packet: bytes, layout: _Layout) -> _Fields:
    found = _format(layout).unpack_from(packet)
    if layout.is_v4:
        return _Fields._make(found)
    return _Fields._make((*found[:2], 0, found[2], 0, *found[3:]))


@dataclass
class _Run:
    """Segments of a flow that follow one another."""

    layout: _Layout
    first: _Fields
    packets: list[bytes]
    size: int
    """Bytes of the IP packet that they make."""
    expected: int
    """The number of the next one."""
    identification: int
    """Of the last one."""
    flags: int
    """Of all of them."""
    is_full: bool

    def takes(self, packet: bytes) -> bool:
        """Put a packet behind the others, if it follows them; return whether it does."""
        layout, first = self.layout, self.first
        size = len(packet) - layout.payload
        if self.is_full or size <= 0 or self.size + size > _LONGEST:
            return False
        one = _fields(packet, layout)
        if (
            one.number != self.expected
            or size > self.payload_size
            or one.link != first.link
            or one.rest != first.rest
            or one.addresses != first.addresses
            or one.acknowledged != first.acknowledged
            or one.window != first.window
            or one.options != first.options
            or not _is_usual(packet, one, layout)
        ):
            return False
        if layout.is_v4:  # those that are cut again are numbered
            if one.identification != self.identification + 1 & 0xFFFF:
                return False
            self.identification = one.identification
        self.packets.append(packet)
        self.size += size
        self.expected = one.number + size & 0xFFFFFFFF
        self.flags |= one.flags
        self.is_full = size < self.payload_size or bool(one.flags & _PSH)
        return True

    @property
    def payload_size(self) -> int:
        """Bytes of each payload but the last."""
        return len(self.packets[0]) - self.layout.payload

    def frames(self) -> list[bytes]:
        """Return what to write."""
        if len(self.packets) == 1 or not self._has_right_checksums():
            return [PLAIN + packet for packet in self.packets]
        network, transport, payload = self.layout
        head = bytearray(self.packets[0][:payload])
        length = self.size + network - transport  # of header and payload of TCP
        if self.layout.is_v4:
            head[network + 2 : network + 4] = self.size.to_bytes(2, "big")
            head[network + 10 : network + 12] = bytes(2)
            checksum = (65535 - ones_complement_sum(bytes(head[network:transport]))) % 65535
            head[network + 10 : network + 12] = checksum.to_bytes(2, "big")
        else:
            head[network + 4 : network + 6] = length.to_bytes(2, "big")
        head[transport + 13] = self.flags
        addresses = bytes(head[self.layout.addresses : transport])
        pseudo = (ones_complement_sum(addresses) + _TCP + length) % 65535
        head[transport + 16 : transport + 18] = pseudo.to_bytes(2, "big")
        kind = GsoType.TCPV4 if self.layout.is_v4 else GsoType.TCPV6
        header = VnetHdr(NEEDS_CSUM, kind, payload, self.payload_size, transport, 16).pack()
        return [b"".join((header, head, *(packet[payload:] for packet in self.packets)))]

    def _has_right_checksums(self) -> bool:
        """Tell whether all have the checksum of TCP that the kernel would ask of them."""
        begin, length = self.layout.addresses, len(self.packets[0])
        if (length - begin) % 2:
            return all(map(self._has_right_checksum, self.packets))
        same = self.packets if len(self.packets[-1]) == length else self.packets[:-1]
        rows = np.frombuffer(b"".join(same), np.uint8).reshape(len(same), length)
        sums = rows[:, begin:].view(">u2").sum(axis=1, dtype=np.int64)
        if ((sums + _TCP + length - self.layout.transport) % 65535).any():
            return False
        return all(map(self._has_right_checksum, self.packets[len(same) :]))

    def _has_right_checksum(self, packet: bytes) -> bool:
        total = ones_complement_sum(packet[self.layout.addresses :])
        return (total + _TCP + len(packet) - self.layout.transport) % 65535 == 0


def _begun(packet: bytes, layout: _Layout) -> _Run | None:
    """Return a run that begins with a packet, if it is one that can be put together with others."""
    first = _fields(packet, layout)
    if not _is_usual(packet, first, layout):
        return None
    size = len(packet) - layout.payload
    return _Run(
        *(layout, first, [packet], len(packet) - layout.network),
        expected=first.number + size & 0xFFFFFFFF,
        identification=first.identification,
        flags=first.flags,
        is_full=bool(first.flags & _PSH),
    )


def _is_usual(packet: bytes, one: _Fields, layout: _Layout) -> bool:
    """Tell whether there is nothing special about a segment."""
    network, transport, _ = layout
    if one.flags & ~_PSH != _ACK:
        return False
    if not layout.is_v4:
        return transport + one.length == len(packet)
    is_whole = network + one.length == len(packet)
    return is_whole and not ones_complement_sum(packet[network:transport])


def _layout(packet: bytes, *, is_frame: bool) -> _Layout | None:
    """Return where the headers of a TCP segment with a payload lie; None: it is another packet."""
    network = ip_header(packet, is_frame=is_frame)
    if network is None or len(packet) < network + _IPV4_HEADER + _TCP_HEADER:
        return None
    if packet[network] == 0x45:
        fragment = packet[network + 6 : network + 8]
        if packet[network + 9] != _TCP or fragment not in {b"\0\0", b"\x40\0"}:
            return None
        transport = network + _IPV4_HEADER
    elif packet[network] >> 4 == 6 and packet[network + 6] == _TCP:
        transport = network + _IPV6_HEADER
    else:
        return None
    if len(packet) < transport + _TCP_HEADER:
        return None
    payload = transport + (packet[transport + 12] >> 4) * 4
    if not transport + _TCP_HEADER <= payload < len(packet):
        return None
    return _Layout(network, transport, payload)
