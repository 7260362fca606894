"""A subscription that reads the ring: for processes on the device's host."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from tuncer.client.queue_subscription import QueueSubscription
from tuncer.protocol import control_socket
from tuncer.protocol.batch import Batch
from tuncer.protocol.control_socket import PATIENCE
from tuncer.protocol.packet import DeviceError
from tuncer.protocol.ring import BATCH
from tuncer.protocol.ring_reader import RingReader
from tuncer.protocol.subscriber_handshake import ACKNOWLEDGED, DROPPED, SUBSCRIBE

_PART = 16  # of the ring, after which a lossless subscription acknowledges what it has read


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
        self._is_lossless = is_lossless
        self._acknowledged = self._seq
        self._bytes_since = 0  # bytes of packets that were taken since the last acknowledgement

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
        return self._ring is not None and self._seq < self._ring.control.head

    def _take_packets(self) -> Batch | None:
        if self._ring is None:
            return None
        if self._is_lossless:
            return self._take_all(self._ring)
        before = self._uncounted
        batch, self._seq, self._uncounted = self._ring.take(
            self._seq, self._device, lost=before, queue=self._queue
        )
        self._lost += self._uncounted - before + (batch.lost if batch is not None else 0)
        return batch

    # -- flow control of a lossless subscription ---------------------------------------------------

    def _take_all(self, ring: RingReader) -> Batch | None:
        """Take the next packets; if they are not there any more, the worker has ended this."""
        most = BATCH if self._log_end is None else min(BATCH, self._log_end - self._seq)
        if most <= 0:
            return None
        batch, seq, lost = ring.take(self._seq, self._device, queue=self._queue, most=most)
        if lost or (batch is not None and batch.lost):
            self._was_dropped(ring)
            return None
        if batch is not None:
            self._seq = seq
            self._bytes_since += len(batch.data)
            is_due = seq - self._acknowledged >= ring.packets // _PART
            if is_due or self._bytes_since >= ring.size // _PART:
                self._acknowledge()
        return batch

    def _acknowledge(self) -> None:
        """Tell the worker what may be overwritten.

        If there is no room for it the next acknowledgement tells it: the worker has many to read.
        """
        if self._is_lossless and self._channel.offer(ACKNOWLEDGED, self._seq):
            self._acknowledged, self._bytes_since = self._seq, 0

    def _was_dropped(self, ring: RingReader) -> None:
        """Count what this subscription held the worker back for, until that has ended it."""
        self._read_control()
        if self._end is None:  # there was no room to tell it
            self._end = DeviceError(errno.ETIMEDOUT, DROPPED, self._device)
        end = ring.control.head if self._log_end is None else self._log_end
        self._lost += end - self._seq
        self._log_end = self._seq = end

    def close(self) -> None:
        """End the subscription; the device goes on."""
        if self._ring is not None:
            self._ring.close()
            self._ring = None
            os.close(self._wakeup_fd)
            super().close()
