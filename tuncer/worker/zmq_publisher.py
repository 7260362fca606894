"""The publisher: a follower of the ring that sends its packets as ZeroMQ messages.

Its endpoint is bound when it is first asked for, and by each successor of that worker. Most devices
have no subscribers by ZeroMQ, and are spared its threads.

ZeroMQ tells a publisher nothing of what has arrived. So after a restart it waits, within a
bound, until as many subscribers as there were have come back, and sends again from the log
what may not have left the killed process.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import zmq
from zmq.utils.monitor import recv_monitor_message

from tuncer.protocol import ring, wire_format

_QUEUE = 512  # batches that may wait for each subscriber
_PAUSE = 0.001  # seconds from one batch that is not full to the next one
_CAME, _WENT = zmq.EVENT_ACCEPTED, zmq.EVENT_DISCONNECTED
_LONGEST_WORD = 1024  # bytes of a subscription; whoever sends more is disconnected
_BATCH_BYTES = 65536  # so at most 32 MiB wait for each subscriber, or one packet over that a batch
_AGAIN = 4096  # packets before the last published one that may not have left a killed worker
_RETURN = 0.5  # seconds that former subscribers are waited for, unless the ring fills up
_SLOW = 0.1  # seconds of these that one whose queue is full may hold up the others
_CATCH_UP = 3.0  # seconds in which one that comes later still gets everything sent again
_IDLE = 1.0  # seconds between messages at most


class Publisher:
    """Sends what is in the ring to every ZeroMQ subscriber."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        path: Path,
        device: str,
        log: ring.Reader,
        writer: ring.Writer,
        later: Callable[[float, Callable[[], None]], object],
        queue: int,
        changed: Callable[[], None],
    ) -> None:
        self._queue = queue
        self._changed = changed
        self._topic = device.encode()
        self._log = log
        self._writer = writer
        self._later = later
        self._epoch = writer.control[ring.RESTARTS]
        self._sent_at = 0.0
        self._resume = 0
        self._ticking = self._pausing = self._ending = self._is_waiting = False
        self.listeners = 0
        self._socket = context.socket(zmq.XPUB)
        self._socket.setsockopt(zmq.LINGER, 1000)
        self._socket.setsockopt(zmq.MAXMSGSIZE, _LONGEST_WORD)
        self._socket.setsockopt(zmq.SNDHWM, _QUEUE)
        self._socket.setsockopt(zmq.XPUB_VERBOSER, 1)  # tell each subscriber, and each that leaves
        self._connections = 0
        self._monitor = self._socket.get_monitor_socket(_CAME | _WENT)
        self._socket.bind(f"ipc://{path}")
        self._awaited = writer.control[ring.LISTENERS]
        # Also when nobody is awaited: this worker's predecessor may have waited in vain itself.
        self._catching_up = writer.control[ring.PUBLISHES] > 0
        writer.control[ring.PUBLISHES] = 1
        if self._catching_up:
            self._rewind()
            later(_RETURN, self._wait_no_longer)
            later(_CATCH_UP, self._caught_up)

    def bind_again(self, path: Path) -> None:
        """Bind the endpoint again, whose socket was removed. Subscribers that are there stay."""
        with contextlib.suppress(zmq.ZMQError):
            self._socket.unbind(f"ipc://{path}")
        self._socket.bind(f"ipc://{path}")

    def fileno(self) -> int:
        """Return the descriptor to poll: call ``follow`` when it is readable."""
        return int(self._socket.getsockopt(zmq.FD))

    def follow(self) -> None:
        """Greet who has come, then send what there is."""
        self._hear()
        if self._awaited:
            room = self._log.slots - (self._writer.head - self._writer.control[ring.PUBLISHED])
            if self.listeners < self._awaited and room > self._log.slots // 4:
                return
            self._wait_no_longer()
        if self.listeners > 0:
            self._send()

    @property
    def follows(self) -> bool:
        """Whether new packets concern it."""
        return self.listeners > 0 or self._awaited > 0

    def end(self, why: str) -> None:
        """Tell the subscribers that the device has ended, and close."""
        self._awaited, self._ending = 0, True
        self.follow()
        if self.listeners:
            self._say(self._message(self._topic, self._writer.head, end=why))
        self._socket.disable_monitor()
        self._monitor.close()
        self._socket.close()

    def _rewind(self) -> None:
        oldest = max(0, self._writer.control[ring.RESERVE] - self._log.slots)
        published = self._writer.control[ring.PUBLISHED]
        again = min(_AGAIN, self._log.slots // 2)
        self._resume = self._writer.control[ring.PUBLISHED] = max(oldest, published - again, 0)
        # While it catches up it must not outrun the subscribers: a full queue is an error then.
        self._socket.setsockopt(zmq.XPUB_NODROP, 1)

    def _wait_no_longer(self) -> None:
        if self._awaited and not self._socket.closed:
            self._awaited = 0
            self._writer.control[ring.LISTENERS] = max(0, self.listeners)
            self.follow()

    def _caught_up(self) -> None:
        if not self._socket.closed:
            self._catching_up = False
            self._socket.setsockopt(zmq.XPUB_NODROP, 0)
            self.follow()

    def _hear(self) -> None:
        """Take note of who subscribes and who leaves."""
        while True:
            try:
                word = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            if word[1:].startswith(wire_format.HELLO):
                if word[:1] == b"\1":
                    self._greet(word[1:])
            elif self._topic.startswith(word[1:]):
                self._count({b"\1": 1, b"\0": -1}.get(word[:1], 0))

    def _count(self, change: int) -> None:
        if self._catching_up:
            if change > 0 and not self._awaited:  # late, perhaps from before: the others drop it
                self._writer.control[ring.PUBLISHED] = self._resume
        elif self.listeners == 0:  # the first one: begin here
            self._writer.control[ring.PUBLISHED] = self._writer.control[ring.TAKEN]
        self.listeners += change
        self._changed()  # before anybody is greeted: a queue is attached when that has come
        if not self._awaited:
            self._writer.control[ring.LISTENERS] = max(0, self.listeners)
        self._tick()

    def _greet(self, topic: bytes) -> None:
        """Tell a newcomer from where on it gets everything: what comes before is not for it."""
        begin = self._writer.head
        if self.listeners == 0 and not self._catching_up:
            begin = self._writer.control[ring.PUBLISHED] = self._writer.control[ring.TAKEN]
        self._say(self._message(topic, begin))

    def _send(self) -> None:
        control = self._writer.control
        # What has been overwritten meanwhile is a gap for all.
        oldest = control[ring.RESERVE] - self._log.slots
        place = max(control[ring.PUBLISHED], oldest)
        while place < self._writer.head:
            if self._is_to_pause(self._writer.head - place):
                return
            packets, after, when = self._log.payloads(place, ring.BATCH, _BATCH_BYTES)
            if not self._say(self._message(self._topic, place, packets, when)):
                self._wait_for_the_slow(place)
                return  # readable again when there is room
            place = control[ring.PUBLISHED] = after

    def _wait_for_the_slow(self, place: int) -> None:
        """While it catches up: wait a moment for one whose queue is full, and then for none."""
        if not self._catching_up or self._is_waiting:
            return
        self._is_waiting = True

        def look() -> None:
            self._is_waiting = False
            stuck = self._writer.control[ring.PUBLISHED] == place
            if stuck and self._catching_up and not self._awaited:
                self._caught_up()

        self._later(_SLOW, look)

    def _is_to_pause(self, waiting: int) -> bool:
        """Let a batch grow for a moment, if the last one has just left.

        A subscriber's queue counts batches: with a packet in each, it would be full at once.
        """
        if waiting >= ring.BATCH or self._ending:
            return False
        left = self._sent_at + _PAUSE - time.monotonic()
        if left > 0 and not self._pausing:
            self._pausing = True
            self._later(left, self._go_on)
        return left > 0

    def _go_on(self) -> None:
        self._pausing = False
        if not self._socket.closed:
            self.follow()

    def _see_who_is_there(self) -> None:
        """Have no subscribers when nobody is connected.

        Of one that has subscribed twice to the same topic, and goes, ZeroMQ tells one end.
        """
        while self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)["event"]
            self._connections += 1 if event == _CAME else -1
        if self._connections == 0 and self.listeners > 0:
            self._count(-self.listeners)

    def _message(
        self,
        topic: bytes,
        seq: int,
        packets: list[bytes] | None = None,
        when: int | None = None,
        end: str | None = None,
    ) -> list[bytes]:
        now = time.time_ns() if when is None else when
        return wire_format.encode(topic, seq, packets or [], now, self._epoch, end, self._queue)

    def _say(self, frames: list[bytes]) -> bool:
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            return False
        self._sent_at = time.monotonic()
        return True

    def _tick(self) -> None:
        """While there are subscribers, say where the log ends at least once a second."""
        if self.listeners > 0 and not self._ticking:
            self._ticking = True
            self._later(_IDLE, self._tock)

    def _tock(self) -> None:
        self._ticking = False
        if self._socket.closed:
            return
        self._hear()
        self._see_who_is_there()
        if self.listeners > 0 and not self._awaited and time.monotonic() - self._sent_at >= _IDLE:
            head = self._writer.control[ring.PUBLISHED]
            self._say(self._message(self._topic, head))
        self._tick()
