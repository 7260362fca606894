"""What subscribers get of a device with offload: ordinary packets, without a virtio_net_hdr. Pure.

A large packet is cut; a checksum that the kernel has not computed is computed. The segments of a
large packet have its number. A packet whose header is wrong is given up, and counts as lost.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from tuncer.offload.checksum import NEEDS_CSUM, complete
from tuncer.protocol.batch import Batch
from tuncer.protocol.packet import Framing
from tuncer.tunctl import VnetHdr
from tuncer.tunctl.header import VNET_SIZE

_HEADER = struct.Struct("=BBHHHH")


def ordinary(batch: Batch, *, is_frame: bool) -> tuple[list[Batch], int]:
    """Return the ordinary packets of what a device with offload has read.

    Args:
        batch: of packets as the device frames them: each with its virtio_net_hdr.
        is_frame: whether they are Ethernet frames, of a TAP; otherwise IP packets.

    Returns:
        Batches, each without a gap; and how many packets at the end were given up.

    Raises:
        ImportError: there is a large packet, and numpy is not installed.
    """
    data, offsets, lengths = batch.data, batch.offsets, batch.lengths
    if min(lengths) < VNET_SIZE:
        headers: list[tuple[int, ...]] = [
            _HEADER.unpack_from(data, offset) if length >= VNET_SIZE else (0, 0xFF, 0, 0, 0, 0)
            for offset, length in zip(offsets, lengths, strict=True)
        ]
    else:
        headers = [_HEADER.unpack_from(data, offset) for offset in offsets]
    if not any(flags & NEEDS_CSUM or kind for flags, kind, *_ in headers):
        begins = [offset + VNET_SIZE for offset in offsets]
        sizes = [length - VNET_SIZE for length in lengths]
        places = (data, begins, sizes, batch.seq, batch.timestamps)
        framing = Framing(is_frame)
        return [Batch(*places, batch.device, batch.lost, batch.queue, framing=framing)], 0
    found: list[Batch] = []
    part = _Part(batch.lost)
    view = memoryview(data)
    for number, header in enumerate(headers):
        begin, end = offsets[number] + VNET_SIZE, offsets[number] + lengths[number]
        try:
            part.add(view[begin:end], header, batch.seq + number, is_frame=is_frame)
        except ValueError:
            found += part.batch(batch, is_frame=is_frame)
            part = _Part(1 if part.numbers else part.lost + 1)
    if part.numbers:
        return [*found, *part.batch(batch, is_frame=is_frame)], 0
    return found, part.lost


@dataclass
class _Part:
    """Ordinary packets without a gap between them."""

    lost: int
    pieces: list[bytes | memoryview] = field(default_factory=list)
    size: int = 0
    begins: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)

    def add(self, packet: memoryview, header: Sequence[int], seq: int, *, is_frame: bool) -> None:
        """Add what the kernel has handed out as one packet.

        Raises:
            ValueError: its header is wrong.
        """
        flags, kind = header[:2]
        if kind:
            from tuncer.offload.segmentation import segment  # noqa: PLC0415 - numpy is an extra

            segments = segment(packet, VnetHdr._make((*header, b"")), is_frame=is_frame)
            ends = self.size + len(segments.memory)
            self.begins += range(self.size, ends, segments.distance)
            self.lengths += segments.lengths
            self.numbers += [seq] * len(segments.lengths)
            self.pieces.append(segments.memory)
            self.size = ends
            return
        piece = complete(packet, VnetHdr._make((*header, b""))) if flags & NEEDS_CSUM else packet
        if not piece:
            raise ValueError("an empty packet")
        self.begins.append(self.size)
        self.lengths.append(len(piece))
        self.numbers.append(seq)
        self.pieces.append(piece)
        self.size += len(piece)

    def batch(self, of: Batch, *, is_frame: bool) -> list[Batch]:
        """Return them as a batch, if there are any."""
        if not self.numbers:
            return []
        times = [of.timestamps[number - of.seq] for number in self.numbers]
        data = b"".join(self.pieces)
        places = (data, self.begins, self.lengths, self.numbers[0], times)
        fields = (of.device, self.lost, of.queue)
        return [Batch(*places, *fields, numbers=self.numbers, framing=Framing(is_frame))]
