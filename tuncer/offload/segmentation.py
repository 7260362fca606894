"""Large packets cut into ordinary ones, as the kernel cuts them. Pure.

With offload the kernel hands out TCP and UDP packets of up to 64 KiB (GSO). A virtio_net_hdr before
each tells how it is to be cut. It is not trusted: what it says is checked against the packet. Its
``hdr_len`` is not used, since it is wrong on forwarded packets.

Sources: section 5.1.6 of the virtio specification; RFC 791, RFC 8200, RFC 9293, RFC 768, RFC 1071;
``tcp_gso_segment``, ``__udp_gso_segment`` and ``inet_gso_segment`` of the kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from tuncer.offload.checksum import NEEDS_CSUM
from tuncer.protocol.frames import ip_header
from tuncer.tunctl import GsoType, VnetHdr

try:
    import numpy as np
    from numpy.typing import NDArray
except ImportError as error:
    raise ImportError(
        "large packets are cut by numpy, which is not installed: pip install 'tuncer[offload]', or"
        " subscribe with large=True"
    ) from error

ECN = 0x80
"""``VIRTIO_NET_HDR_GSO_ECN``, added to a type of TCP's."""
MOST_BYTES = 4 << 20
"""What a packet is cut to, at most: tiny segments with large headers would fill the memory."""

_LONGEST = 65535  # bytes of an IP packet
_TCP_HEADER, _UDP_HEADER = 20, 8
_FIN_AND_PSH, _CWR = 0x09, 0x80
_CHECKSUM_AT = {GsoType.TCPV4: 16, GsoType.TCPV6: 16, GsoType.UDP_L4: 6}
_VERSIONS = {GsoType.TCPV4: (4,), GsoType.TCPV6: (6,), GsoType.UDP_L4: (4, 6)}


@dataclass(frozen=True)
class Segments:
    """Packets in one piece of memory, at equal distances."""

    memory: memoryview
    distance: int
    lengths: list[int]

    def payloads(self) -> list[bytes]:
        """Return the bytes of each."""
        starts = range(0, len(self.memory), self.distance)
        places = zip(starts, self.lengths, strict=True)
        return [bytes(self.memory[start : start + length]) for start, length in places]


@dataclass(frozen=True)
class _Layout:
    """Where the parts of a packet lie."""

    network: int
    version: int
    transport: int
    is_tcp: bool
    payload: int


def segment(packet: bytes | memoryview, header: VnetHdr, *, is_frame: bool = False) -> Segments:
    """Cut a large packet.

    Args:
        packet: without its virtio_net_hdr.
        header: its virtio_net_hdr, of which the ``payload`` is not used.
        is_frame: whether it is an Ethernet frame, of a TAP; otherwise an IP packet.

    Returns:
        Packets that have right lengths, IP identifications, flags, numbers and checksums.

    Raises:
        ValueError: the header and the packet do not belong together, or this kind cannot be cut.
    """
    where = _layout(packet, header, is_frame=is_frame)
    size, head = header.gso_size, where.payload
    payload = np.frombuffer(packet, np.uint8)[head:]
    count = -(-len(payload) // size)
    width = head + size + 1 & -2  # even: checksums are sums of pairs of bytes
    longest = head + min(size, len(payload)) - where.network
    if count * width > MOST_BYTES or longest > _LONGEST:
        raise ValueError(f"{count} segments of {head} bytes of headers and {size} of payload")
    # The last row, and the last column of an odd size, may not be filled.
    rows = np.zeros((count, width), np.uint8)
    rows[:, :head] = np.frombuffer(packet, np.uint8, head)
    full = len(payload) // size
    rows[:full, head : head + size] = payload[: full * size].reshape(full, size)
    if full < count:
        rows[full, head : head + len(payload) - full * size] = payload[full * size :]
    lengths = np.full(count, head + size)
    lengths[-1] = head + len(payload) - (count - 1) * size
    _write_network_header(rows, where, lengths)
    _write_transport_header(rows, where, lengths, size)
    _write_checksum(rows, where, lengths - len(packet))
    return Segments(rows.reshape(-1).data, width, lengths.tolist())


def _layout(packet: bytes | memoryview, header: VnetHdr, *, is_frame: bool) -> _Layout:
    kind = header.gso_type & ~ECN
    if kind not in _CHECKSUM_AT or not header.flags & NEEDS_CSUM:
        raise ValueError(f"packets of GSO type {header.gso_type:#x} cannot be cut")
    network = ip_header(packet, is_frame=is_frame)
    if network is None:
        raise ValueError("what is no IP packet cannot be cut")
    version = packet[network] >> 4
    start, is_tcp = header.csum_start, kind != GsoType.UDP_L4
    shortest = start + (_TCP_HEADER if is_tcp else _UDP_HEADER)
    if version not in _VERSIONS[GsoType(kind)] or header.csum_offset != _CHECKSUM_AT[GsoType(kind)]:
        raise ValueError(f"an IP packet of version {version} that is to be cut as {header[:6]}")
    if len(packet) < shortest or start % 2 or start < network + _shortest_header(packet, network):
        raise ValueError(f"headers of {start} bytes and more, in a packet of {len(packet)}")
    payload = start + (packet[start + 12] >> 4) * 4 if is_tcp else shortest
    if payload < shortest or payload >= len(packet) or not header.gso_size:
        raise ValueError(f"no payload behind {payload} bytes, or no size of segments")
    return _Layout(network, version, start, is_tcp, payload)


def _shortest_header(packet: bytes | memoryview, network: int) -> int:
    """Return the least number of bytes of an IP header."""
    return max(20, (packet[network] & 0xF) * 4) if packet[network] >> 4 == 4 else 40


def _write_network_header(
    rows: NDArray[np.uint8], where: _Layout, lengths: NDArray[np.int64]
) -> None:
    words: Any = rows.view(">u2")
    ip = where.network // 2
    if where.version == 6:
        words[:, ip + 2] = lengths - where.network - 40  # the payload's length
        return
    words[:, ip + 1] = lengths - where.network  # the total length
    words[:, ip + 2] = _counted(int(words[0, ip + 2]), len(rows)) & 0xFFFF  # the identification
    words[:, ip + 5] = 0
    header = rows[:, where.network : where.network + (rows[0, where.network] & 0xF) * 4]
    rows.view("u2")[:, ip + 5] = _complement(_sums(header))


def _write_transport_header(
    rows: NDArray[np.uint8], where: _Layout, lengths: NDArray[np.int64], size: int
) -> None:
    words: Any = rows.view(">u2")
    start = where.transport // 2
    if not where.is_tcp:
        words[:, start + 2] = lengths - where.transport
        return
    number = int(words[0, start + 2]) << 16 | int(words[0, start + 3])
    numbers = _counted(number, len(rows), size)
    words[:, start + 2] = numbers >> 16 & 0xFFFF
    words[:, start + 3] = numbers & 0xFFFF
    rows[:-1, where.transport + 13] &= 0xFF & ~_FIN_AND_PSH
    rows[1:, where.transport + 13] &= 0xFF & ~_CWR


def _write_checksum(
    rows: NDArray[np.uint8], where: _Layout, differences: NDArray[np.int64]
) -> None:
    """Complete the checksum, of which the field has the sum of the large packet's pseudo-header.

    The length in the pseudo-header differs.
    """
    delta = (differences % 65535).astype(">u2").view("u2")
    checksums = _complement(_sums(rows[:, where.transport :]) + delta)
    if not where.is_tcp:
        checksums[checksums == 0] = 0xFFFF  # 0 means that there is none: RFC 768
    field = where.transport // 2 + (8 if where.is_tcp else 3)
    rows.view("u2")[:, field] = checksums


def _counted(first: int, count: int, step: int = 1) -> NDArray[np.int64]:
    return first + step * np.arange(count)


def _sums(rows: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the sums of RFC 1071 of rows of an even number of bytes.

    In the host's byte order: the sum has it, too.
    """
    return cast("NDArray[np.int64]", rows.view("u2").sum(axis=1, dtype=np.int64))


def _complement(sums: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the checksums: as the kernel does, of the two zeros 0."""
    return (65535 - sums % 65535) % 65535
