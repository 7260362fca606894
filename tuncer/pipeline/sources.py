"""Sources in a worker of the first segment: where its packets come from.

A source knows its position. The worker commits it with what it has made of the packets before it;
its successor begins there.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import select
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

from supervisor.lowlevel import load_reference
from tuncer.client.packet_writer import MOST_BYTES
from tuncer.client.ring_subscription import RingSubscription
from tuncer.pipeline.attached import device_of
from tuncer.pipeline.once_a_second import OnceASecond
from tuncer.pipeline.records import in_bytes
from tuncer.protocol import pcapng, wire_format
from tuncer.protocol.batch import Batch
from tuncer.protocol.packet import DeviceError, Packet, packet_class

log = logging.getLogger("tuncer")

_AGAIN = 0.05  # seconds until a device that is away is looked for again
_A_MOMENT = 0.005  # seconds that a function may take before messages have their turn
_END = object()
_NO_IDENTITY = 0
_UNTOLD_STREAM = 1
_PACKETS = (Packet, bytes, bytearray, memoryview)
_NUMBERS = range(1 << 64)  # what the numbers and times of packets may be
_QUEUES = range(1 << 16)
_LONGEST_START = 64  # bytes before a packet
_LONGEST_MESSAGE = 1 << 20  # bytes of each of its frames; whoever sends more is disconnected
_MESSAGES = 64  # that are read before the worker does something else
_CUT_OFF = 0.5  # seconds without an attempt to connect again, which ZeroMQ makes at once
_EVENTS = (
    zmq.EVENT_CONNECTED
    | zmq.EVENT_CONNECT_DELAYED
    | zmq.EVENT_CONNECT_RETRIED
    | zmq.EVENT_DISCONNECTED
)
_QUEUED = 2000  # messages, at most, that may have arrived before the sources are to end
_LONGEST_NAME = 255  # bytes of a topic
_LONGEST_TEXT = 500  # characters in the log of what somebody has sent


class Source(ABC):
    """Where packets come from."""

    can_repeat = True
    """Whether it gives again what was in hand at a kill."""
    is_shared = False
    """Whether several producers feed it, whose packets need not come in the same order again."""

    def __init__(self, position: int, identity: int) -> None:
        """Begin behind what was committed.

        Args:
            position: of the next packet, as this source counts; 0 at the first start.
            identity: of what the position is in; 0 if nothing is known of it.
        """
        self.position = position
        self.identity = identity
        self.missed = 0
        """Packets that the source itself was too slow for, since this process began."""
        self.hurry = False
        """Whether packets are taken that are not due yet: those that were in hand at a kill."""
        self.of = 0
        """Whose packets were read last: a number of one of the producers that share the source."""
        self.wanted = 0
        """Of a shared source, in a hurry: whose packets are to be read."""

    @abstractmethod
    def read(self, most: int, most_bytes: int) -> list[Packet] | None:
        """Return the next packets; none if there are none now, None if there will be no more.

        Args:
            most: packets, at most.
            most_bytes: bytes, at most, unless the first packet alone has more.
        """

    def has_more_to_drain(self) -> bool:
        """Tell, when the sources are to end, whether there are packets that came before that.

        They are those that would be lost: a file has its packets the next time, too.
        """
        return False

    def kept(self) -> Any:
        """Return what is committed beside the position: a term; None: nothing."""
        return None

    def committed(self) -> None:
        """Take note that what came of all packets that were read is committed."""
        return

    def ended(self) -> None:
        """Take note that nothing more will be read."""
        return

    def fileno(self) -> int | None:
        """Return a descriptor that is readable when there may be packets; None: always."""
        return None

    def delay(self) -> float | None:
        """Return the seconds after which there may be packets; None: a descriptor tells."""
        return None

    def close(self) -> None:
        """Close what is open."""
        return


class _BulkSource(Source):
    """A source that gives packets by the number; those that have too many bytes wait here."""

    def __init__(self, position: int, identity: int) -> None:
        super().__init__(position, identity)
        self._left: list[Packet] = []

    def read(self, most: int, most_bytes: int) -> list[Packet] | None:
        """Return the next packets."""
        if not self._left:
            more = self._more(most)
            if not more:
                return more
            self._left = more
        count = in_bytes(self._left[:most], most_bytes)
        found, self._left = self._left[:count], self._left[count:]
        self._advance(found)
        return found

    @abstractmethod
    def _more(self, most: int) -> list[Packet] | None:
        """Return packets, as ``read`` does, of any number of bytes."""

    @abstractmethod
    def _advance(self, packets: list[Packet]) -> None:
        """Move the position behind packets that are being returned."""


class PortSource(_BulkSource):
    """A device, or one queue of it.

    The position is the next packet's ``seq`` in the device's log, which outlives this worker: so
    what was read from the device and not done with yet is read again after a crash.
    """

    def __init__(self, position: int, identity: int, options: dict[str, Any]) -> None:
        super().__init__(position, identity)
        self._options = options
        self._made = options["device"] is None
        self._subscription: RingSubscription | None = None
        self._end: int | None = None
        if identity == _NO_IDENTITY:
            self._attach()
        # Otherwise this is a restart, and the device's worker may wait to be restarted behind it,
        # by the same supervisor: then this start must not wait for the device.

    def has_more_to_drain(self) -> bool:
        """Tell whether the device's log had packets, when this was asked first, that wait still."""
        if self._subscription is None:
            return False
        if self._end is None:
            self._end = self._subscription.head
        return self.position < self._end

    def _attach(self) -> None:
        """Subscribe, if the device is there."""
        try:
            device = device_of(self._options)
            found = device.subscribe(batch=256, queue=self._options["queue"])
        except DeviceError:
            return
        assert isinstance(found, RingSubscription)
        if found.ring_mark == self.identity:
            found.go_back(self.position)
        elif self._made:  # a new one, which this pipeline has made: nothing of it is left out
            found.go_back(0)
        self.identity, self.position = found.ring_mark, found.next_seq
        self._subscription = found

    def _more(self, most: int) -> list[Packet] | None:
        del most
        if self._subscription is None:
            self._attach()
        if self._subscription is None:
            return []
        try:
            batch = self._subscription.recv(timeout=0)
        except TimeoutError:
            return []
        except (EOFError, DeviceError):
            self._subscription.close()
            self._subscription = None
            return [] if self._made else None
        assert isinstance(batch, Batch)
        return list(batch)

    def _advance(self, packets: list[Packet]) -> None:
        self.position = packets[-1].seq + 1
        self.missed += sum(packet.lost for packet in packets)

    def fileno(self) -> int | None:
        """Return the subscription's descriptor; -1: the device is away."""
        return -1 if self._subscription is None else self._subscription.fileno()

    def delay(self) -> float | None:
        """Return when to look for a device that is away."""
        return _AGAIN if self._subscription is None else None

    def close(self) -> None:
        """End the subscription."""
        if self._subscription is not None:
            self._subscription.close()


class PcapSource(_BulkSource):
    """A capture file. The position is a byte in it."""

    def __init__(self, position: int, identity: int, path: str, *, timed: bool) -> None:
        super().__init__(position, identity)
        self._file = open(path, "rb")  # noqa: SIM115 - closed by close
        self._records: Iterator[pcapng.Captured] = pcapng.read(self._file, path)
        self._timed = timed
        self._next: pcapng.Captured | None = None
        self._ends: deque[int] = deque()
        self._seq = 0
        self._began: tuple[float, int] | None = None
        while position and (record := self._read()):
            self._seq += 1
            if record.end >= position:
                break

    def _more(self, most: int) -> list[Packet] | None:
        found: list[Packet] = []
        while len(found) < most:
            record = self._next or self._read()
            if record is None:
                return found or None
            self._next = record
            if self._timed and not self.hurry and self._wait() > 0:
                break
            self._next = None
            found.append(record.packet(self._seq))
            self._seq += 1
            self._ends.append(record.end)
        return found

    def _advance(self, packets: list[Packet]) -> None:
        for _ in packets:
            self.position = self._ends.popleft()

    def _read(self) -> pcapng.Captured | None:
        """Return the next packet; a file that is damaged ends there."""
        try:
            return next(self._records, None)
        except pcapng.CaptureError as error:
            log.error("the source ends early: %s", error)
            self._records = iter(())
            return None

    def _wait(self) -> float:
        """Return the seconds until the next packet is due."""
        assert self._next is not None
        now = time.monotonic()
        if self._began is None:
            self._began = now, self._next.timestamp
        began, first = self._began
        return began + (self._next.timestamp - first) / 1e9 - now

    def delay(self) -> float | None:
        """Return when the next packet is due."""
        return None if self._next is None else max(0.0, self._wait())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class FunctionSource(_BulkSource):
    """Whatever a function returns. The position is how many packets were taken of it."""

    def __init__(self, position: int, identity: int, name: str, start: str) -> None:
        super().__init__(position, identity)
        self._name = name
        self._packets: Iterator[Any] = iter(load_reference(start)())
        self._to_leave_out = position
        self._is_quick = False

    def _advance(self, packets: list[Packet]) -> None:
        self.position += len(packets)

    def delay(self) -> float | None:
        """Return at once: there is something to do whenever this is asked."""
        return 0.0

    def _leave_out(self) -> None:
        """Leave out some of the packets that a predecessor has done with.

        It does not do all at once: a slow function would hold up the start, and with it those of
        all other workers.
        """
        until = time.monotonic() + _A_MOMENT
        while self._to_leave_out and time.monotonic() < until:
            self._to_leave_out -= 1
            if next(self._packets, _END) is _END:
                self._to_leave_out = 0

    def _taken(self, most: int) -> list[Any]:
        """Return packets of the function: one, unless the last one came within a moment.

        A function that waits between packets must not hold back those that it has yielded.
        """
        given: list[Any] = []
        at_once, is_quick = 1, True
        try:
            while is_quick and len(given) < most:
                began, before = time.monotonic(), len(given)
                given.extend(itertools.islice(self._packets, min(at_once, most - before)))
                if len(given) < before + at_once:
                    break
                is_quick = time.monotonic() - began < _A_MOMENT
                if not self._is_quick:
                    break
                at_once *= 2
        except Exception as error:
            if not given:
                raise
            self._packets = _raising(error)  # behind what it has yielded before
        self._is_quick = is_quick
        return given

    def _more(self, most: int) -> list[Packet] | None:
        if self._to_leave_out:
            self._leave_out()
        if self._to_leave_out:
            return []
        given = self._taken(most)
        first, now = self.position, time.time_ns()
        if set(map(type, given)) == {bytes}:
            numbers = range(first, first + len(given))
            same = itertools.repeat(now), itertools.repeat(self._name), itertools.repeat(0)
            fields = zip(given, numbers, *same, itertools.repeat(0), strict=False)
            return list(map(functools.partial(tuple.__new__, Packet), fields))
        right = list(itertools.takewhile(lambda one: isinstance(one, _PACKETS), given))
        if len(right) < len(given):
            wrong = given[len(right)]
            text = f"source {self._name!r} yields packets, or bytes, not {wrong!r:.100}"
            if not right:
                raise TypeError(text)
            self._packets = _raising(TypeError(text))  # behind what it has yielded before
        return [self._packet(one, first + n, now) for n, one in enumerate(right)] or None

    def _packet(self, given: Any, seq: int, now: int) -> Packet:
        if isinstance(given, Packet):
            return given
        return Packet(bytes(given), seq, now, self._name)


class ZmqSource(_BulkSource):
    """A ZeroMQ endpoint of the wire format. The position is the next packet's number.

    The identity is the stream of that number, or 1 of a sender that does not tell its stream.
    """

    can_repeat = False

    def __init__(self, position: int, identity: int, endpoint: str, topic: str) -> None:
        super().__init__(position, identity)
        self._endpoint = endpoint
        self._ignored = OnceASecond(log, logging.WARNING)
        self._is_behind = False
        self._left_to_drain: int | None = None
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.MAXMSGSIZE, _LONGEST_MESSAGE)
        self._socket.setsockopt(zmq.RECONNECT_IVL, 1)
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        self._socket.setsockopt(zmq.SUBSCRIBE, topic.encode())
        self._monitor = self._socket.get_monitor_socket(_EVENTS)
        self._was_cut_off = 0.0
        self._epoll = select.epoll()
        for one in (self._socket, self._monitor):
            self._epoll.register(int(one.getsockopt(zmq.FD)), select.EPOLLIN)
        self._socket.connect(endpoint)

    def _more(self, most: int) -> list[Packet] | None:
        del most
        self._is_behind = False
        for _ in range(_MESSAGES):
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                # Its descriptor tells of changes alone: look whether there was one just now.
                if int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
                    continue
                if self._left_to_drain is not None:
                    self._left_to_drain = 0
                self._connect_again()
                return []
            if self._left_to_drain is not None:
                self._left_to_drain -= 1
            try:
                found = self._packets(wire_format.decode(frames))
            except ValueError as error:  # of whoever else sends there
                what = f"{self._endpoint}: a message is ignored: {error}"
                self._ignored.tell(what[:_LONGEST_TEXT])
                continue
            if found:
                return found
        self._is_behind = True
        return []

    def delay(self) -> float | None:
        """Return at once, if there may be more of messages that brought no packets."""
        if self._is_behind:
            return 0.0
        return _CUT_OFF if self._was_cut_off else None

    def _connect_again(self) -> None:
        """Connect again, if ZeroMQ does not: after a message that was too long."""
        while self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)["event"]
            gone = event == zmq.EVENT_DISCONNECTED
            self._was_cut_off = time.monotonic() if gone else 0.0
        if self._was_cut_off and time.monotonic() - self._was_cut_off >= _CUT_OFF:
            self._ignored.tell(
                f"{self._endpoint}: its sender was cut off, after a message of more than"
                f" {_LONGEST_MESSAGE} bytes"
            )
            self._was_cut_off = 0.0
            with contextlib.suppress(zmq.ZMQError):  # otherwise ``connect`` does nothing
                self._socket.disconnect(self._endpoint)
            self._socket.connect(self._endpoint)

    def has_more_to_drain(self) -> bool:
        """Tell whether messages may wait that had arrived when this was asked first.

        ZeroMQ does not tell how many there are, but not more than this at once.
        """
        if self._left_to_drain is None:
            self._left_to_drain = _QUEUED
        return self._left_to_drain > 0 or bool(self._left)

    def _packets(self, message: wire_format.Message) -> list[Packet]:
        """Return the packets of a message that are new; count those that are missing.

        Raises:
            ValueError: its numbers are such as no device and no pipeline sends.
        """
        last = message.seq + len(message.packets)
        if not (
            message.seq in _NUMBERS
            and last in _NUMBERS
            and message.timestamp in _NUMBERS
            and message.queue in _QUEUES
            and message.stream in _NUMBERS
            and message.framing.start <= _LONGEST_START
            and len(message.topic) <= _LONGEST_NAME
            and max(map(len, message.packets), default=0) <= MOST_BYTES
        ):
            raise ValueError("its numbers, its topic or its packets are such as nobody sends")
        stream = message.stream or _UNTOLD_STREAM
        if self.identity not in {_NO_IDENTITY, stream}:
            # Its sender was killed, or somebody else sends: what was missed of the former numbers
            # nobody knows.
            log.warning("%s: the sender begins its numbers anew", self._endpoint)
            self.identity = _NO_IDENTITY
        if self.identity == _NO_IDENTITY:
            self.position = message.seq
        seen = max(0, self.position - message.seq)
        first = message.seq + seen
        lost = first - self.position
        kind, name = packet_class(message.framing), message.topic.decode(errors="replace")
        found = [
            kind(data, first + n, message.timestamp, name, 0 if n else lost, message.queue)
            for n, data in enumerate(message.packets[seen:])
        ]
        if not found and lost:  # a message without packets tells of a gap
            self.missed += lost
            self.position = first
        # After the last message of a device, or of a pipeline, its successor counts from 0.
        self.identity = stream if message.end is None else _NO_IDENTITY
        return found

    def _advance(self, packets: list[Packet]) -> None:
        self.position = packets[-1].seq + 1
        self.missed += sum(packet.lost for packet in packets)

    def fileno(self) -> int | None:
        """Return a descriptor that is readable when something has happened to the connection."""
        return self._epoll.fileno()

    def close(self) -> None:
        """Close the socket."""
        self._epoll.close()
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close(0)
        self._context.term()


def _raising(error: Exception) -> Iterator[Any]:
    """Return an iterator that raises an exception at once."""
    raise error
    yield
