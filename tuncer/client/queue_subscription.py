"""What both subscriptions to a queue have in common: events and the end, in order with packets."""

from __future__ import annotations

import errno
import select
from abc import abstractmethod
from collections import deque
from collections.abc import Iterator

from supervisor.lowlevel import Channel, close_all
from tuncer.client.subscription import Item, Subscription, over
from tuncer.protocol import control_socket
from tuncer.protocol.batch import Batch
from tuncer.protocol.packet import DeviceError, DeviceEvent, EventValue, Packet
from tuncer.protocol.subscriber_handshake import ACKNOWLEDGE


class QueueSubscription(Subscription[Item]):
    """A subscription to one queue: a ``seq`` in its log, and a connection to its control socket."""

    def __init__(
        self,
        device: str,
        channel: Channel,
        wakeup_fd: int,
        *,
        batch: int | None,
        events: bool,
        queue: int,
    ) -> None:
        super().__init__(device)
        self._channel = channel
        self._most = batch
        self._wants_events = events
        self._queue = queue
        self._ready: deque[Batch | DeviceEvent] = deque()
        # Without ``batch``, the packets of the batch that is being delivered.
        self._packets: Iterator[Packet] = iter(())
        self._current: Batch | None = None
        self._taken = 0  # packets of the batches that are, or were, being delivered
        # Events, each with the number of packets that were in the log before it.
        self._pending_events: deque[tuple[int, DeviceEvent]] = deque()
        self._delivered = 0
        self._lost = 0
        self._end: DeviceError | EOFError | None = None
        self._log_end: int | None = None
        self._seq = 0  # the number of the next packet
        self._event_seq = 0  # the number of the last event
        self._wakeup_fd = wakeup_fd
        self._poller.register(wakeup_fd, select.EPOLLIN)
        self._poller.register(channel.fileno(), select.EPOLLIN)

    @abstractmethod
    def _take_packets(self) -> Batch | None:
        """Return packets that are there, without waiting; count the lost ones."""

    @abstractmethod
    def _clear_wakeup(self) -> None:
        """Reset the wake-up descriptor, before the next poll."""

    def _has_more(self) -> bool:
        return bool(self._ready) or self._delivered < self._taken

    def __next__(self) -> Item:
        packet = next(self._packets, None)  # the common case, without what ``recv`` asks before
        if packet is None:
            return super().__next__()
        self._delivered += 1
        return packet

    def _next(self) -> Item | None:
        packet = next(self._packets, None)
        if packet is not None:
            self._delivered += 1
            return packet
        if not self._ready:
            self._refill()
            if not self._ready and self._end is not None:
                raise self._end
        if not self._ready:
            return None
        item = self._ready.popleft()
        self._show_life()
        if isinstance(item, DeviceEvent):
            return item
        if self._most is not None and len(item) > self._most:
            item, rest = item.split(self._most)
            self._ready.appendleft(rest)
        self._taken += len(item)
        if self._most is not None:
            self._delivered = self._taken
            return item
        self._current = item
        self._packets = self._one_by_one(item)
        self._delivered += 1
        return next(self._packets)

    def _show_life(self) -> None:
        """Tell the worker that this subscription is being read, if that matters to it."""

    def _one_by_one(self, batch: Batch) -> Iterator[Packet]:
        return iter(batch)

    def _refill(self) -> None:
        """Take what is there; as long as there are packets, with as few system calls as may be."""
        batch = None
        if self._end is None and not self._pending_events:
            batch = self._take_packets()
        if batch is None:
            self._clear_more()
            self._clear_wakeup()
            if self._end is None:
                self._read_control()
            # In this order: packets that were in the ring at the device's end come before the end.
            batch = self._take_packets()
        elif self._may_have_events():
            self._read_control()
        self._interleave(batch)

    def _may_have_events(self) -> bool:
        """Tell whether events may have been sent that were before the packets just taken."""
        return True

    def _interleave(self, batch: Batch | None) -> None:
        """Queue packets, and each pending event after the last packet that was before it."""
        over = batch is None and self._end is not None  # packets that are missing now are lost
        while self._pending_events and (over or self._pending_events[0][0] <= self._seq):
            seq, event = self._pending_events.popleft()
            if batch is not None:
                before, batch = batch.split_before(seq)
                if before is not None:
                    self._ready.append(before)
            self._ready.append(event)
        if batch is not None:
            self._ready.append(batch)

    def _read_control(self) -> None:
        """Read what the worker has sent by the control socket: events, and the device's end."""
        # Count before reading: the worker sends an event before it counts it, so an event that is
        # counted, and is not there to be read, was missed.
        counted = self._counted_events()
        while self._end is None:
            try:
                received = self._channel.receive()
            except EOFError:
                self._note_missed(self._counted_events())
                self._end = self._unannounced_end()
                return
            if received is None:
                self._note_missed(counted)
                return
            (word, *terms), fds = received
            close_all(fds)
            if word == control_socket.EVENT:
                kind, value, seq, number = terms
                self._note_missed(number - 1)
                self._event_seq = max(self._event_seq, number)
                self._queue_event(seq, kind, value)
            elif word == ACKNOWLEDGE:
                self._acknowledge()
            elif word == control_socket.END:
                number, text, self._log_end, events = terms
                self._note_missed(events)
                self._end = DeviceError(number, text, self._device) if number else self._over()

    def _note_missed(self, events: int) -> None:
        """Queue an event "missed", if the worker has sent more events than have arrived."""
        if events > self._event_seq:
            self._queue_event(self._seq, "missed", events - self._event_seq)
            self._event_seq = events

    def _queue_event(self, seq: int, kind: str, value: EventValue) -> None:
        if self._wants_events:
            self._pending_events.append((seq, DeviceEvent(kind, self._device, value, self._queue)))

    def _acknowledge(self) -> None:
        """Tell the worker what was read, if it keeps packets for this subscription."""

    def _counted_events(self) -> int:
        """Return how many events the worker has sent, as far as that is known here."""
        return self._event_seq

    def _unannounced_end(self) -> DeviceError | EOFError:
        """Return how the device has ended, when the connection closed without a message of it."""
        problem = "the device's worker and its supervisors have ended: create the device again"
        return DeviceError(errno.EPIPE, problem, self._device)

    def _over(self) -> EOFError:
        return over(self._device)

    def stats(self) -> dict[str, int]:
        """Return how many packets were ``delivered`` and how many were ``lost``."""
        return {"delivered": self._delivered, "lost": self._lost}

    def close(self) -> None:
        """End the subscription; the device goes on."""
        self._channel.close()
        self._close_poller()
        self._end = self._end or self._over()
