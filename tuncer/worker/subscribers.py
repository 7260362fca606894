"""The subscribers of a device: their connections and eventfds, and the handshake with a new one.

The supervisor's fd store has duplicates of these descriptors, so a successor of this worker serves
the same subscribers.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from supervisor import GenServer
from supervisor.lowlevel import Channel, close_all, crash_safe_value, peer_of
from tuncer.protocol import control_socket, ring
from tuncer.protocol.control_block import ControlBlock
from tuncer.protocol.fd_store_keys import (
    EVENTFD,
    HANDSHAKE,
    POLICY,
    QUIET,
    WITH_EVENTS,
    StoreKey,
)
from tuncer.protocol.subscriber_handshake import ACKNOWLEDGE, ACKNOWLEDGED, DROPPED, SUBSCRIBED
from tuncer.worker.backpressure import Backpressure
from tuncer.worker.fd_store import FdStore


@dataclass
class Subscriber:
    """A subscriber: its connection, which the kernel closes when the subscriber ends.

    A ring subscriber has an eventfd too. A ZeroMQ subscriber gets its packets from the publisher.
    """

    number: int
    channel: Channel
    eventfd: int | None
    wants_events: bool
    is_lossless: bool = False
    hold_timeout: float | None = None
    """For how many seconds a lossless one may hold the worker back; None: as long as it lives."""

    def key(self, kind: str = "") -> StoreKey:
        """Return the key of its descriptor of a kind, or of its connection, in the fd store."""
        connection = WITH_EVENTS if self.wants_events else QUIET
        return StoreKey(kind or connection, self.number)


class Subscribers:
    """The subscribers of a worker."""

    def __init__(
        self,
        worker: GenServer,
        store: FdStore,
        ring_fd: int,
        control: ControlBlock,
        begin: Callable[[], tuple[int, int]],
        changed: Callable[[], None],
    ) -> None:
        """Serve a worker.

        Args:
            worker: has the loop.
            store: keeps the subscribers' descriptors.
            ring_fd: the ring's descriptor; a ring subscriber gets a read-only one of it.
            control: the ring's.
            begin: called before a handshake is answered; returns the next ``seq``, and the events
                sent so far. From then on the device's packets are read.
            changed: called when a subscriber has left, or needs fewer packets to be kept.
        """
        self._control = control
        self._worker = worker
        self._store = store
        self._begin = begin
        self._changed = changed
        self._ring_for_reading = ring.for_reading(ring_fd)
        self._all: list[Subscriber] = []
        self.eventfds: list[int] = []
        """The eventfds of the ring subscribers."""
        self.backpressure = Backpressure()
        """What is kept for the lossless ones."""

    def restore(self) -> None:
        """Restore the subscribers of a worker that was killed, from the fd store, and notify them.

        The killed worker may have read packets of which it had notified nobody.
        """
        stored = self._store.inherited
        complete = {key.number for key in stored if key.is_connection}
        for key, fd in stored.items():
            if key.number is None:
                continue
            if key.is_connection:
                eventfd = stored.get(StoreKey(EVENTFD, key.number))
                subscriber = Subscriber(key.number, Channel(fd), eventfd, key.kind == WITH_EVENTS)
                self._add(subscriber)
                policy = stored.get(StoreKey(POLICY, key.number))
                if policy is not None:
                    self._restore_policy(subscriber, policy)
                if StoreKey(HANDSHAKE, key.number) in stored:
                    # The worker may have been killed before or after its answer.
                    self._answer_handshake(subscriber)
            elif key.number not in complete:
                # The worker was killed before it had stored all of this subscriber, which finds its
                # connection closed, and asks again.
                os.close(fd)
                self._store.drop(key)
            elif key.kind == HANDSHAKE:
                os.close(fd)  # a duplicate of the connection
        self.notify()

    def _restore_policy(self, subscriber: Subscriber, policy_fd: int) -> None:
        """Keep for a lossless subscriber what there is; it tells what of it it needs."""
        subscriber.is_lossless = True
        (subscriber.hold_timeout,) = crash_safe_value.load(policy_fd)
        os.close(policy_fd)
        self.backpressure.add(subscriber.number, self._control.oldest, subscriber.hold_timeout)
        self.ask(subscriber.number)

    def ask(self, number: int) -> None:
        """Ask a lossless subscriber to acknowledge what it has read."""
        for subscriber in self._all:
            if subscriber.number == number:
                subscriber.channel.offer(ACKNOWLEDGE)

    def subscribe(
        self,
        channel: Channel,
        eventfd: int | None,
        *,
        wants_events: bool,
        is_lossless: bool = False,
        hold_timeout: float | None = None,
    ) -> None:
        """Begin the handshake with a new subscriber.

        The worker may be killed between any two steps. As long as "handshake" is in the store, a
        successor answers, perhaps for the second time. A subscriber whose connection is not in the
        store finds it closed, and asks again.

        If the store is full, the subscriber gets that as its answer, and its connection is closed.
        """
        number = 1 + max((one.number for one in self._all), default=0)
        subscriber = Subscriber(number, channel, eventfd, wants_events, is_lossless, hold_timeout)
        try:
            self._add(subscriber)
        except OSError as error:  # the kernel has no room for one more descriptor to poll
            channel.offer(error)
            channel.close()
            if eventfd is not None:
                os.close(eventfd)
            return
        # The worker does not wait for its supervisor: if that is stopped (SIGSTOP), this subscriber
        # waits for its answer, and nobody else is held up.
        descriptors = {subscriber.key(HANDSHAKE): channel.fileno()}
        if eventfd is not None:
            descriptors[subscriber.key(EVENTFD)] = eventfd
        if is_lossless:
            descriptors[subscriber.key(POLICY)] = crash_safe_value.create([hold_timeout])
        descriptors[subscriber.key()] = channel.fileno()
        for key, fd in descriptors.items():
            if subscriber in self._all:  # otherwise a refusal has closed them
                self._keep(subscriber, key, fd)
        if is_lossless:
            os.close(descriptors[subscriber.key(POLICY)])

    def _keep(self, subscriber: Subscriber, key: StoreKey, fd: int) -> None:
        """Store a descriptor of a new subscriber; the handshake is answered after the last one."""

        def stored(refusal: str | None) -> None:
            if subscriber not in self._all:
                return  # the subscriber has left meanwhile
            if refusal is not None:
                subscriber.channel.offer(OSError(errno.ENOSPC, refusal))
                self._remove(subscriber)
            elif key == subscriber.key():
                self._answer_handshake(subscriber)

        try:
            self._store.put_later(key, fd, stored)
        except OSError as error:
            stored(error.strerror)

    def _answer_handshake(self, subscriber: Subscriber) -> None:
        fds = () if subscriber.eventfd is None else (self._ring_for_reading, subscriber.eventfd)
        # Before the answer: when that arrives, the queue is attached and packets are read.
        seq, events = self._begin()
        if subscriber.is_lossless and subscriber.number not in self.backpressure:
            self.backpressure.add(subscriber.number, seq, subscriber.hold_timeout)
        subscriber.channel.offer(SUBSCRIBED, seq, events, fds=fds)
        self._store.drop(subscriber.key(HANDSHAKE))

    def _add(self, subscriber: Subscriber) -> None:
        self._worker.add_reader(subscriber.channel.fileno(), lambda: self._on_readable(subscriber))
        self._all.append(subscriber)
        if subscriber.eventfd is not None:
            self.eventfds.append(subscriber.eventfd)

    def _on_readable(self, subscriber: Subscriber) -> None:
        """Notice a subscriber's end, and what a lossless one acknowledges."""
        try:
            received = subscriber.channel.receive()
        except (EOFError, ValueError):
            self._remove(subscriber)
            return
        message, fds = received or ([], [])
        close_all(fds)
        match message:
            case [word, int(seq)] if word == ACKNOWLEDGED:
                self.backpressure.acknowledge(subscriber.number, seq, self._control.head)
                self._changed()

    def _remove(self, subscriber: Subscriber) -> None:
        self._worker.remove_reader(subscriber.channel.fileno())
        self._all.remove(subscriber)
        self.backpressure.remove(subscriber.number)
        subscriber.channel.close()
        # In this order: a successor, if this worker is killed on the way, restores a subscriber
        # whose connection is stored, and closes what is left of one whose connection is not.
        keys = [subscriber.key(HANDSHAKE), subscriber.key()]
        if subscriber.eventfd is not None:
            self.eventfds.remove(subscriber.eventfd)
            os.close(subscriber.eventfd)
            keys.append(subscriber.key(EVENTFD))
        if subscriber.is_lossless:
            keys.append(subscriber.key(POLICY))
        for key in keys:
            self._store.drop(key)
        self._changed()

    def drop(self, number: int) -> None:
        """End a lossless subscription that has held the worker back for too long."""
        for subscriber in [one for one in self._all if one.number == number]:
            # Before packets that it needs may be overwritten.
            end = (errno.ETIMEDOUT, DROPPED, self._control.head, self._control.events)
            if subscriber.channel.offer(control_socket.END, *end):
                self._remove(subscriber)
                continue
            # It has no room for the message, and sees by the ring what it has missed.
            self.backpressure.remove(number)
            subscriber.is_lossless = False
            self._store.drop(subscriber.key(POLICY))
            self._changed()

    def told(self) -> list[list[Any]]:
        """Return what ``protocol.operations.SubscriberRow`` has of each, but the queue."""
        held_back_by = self.backpressure.holding_back
        found = []
        for one in self._all:
            with socket.socket(fileno=os.dup(one.channel.fileno())) as connection:
                pid, _ = peer_of(connection)
            position = self.backpressure.position(one.number)
            behind = None if position is None else max(0, self._control.head - position)
            transport = "zmq" if one.eventfd is None else "ring"
            policy = "lossless" if one.is_lossless else "drop"
            row = [pid, transport, policy, one.wants_events, behind, one.number in held_back_by]
            found.append(row)
        return found

    def notify(self) -> None:
        """Signal every ring subscriber's eventfd."""
        for eventfd in self.eventfds:
            with contextlib.suppress(BlockingIOError):  # its counter is full: it is readable anyway
                os.eventfd_write(eventfd, 1)

    def send_event(self, kind: str, value: Any, seq: int, number: int) -> None:
        """Send an event to every subscriber that has asked for events.

        Args:
            kind: of ``DeviceEvent``.
            value: of ``DeviceEvent``.
            seq: how many packets were in the log before the event.
            number: the event's own. A subscriber that does not read is sent no more, and sees by
                the next number how many events it has missed.
        """
        for subscriber in self._all:
            if subscriber.wants_events:
                subscriber.channel.offer(control_socket.EVENT, kind, value, seq, number)

    def send_end(self, number: int, text: str, packets: int, events: int) -> None:
        """Send every subscriber the end of the log.

        Args:
            number: an errno, or 0 for an end in order.
            text: says why.
            packets: how many there were in the log.
            events: how many there were.
        """
        for subscriber in self._all:
            subscriber.channel.offer(control_socket.END, number, text, packets, events)
