"""Packets of a device with offload: what its users send and receive are ordinary packets.

Before each packet that is read from such a device, or written to it, there is a virtio_net_hdr.
"""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Callable, Iterator, Sequence

from tuncer.client.packet_writer import Data, PacketWriter
from tuncer.client.segment_queue import SegmentQueue
from tuncer.client.worker_client import WorkerClient
from tuncer.offload.checksum import PLAIN
from tuncer.offload.ordinary import ordinary
from tuncer.protocol.batch import Batch
from tuncer.tunctl import VnetHdr
from tuncer.tunctl.header import VNET_SIZE


def cutter(*, is_frame: bool) -> Callable[[Batch], tuple[list[Batch], int]]:
    """Return what makes ordinary packets of large ones.

    Args:
        is_frame: whether they are Ethernet frames, of a TAP; otherwise IP packets.

    Raises:
        ImportError: numpy is not installed.
    """
    import tuncer.offload.segmentation  # noqa: F401, PLC0415 - before there are packets to cut

    return functools.partial(ordinary, is_frame=is_frame)


class LargePackets:
    """Sends and receives ordinary packets, for one handle of a device with offload."""

    def __init__(self, name: str, *, is_frame: bool) -> None:
        self._name = name
        self.is_frame = is_frame
        self._queues: dict[WorkerClient, SegmentQueue] = {}
        self._pid = os.getpid()

    # -- sending -----------------------------------------------------------------------------------

    def send(self, writer: PacketWriter, packets: Sequence[Data], *, large: bool) -> int:
        """Write packets to a queue. See ``Device.send``."""
        for frame in self._frames(packets, large=large):
            try:
                writer.write((frame,))
            except OSError as error:
                writer.write(self._split(frame, error))
        return len(packets)

    async def asend(self, writer: PacketWriter, packets: Sequence[Data], *, large: bool) -> int:
        """Write packets to a queue, from asyncio."""
        for frame in self._frames(packets, large=large):
            try:
                await writer.awrite((frame,))
            except OSError as error:
                await writer.awrite(self._split(frame, error))
        return len(packets)

    def _frames(self, packets: Sequence[Data], *, large: bool) -> Iterator[Data]:
        """Yield what to write: packets that are none as they are, for the writer to refuse."""
        if large:
            yield from packets
            return
        right: list[bytes] = []
        for packet in packets:
            if isinstance(packet, (bytes, bytearray, memoryview)) and len(packet):
                right.append(bytes(packet))
            else:
                yield from self._together(right)
                right = []
                yield packet
        yield from self._together(right)

    def _together(self, packets: list[bytes]) -> list[bytes]:
        """Return what to write for packets that are whole."""
        if len(packets) < 2:
            return [PLAIN + packet for packet in packets]
        # Not before it is needed: numpy starts threads.
        from tuncer.offload.coalescing import coalesce  # noqa: PLC0415

        return coalesce(packets, is_frame=self.is_frame)

    def _split(self, frame: Data, error: OSError) -> list[bytes]:
        """Return the segments of a large packet that the kernel has refused.

        Some kernels take no large packet, or not all kinds (torvalds/linux, e269d79c7d35).

        Raises:
            OSError: it is not large, or cannot be cut.
        """
        if error.errno != errno.EINVAL or len(frame) <= VNET_SIZE or not frame[1]:
            raise error
        try:
            from tuncer.offload.segmentation import segment  # noqa: PLC0415 - numpy is an extra

            header = VnetHdr.parse(bytes(frame))
            segments = segment(header.payload, header, is_frame=self.is_frame)
        except (ImportError, ValueError):
            raise error from None
        return [PLAIN + packet for packet in segments.payloads()]

    # -- receiving ---------------------------------------------------------------------------------

    def queue_of(self, worker: WorkerClient) -> SegmentQueue:
        """Return what receives from a worker; in a fork without the parent's segments."""
        if self._pid != os.getpid():
            self._queues, self._pid = {}, os.getpid()
        found = self._queues.get(worker)
        return found or self._queues.setdefault(worker, SegmentQueue(worker, self._cut))

    def _cut(self, packet: bytes) -> list[bytes]:
        """Return the ordinary packets of one that was read.

        Raises:
            OSError: EBADMSG, it cannot be cut.
            ImportError: it is large, and numpy is not installed.
        """
        read = Batch.of([packet], 0, 0, self._name)
        batches, _ = ordinary(read, is_frame=self.is_frame)
        if not batches:
            problem = "a packet is lost: its virtio_net_hdr does not fit it"
            raise OSError(errno.EBADMSG, problem, self._name)
        return [payload for batch in batches for payload in batch.payloads()]
