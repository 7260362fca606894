"""A subscription that reads the ring: for processes on the device's host."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

from tuncer.client.queue_subscription import QueueSubscription
from tuncer.protocol import control_socket
from tuncer.protocol.batch import Batch
from tuncer.protocol.control_socket import PATIENCE
from tuncer.protocol.packet import DeviceError, Packet
from tuncer.protocol.ring import BATCH
from tuncer.protocol.ring_reader import RingReader
from tuncer.protocol.subscriber_handshake import ACKNOWLEDGED, DROPPED, SUBSCRIBE

_ALIVE = 1.0  # seconds after which a lossless subscription that reads slowly tells that it does
_PART = 16  # of the ring, after which a lossless subscription acknowledges what it has read


Cut: TypeAlias = Callable[[Batch], tuple[list[Batch], int]]
"""Makes ordinary packets of large ones, as ``offload.ordinary`` does."""


class RingSubscription(QueueSubscription):
    """Reads the ring: for processes on the device's host."""

    def __init__(
        self,
        path: Path,
        device: str,
        *,
        batch: int | None,
        events: bool,
        queue: int = 0,
        is_lossless: bool = False,
        hold_timeout: float | None = None,
        cut: Cut | None = None,
    ) -> None:
        answer, fds, channel = control_socket.request(
            *(path, device, SUBSCRIBE, events, is_lossless, hold_timeout),
            timeout=PATIENCE,
            descriptors=2,
        )
        ring_fd, wakeup_fd = fds
        try:
            self._ring: RingReader | None = RingReader(ring_fd)
        except BaseException:  # this process may not map so much memory
            channel.close()
            os.close(wakeup_fd)
            raise
        finally:
            os.close(ring_fd)
        self._uncounted = 0
        super().__init__(device, channel, wakeup_fd, batch=batch, events=events, queue=queue)
        self._seq, self._event_seq = answer[1:]
        self._begin = self._position = self._seq  # of the next packet that is taken from the ring
        self._cut = cut
        self._parts: deque[Batch] = deque()  # of large packets, which were taken and cut
        self._is_lossless = is_lossless
        self._acknowledged = self._seq
        self._bytes_since = 0  # bytes of packets that were taken since the last acknowledgement
        self._acknowledge_at = time.monotonic() + _ALIVE

    @property
    def ring_mark(self) -> int:
        """A number by which the device's present log is known: a new device has another one."""
        return 0 if self._ring is None else self._ring.control.mark

    @property
    def next_seq(self) -> int:
        """The number of the next packet."""
        return self._seq

    @property
    def head(self) -> int:
        """The number of the next packet that the device will read."""
        return self._seq if self._ring is None else self._ring.control.head

    def go_back(self, seq: int) -> None:
        """Go on at an earlier packet, which a former process of this reader has not done with.

        What the log does not have any more is counted as lost.
        """
        self._begin = self._position = self._seq = seq

    def _clear_wakeup(self) -> None:
        if self._ring is not None:  # after close the number may be anybody's
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wakeup_fd)

    def _counted_events(self) -> int:
        return self._event_seq if self._ring is None else self._ring.control.events

    def _may_have_events(self) -> bool:
        # The worker counts an event before it reads a packet behind it. The packets were seen
        # first: so this counts every event before them.
        return self._counted_events() != self._event_seq

    def _unannounced_end(self) -> DeviceError | EOFError:
        number = None if self._ring is None else self._ring.control.ended
        if number is None:
            return super()._unannounced_end()
        return DeviceError(number, os.strerror(number), self._device) if number else self._over()

    def _is_behind(self) -> bool:
        if self._ring is None:
            return False
        return bool(self._parts) or self._position < self._ring.control.head

    def _take_packets(self) -> Batch | None:
        if self._ring is None:
            return None
        while not self._parts:
            batch = self._take(self._ring)
            if batch is None or self._cut is None:
                self._seq = self._position
                return batch
            self._take_parts(batch, self._cut)
        part = self._parts.popleft()
        self._seq = part.seqs[-1] + 1 if self._parts else self._position
        return part

    def _take(self, ring: RingReader) -> Batch | None:
        """Take the next packets as the device frames them; count the lost ones.

        A lossless subscription takes those that follow, or none: if they are not there any more,
        the worker has ended it.
        """
        most, before = BATCH, self._uncounted
        if self._log_end is not None and self._is_lossless:
            most = min(most, self._log_end - self._position)
            if most <= 0:
                return None
        batch, seq, uncounted = ring.take(
            self._position, self._device, lost=before, queue=self._queue, most=most
        )
        lost = uncounted - before + (0 if batch is None else batch.lost)
        if lost and self._is_lossless:
            self._was_dropped(ring)
            return None
        self._position, self._uncounted = seq, uncounted
        self._lost += lost
        if batch is not None and self._is_lossless:
            self._note_taken(ring, len(batch.data))
        return batch

    # -- offload -----------------------------------------------------------------------------------

    def _take_parts(self, batch: Batch, cut: Cut) -> None:
        """Make ordinary packets of large ones; those that cannot be cut are lost."""
        parts, lost = cut(batch)
        self._parts.extend(parts)
        self._uncounted += lost  # the next part tells
        self._lost += len(batch) - sum(map(_packets_read, parts))

    def stats(self) -> dict[str, int]:
        """Return how many packets were ``delivered`` and how many were ``lost``.

        Large packets count once, however many segments they were cut into; ``segments`` are the
        packets that were delivered.
        """
        if self._cut is None:
            return super().stats()
        pending = sum(_packets_read(item) for item in self._ready if isinstance(item, Batch))
        rest = self._taken - self._delivered
        if rest and self._current is not None:
            seqs = self._current.seqs
            pending += seqs[-1] - (seqs[-rest - 1] if rest < len(seqs) else seqs[0] - 1)
        delivered = self._seq - self._begin - self._lost - pending
        return {"delivered": delivered, "lost": self._lost, "segments": self._delivered}

    # -- flow control of a lossless subscription ---------------------------------------------------

    def _one_by_one(self, batch: Batch) -> Iterator[Packet]:
        return self._alive(batch) if self._is_lossless else iter(batch)

    def _alive(self, batch: Batch) -> Iterator[Packet]:
        """Yield the packets of a batch; between them tell the worker that they are being read."""
        for packet in batch:
            self._show_life()
            yield packet

    def _show_life(self) -> None:
        """Acknowledge once a second at most, so as not to look like one that is stopped."""
        if self._is_lossless and time.monotonic() >= self._acknowledge_at:
            self._acknowledge()

    def _note_taken(self, ring: RingReader, size: int) -> None:
        """Acknowledge, if it is due, packets that were taken, and their bytes."""
        self._bytes_since += size
        is_due = self._position - self._acknowledged >= ring.packets // _PART
        if is_due or self._bytes_since >= ring.size // _PART:
            self._acknowledge()

    def _acknowledge(self) -> None:
        """Tell the worker what may be overwritten.

        If there is no room for it the next acknowledgement tells it: the worker has many to read.
        """
        if self._is_lossless and self._channel.offer(ACKNOWLEDGED, self._position):
            self._acknowledged, self._bytes_since = self._position, 0
            self._acknowledge_at = time.monotonic() + _ALIVE

    def _was_dropped(self, ring: RingReader) -> None:
        """Count what this subscription held the worker back for, until that has ended it."""
        self._read_control()
        if self._end is None:  # there was no room to tell it
            self._end = DeviceError(errno.ETIMEDOUT, DROPPED, self._device)
        end = ring.control.head if self._log_end is None else self._log_end
        end = max(end, self._position)  # it may have read some more before it was told
        self._lost += end - self._position
        self._log_end = self._position = end

    def close(self) -> None:
        """End the subscription; the device goes on."""
        if self._ring is not None:
            self._ring.close()
            self._ring = None
            os.close(self._wakeup_fd)
            super().close()


def _packets_read(batch: Batch) -> int:
    """Return of how many packets that the worker has read these are: segments count once."""
    return batch.seqs[-1] + 1 - batch.seq
