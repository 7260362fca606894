"""Who gets a queue's packets: they are read exactly while somebody wants them, and handed on.

Ring subscribers, ZeroMQ subscribers and calls of ``recv`` want packets. What follows for the
descriptor is decided in ``demand``. Events go by the control socket. Each says how many packets
were before it, so that subscribers put both in order.
"""

from __future__ import annotations

import errno
import functools
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from supervisor import GenServer, Sender
from supervisor.lowlevel import Channel
from tuncer.protocol import control_socket
from tuncer.protocol.fd_store_keys import RING, WITH_EVENTS, StoreKey
from tuncer.protocol.packet import EventValue
from tuncer.protocol.ring import MappedRing
from tuncer.protocol.subscriber_handshake import DROPPED
from tuncer.worker.active_mode import Active
from tuncer.worker.fd_store import FdStore
from tuncer.worker.packet_reader import PacketReader
from tuncer.worker.recv_queue import RecvQueue
from tuncer.worker.subscribers import Subscribers
from tuncer.worker.zmq_publisher import Publisher

_LOOK = 1.0  # seconds between two looks at who holds the worker back
_IS_ACTIVE = "the device is in active mode: packets go to its subscriptions"


class Delivery:
    """Reads one queue of a device for those who want its packets."""

    def __init__(
        self,
        worker: GenServer,
        packets: PacketReader,
        store: FdStore,
        ring_fd: int,
        device_failed: Callable[[OSError], None],
    ) -> None:
        """Read nothing yet.

        Args:
            worker: has the loop, and replies to calls.
            packets: reads the descriptor.
            store: keeps the subscribers.
            ring_fd: the ring's descriptor, for ring subscribers.
            device_failed: called when reading fails.
        """
        self._worker = worker
        self._packets = packets
        self._control = packets.control
        self._device_failed = device_failed
        self._polled = False
        self.receivers = RecvQueue(worker, packets, self.demand_changed)
        self.subscribers = Subscribers(
            worker, store, ring_fd, self._control, self._begin_subscription, self.demand_changed
        )
        self._wants_packets = False
        self._looks_again = False
        self.publisher: Publisher | None = None

    def begin(self) -> None:
        """Restore the subscribers of a killed worker, and notify them.

        It may have been killed after it had read packets for them, and before it had said so.
        """
        self.subscribers.restore()
        if self.is_active:
            self._packets.hand_over()
        elif self._packets.mode.limit is not None:  # the count has come to its end
            self._packets.hand_over(self._packets.mode.limit)

    def publish_at(self, path: Path) -> None:
        """Bind the publisher's endpoint, if it is not bound."""
        if self.publisher is None:
            self.publisher = Publisher(
                self._worker, self._worker.context, path, self._packets, self.demand_changed
            )
            self._worker.add_reader(self.publisher.fileno(), self._publish)
            self._publish()

    # -- demand ------------------------------------------------------------------------------------

    @property
    def has_subscribers(self) -> bool:
        """Whether there is any, of the ring or by ZeroMQ."""
        return bool(self.subscribers.eventfds) or self._zmq_subscribers > 0

    @property
    def count(self) -> int:
        """How many subscribers there are."""
        return len(self.subscribers.eventfds) + self._zmq_subscribers

    @property
    def _zmq_subscribers(self) -> int:
        return 0 if self.publisher is None else max(0, self.publisher.subscribers)

    @property
    def is_active(self) -> bool:
        """Whether packets are for subscriptions, not for ``recv``."""
        return self._packets.mode.is_active(has_subscribers=self.has_subscribers)

    def demand_changed(self) -> None:
        """Poll the device, and attach its queue, exactly while somebody wants its packets."""
        if self.receivers and self.is_active:
            self.receivers.refuse_all(errno.EINVAL, _IS_ACTIVE)
        self._wants_packets = self._packets.decide(
            receivers=bool(self.receivers), has_subscribers=self.has_subscribers
        )
        polled = self._wants_packets and not self.is_held_back
        if polled and not self._polled:
            self._worker.add_reader(self._packets.tun, self._read)
        elif not polled and self._polled:
            self._worker.remove_reader(self._packets.tun)
        self._polled = polled

    @property
    def is_held_back(self) -> bool:
        """Whether a lossless subscriber has not read what the next batch might overwrite."""
        backpressure = self.subscribers.backpressure
        if not self._wants_packets:
            backpressure.rest()
        if not self._wants_packets or not backpressure:
            return False
        now = time.monotonic()
        held = backpressure.holds_back(self._packets.writer.first_kept(), now)
        if held and not self._looks_again:
            self._looks_again = True
            deadline = backpressure.next_deadline()
            wait = _LOOK if deadline is None else min(_LOOK, max(0.0, deadline - now))
            look = functools.partial(self._look_who_holds_back, now + wait)
            self._worker.call_later(wait, look)
        return held

    def _look_who_holds_back(self, due: float) -> None:
        """Drop the lossless subscribers whose time is over.

        Args:
            due: when this was to be called.
        """
        self._looks_again = False
        backpressure, now = self.subscribers.backpressure, time.monotonic()
        if now - due > _LOOK:  # this worker stood still (SIGSTOP), and heard nobody
            backpressure.rest()
        for number in backpressure.overdue(now):
            self._worker.log.warning("%s: a %s", self._packets.name, DROPPED)
            self.subscribers.drop(number)
        # An acknowledgement may have been lost with a worker that was killed.
        for number in backpressure.holding_back:
            self.subscribers.ask(number)
        self.demand_changed()

    def _begin_subscription(self) -> tuple[int, int]:
        """Make a passive device active; return the next ``seq``, and the events sent so far.

        The next packet may be an older one that no ``recv`` has taken.
        """
        self._packets.mode.subscribed()
        self.demand_changed()
        return self._control.taken, self._control.events

    def receive(self, sender: Sender, timeout: float | None, token: int | None = None) -> None:
        """Reply to a call with the next packet, when there is one.

        Raises:
            OSError: EINVAL, the device is in active mode.
        """
        if self.is_active:
            raise OSError(errno.EINVAL, _IS_ACTIVE, self._packets.name)
        self.receivers.add(sender, timeout, token)

    def set_active(self, active: Active) -> None:
        """Change the mode, as ``Mode.set`` does."""
        self._packets.mode.set(active, has_subscribers=self.has_subscribers)
        self.report_end_of_count()

    # -- packets and events ------------------------------------------------------------------------

    def _read(self) -> None:
        try:
            if not self._packets.read(has_subscribers=self.has_subscribers):
                self.receivers.serve()
        except OSError as error:
            self.subscribers.notify()
            self._device_failed(error)
            return
        self.subscribers.notify()
        if self.publisher is not None and self.publisher.has_work:
            self.publisher.publish()
        if self._packets.mode.has_run_out:
            self.report_end_of_count()
        if self.subscribers.backpressure:
            self.demand_changed()

    def _publish(self) -> None:
        if self.publisher is not None:
            self.publisher.publish()
        self.demand_changed()

    def report_event(self, kind: str, value: EventValue = None) -> None:
        """Send an event, and after which packet it was, to those who have subscribed to events."""
        # Send before counting: a subscriber that sees the count without the event knows that it
        # has missed it.
        number = self._control.events + 1
        self.subscribers.send_event(kind, value, self._control.head, number)
        self._control.events = number

    def report_end_of_count(self) -> None:
        """Report once that a counted mode is over: the device is passive."""
        if self._packets.mode.is_over:
            self.report_event("passive")
            self._packets.mode.told()
        self.demand_changed()

    def end(self, why: str, number: int, text: str) -> None:
        """Send every subscriber and receiver the end of the log.

        Args:
            why: for ZeroMQ subscribers: "deleted" or "closed".
            number: an errno, or 0 for an end in order.
            text: says why; empty: the device was destroyed.
        """
        # A subscriber that has no room for a message reads it in the ring.
        self._control.ended = number
        gone = text or "the device was destroyed"
        self.receivers.refuse_all(number or errno.ENODEV, gone)
        if number == errno.ENODEV:
            self.report_event("deleted")
        self.subscribers.send_end(number, text, self._control.head, self._control.events)
        self.subscribers.notify()
        if self.publisher is not None:
            self.publisher.end(why)


def end_stored(stored: Mapping[StoreKey, int]) -> None:
    """Send the subscribers of killed workers the end of a device that was deleted meanwhile.

    Args:
        stored: what the workers had in the fd store.
    """
    if RING not in stored:
        return  # a worker without a ring has no subscribers yet
    control = MappedRing(stored[RING], writable=True).control
    control.ended = errno.ENODEV
    packets, events = control.head, control.events + 1
    for key, fd in stored.items():
        if key.is_connection:
            channel = Channel(fd)
            if key.kind == WITH_EVENTS:
                channel.offer(control_socket.EVENT, "deleted", None, packets, events)
            end = (errno.ENODEV, control_socket.WAS_DELETED, packets, events)
            channel.offer(control_socket.END, *end)
