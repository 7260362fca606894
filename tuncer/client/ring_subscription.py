"""A subscription that reads the ring: for processes on the device's host."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from tuncer.client.queue_subscription import QueueSubscription
from tuncer.protocol import control_socket
from tuncer.protocol.batch import Batch
from tuncer.protocol.control_socket import PATIENCE
from tuncer.protocol.packet import DeviceError
from tuncer.protocol.ring_reader import RingReader
from tuncer.protocol.subscriber_handshake import SUBSCRIBE


class RingSubscription(QueueSubscription):
    """Reads the ring: for processes on the device's host."""

    def __init__(
        self, path: Path, device: str, *, batch: int | None, events: bool, queue: int = 0
    ) -> None:
        answer, fds, channel = control_socket.request(
            path, device, SUBSCRIBE, events, timeout=PATIENCE, descriptors=2
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
        before = self._uncounted
        batch, self._seq, self._uncounted = self._ring.take(
            self._seq, self._device, lost=before, queue=self._queue
        )
        self._lost += self._uncounted - before + (batch.lost if batch is not None else 0)
        return batch

    def close(self) -> None:
        """End the subscription; the device goes on."""
        if self._ring is not None:
            self._ring.close()
            self._ring = None
            os.close(self._wakeup_fd)
            super().close()
