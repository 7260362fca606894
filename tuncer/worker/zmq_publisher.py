"""The publisher: it reads the ring, and sends the packets as ZeroMQ messages.

Its endpoint is bound when a client first asks for it, and by each successor of that worker. Most
devices have no ZeroMQ subscribers, and are spared ZeroMQ's threads.

ZeroMQ does not tell a publisher which messages have arrived. After a restart the publisher waits,
for a bounded time, until as many subscribers have reconnected as there were. Then it sends from the
log again what may not have left the killed process. Subscribers drop what they have had already.

**Handshake of a new subscriber**: it subscribes to a topic of its own, that begins with ``HELLO``.
The answer on this topic has the ``seq`` of the first packet that it gets.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import zmq
from zmq.utils.monitor import recv_monitor_message

from supervisor import GenServer
from tuncer.protocol import wire_format
from tuncer.protocol.ring import BATCH
from tuncer.worker.packet_reader import PacketReader

_QUEUE = 128  # batches that may wait for each subscriber
_PAUSE = 0.001  # seconds from one batch that is not full to the next one
_CAME, _WENT = zmq.EVENT_ACCEPTED, zmq.EVENT_DISCONNECTED
_LONGEST_WORD = 1024  # bytes of a subscription; whoever sends more is disconnected
_BATCH_BYTES = 1 << 18  # so at most 32 MiB wait for each subscriber, and a packet a batch
_AGAIN = 4096  # packets before the last published one that may not have left a killed worker
_RETURN = 0.5  # seconds that former subscribers are waited for, unless the ring fills up
_URGENT = 0.25  # of the ring: with less than that before the next packet, it waits no longer
_SLOW = 0.1  # seconds that a subscriber with a full queue may delay the others, while catching up
_CATCH_UP = 3.0  # seconds after a restart in which a late former subscriber has all sent again
_IDLE = 1.0  # seconds between messages at most


@contextlib.contextmanager
def _as_oserror(path: Path) -> Iterator[None]:
    """Raise a ZMQError as the OSError that it is of: the class of its own is none."""
    try:
        yield
    except zmq.ZMQError as error:
        raise OSError(error.errno, f"ZeroMQ: {error.strerror}", str(path)) from error


def resume_at(published: int, oldest: int) -> int:
    """Return the first packet that is sent again after a kill. Pure.

    Args:
        published: the packet after those that the killed worker had sent.
        oldest: the first packet that the ring has.
    """
    whole = max(0, published - oldest)
    # Once packets are overwritten, the oldest ones will be before the publisher comes to them.
    return published - min(_AGAIN, whole // 2 if oldest else whole)


class Publisher:
    """Sends what is in the ring to every ZeroMQ subscriber."""

    def __init__(
        self,
        worker: GenServer,
        context: zmq.Context[zmq.Socket[bytes]],
        path: Path,
        packets: PacketReader,
        changed: Callable[[], None],
    ) -> None:
        """Bind the endpoint.

        Args:
            worker: has the loop.
            context: of the worker's process.
            path: of the endpoint.
            packets: has the ring.
            changed: called when a subscriber has come or left; for the first one the device's
                packets are read when it returns.

        Raises:
            OSError: the endpoint cannot be bound, or there are too many descriptors.
        """
        self._worker = worker
        self._changed = changed
        self._queue = packets.queue
        self._ring = packets.ring
        writer = self._writer = packets.writer
        self._topic = packets.name.encode()
        self._epoch = writer.control.restarts
        self._stream = wire_format.stream_of(writer.control.mark)
        self._sent_at = 0.0
        self._resume = 0
        self._heartbeat_scheduled = self._pausing = self._ending = self._is_waiting = False
        self.subscribers = 0
        self._connections = 0
        with _as_oserror(path):
            self._socket = context.socket(zmq.XPUB)
        try:
            with _as_oserror(path):
                self._prepare(path)
        except OSError:
            self._socket.disable_monitor()
            self._socket.close(0)
            raise
        self._awaited = writer.control.zmq_subscribers
        # Also when nobody is awaited: the killed worker may have ceased to wait for those that
        # return only now.
        self._catching_up = writer.control.publishes > 0
        writer.control.publishes = 1
        if self._catching_up:
            self._rewind()
            worker.call_later(_RETURN, self._wait_no_longer)
            worker.call_later(_CATCH_UP, self._caught_up)

    def _prepare(self, path: Path) -> None:
        self._socket.setsockopt(zmq.LINGER, 1000)
        self._socket.setsockopt(zmq.MAXMSGSIZE, _LONGEST_WORD)
        self._socket.setsockopt(zmq.SNDHWM, _QUEUE)
        # A subscription is in force when this says so. Otherwise libzmq would put it in force
        # within any call, in the middle of the batches that are sent: a former subscriber would get
        # a later batch before those that are sent to it again.
        self._socket.setsockopt(zmq.XPUB_MANUAL, 1)
        self._monitor = self._socket.get_monitor_socket(_CAME | _WENT)
        self._socket.bind(f"ipc://{path}")

    def bind_again(self, path: Path) -> None:
        """Bind the endpoint again, whose socket was removed. Subscribers that are there stay.

        Raises:
            OSError: it cannot be bound.
        """
        with contextlib.suppress(zmq.ZMQError):
            self._socket.unbind(f"ipc://{path}")
        with _as_oserror(path):
            self._socket.bind(f"ipc://{path}")

    def fileno(self) -> int:
        """Return the descriptor to poll: call ``publish`` when it is readable."""
        return int(self._socket.getsockopt(zmq.FD))

    def publish(self) -> None:
        """Handle pending (un)subscriptions, then publish every unsent packet."""
        self._read_subscriptions()
        if self._awaited:
            is_urgent = self._writer.control.oldest > 0 and self._share_before() < _URGENT
            if self.subscribers < self._awaited and not is_urgent:
                return
            self._wait_no_longer()
        if self.subscribers > 0:
            self._publish_pending()

    @property
    def has_work(self) -> bool:
        """Whether new packets concern it."""
        return self.subscribers > 0 or self._awaited > 0

    def end(self, why: str) -> None:
        """Tell the subscribers that the device has ended, and close."""
        self._awaited, self._ending = 0, True
        self.publish()
        if self.subscribers:
            self._send_message(self._message(self._topic, self._writer.head, end=why))
        self._socket.disable_monitor()
        self._monitor.close()
        self._socket.close()

    def _share_before(self) -> float:
        """Return which share of the ring lies before what is published next."""
        return self._ring.share_before(self._writer.control.published)

    def _rewind(self) -> None:
        control = self._writer.control
        self._resume = control.published = resume_at(control.published, control.oldest)
        # While it catches up it must not outrun the subscribers: a full queue is an error then.
        self._socket.setsockopt(zmq.XPUB_NODROP, 1)

    def _wait_no_longer(self) -> None:
        if self._awaited and not self._socket.closed:
            self._awaited = 0
            self._writer.control.zmq_subscribers = max(0, self.subscribers)
            self.publish()

    def _caught_up(self) -> None:
        if not self._socket.closed:
            self._catching_up = False
            self._socket.setsockopt(zmq.XPUB_NODROP, 0)
            self.publish()

    def _read_subscriptions(self) -> None:
        """Read (un)subscriptions: count them, and answer handshakes."""
        while True:
            try:
                word = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            kind, topic = word[:1], word[1:]
            if kind not in {b"\0", b"\1"}:  # a stranger's message, which is no subscription
                continue
            comes = kind == b"\1"
            self._socket.setsockopt(zmq.SUBSCRIBE if comes else zmq.UNSUBSCRIBE, topic)
            if self._topic.startswith(topic):
                self._count(1 if comes else -1)
            elif comes and topic.startswith(wire_format.HELLO):
                self._answer_handshake(topic)

    def _count(self, change: int) -> None:
        if self._catching_up:
            if change > 0 and not self._awaited:  # perhaps a former one: the others drop repeats
                self._writer.control.published = max(self._resume, self._writer.control.oldest)
        elif self.subscribers == 0:  # the first one: begin here
            self._writer.control.published = self._writer.control.taken
        self.subscribers += change
        # Attach the queue before the handshake is answered: the answer promises that no later
        # packet is missed.
        self._changed()
        if not self._awaited:
            self._writer.control.zmq_subscribers = max(0, self.subscribers)
        self._schedule_heartbeat()

    def _answer_handshake(self, topic: bytes) -> None:
        """Send a new subscriber the ``seq`` of the first packet that it gets."""
        begin = self._writer.head
        if self.subscribers == 0 and not self._catching_up:
            begin = self._writer.control.published = self._writer.control.taken
        self._send_message(self._message(topic, begin))

    def _publish_pending(self) -> None:
        control = self._writer.control
        # What has been overwritten meanwhile is a gap for all.
        gap = max(0, control.oldest - control.published)
        control.overrun += gap
        seq = control.published = control.published + gap
        while seq < self._writer.head:
            if self._is_to_pause(self._writer.head - seq):
                return
            packets, when = self._ring.look_at(seq, _BATCH_BYTES)
            if not self._send_message(self._message(self._topic, seq, packets, when)):
                self._wait_for_the_slow(seq)
                return  # readable again when there is room
            seq = control.published = seq + len(packets)

    def _wait_for_the_slow(self, seq: int) -> None:
        """While it catches up, wait a moment for a subscriber whose queue is full; then drop."""
        if not self._catching_up or self._is_waiting:
            return
        self._is_waiting = True

        def look() -> None:
            self._is_waiting = False
            stuck = self._writer.control.published == seq
            if stuck and self._catching_up and not self._awaited:
                self._caught_up()

        self._worker.call_later(_SLOW, look)

    def _is_to_pause(self, waiting: int) -> bool:
        """Let a batch grow for a moment, if the last one has just left.

        A subscriber's queue counts batches: with a packet in each, it would be full at once.
        """
        if waiting >= BATCH or self._ending:
            return False
        left = self._sent_at + _PAUSE - time.monotonic()
        if left > 0 and not self._pausing:
            self._pausing = True
            self._worker.call_later(left, self._resume_publishing)
        return left > 0

    def _resume_publishing(self) -> None:
        self._pausing = False
        if not self._socket.closed:
            self.publish()

    def _forget_departed(self) -> None:
        """Set the count of subscribers to 0 when no peer is connected.

        A peer that subscribes twice to a topic, and disconnects, is told by one unsubscription.
        """
        while self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)["event"]
            self._connections += 1 if event == _CAME else -1
        if self._connections == 0 and self.subscribers > 0:
            self._count(-self.subscribers)

    def _message(
        self,
        topic: bytes,
        seq: int,
        packets: Sequence[bytes | memoryview] = (),
        when: int | None = None,
        end: str | None = None,
    ) -> list[bytes]:
        now = time.time_ns() if when is None else when
        told = (now, self._epoch, end, self._queue, self._writer.control.framing, self._stream)
        return wire_format.encode(topic, seq, packets, *told)

    def _send_message(self, frames: list[bytes]) -> bool:
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            return False
        self._sent_at = time.monotonic()
        return True

    def _schedule_heartbeat(self) -> None:
        """While there are subscribers, send the log's end at least once a second (heartbeat)."""
        if self.subscribers > 0 and not self._heartbeat_scheduled:
            self._heartbeat_scheduled = True
            self._worker.call_later(_IDLE, self._heartbeat)

    def _heartbeat(self) -> None:
        self._heartbeat_scheduled = False
        if self._socket.closed:
            return
        self._read_subscriptions()
        self._forget_departed()
        if self.subscribers > 0 and not self._awaited and time.monotonic() - self._sent_at >= _IDLE:
            head = self._writer.control.published
            self._send_message(self._message(self._topic, head))
        self._schedule_heartbeat()
