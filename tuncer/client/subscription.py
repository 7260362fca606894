"""Subscriptions: how a process receives a device's packets.

One that reads the ring has a seq of its own in it, and an eventfd that says "look". One that
gets ZeroMQ messages works the same over any distance. Both watch the device's door, whose other
end closes when worker and supervisors are gone.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import errno
import functools
import operator
import os
import select
import time
import uuid
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, cast

import zmq

from supervisor.protocol.channel import Channel, close_all
from tuncer.client.worker_client import PATIENCE
from tuncer.protocol import control_socket, paths, ring, wire_format
from tuncer.protocol.packet import DeviceError, DeviceEvent, Packet
from tuncer.protocol.timeouts import DAY, check_timeout

Item = Packet | DeviceEvent | list[Packet]
Kind = TypeVar("Kind", bound=Item)
"""What a subscription yields: a matter of ``batch`` and ``events``."""

_CHUNK = 64  # packets taken from the ring at a time
_STRAGGLERS = 1000  # ms that the last messages may be late after the device's end


class Subscription(ABC, Generic[Kind]):
    """Yields a device's packets from the moment on when ``subscribe`` returned.

    Every packet that was read since then is delivered or counted as lost. It goes on by itself
    over restarts of the worker, and ends when the device is destroyed; when it was deleted by
    others, or its supervisors were killed, it raises ``DeviceError``. A context manager and an
    iterator, of asyncio too.

    A subscription belongs to one thread at a time, and is not shared with forked processes.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._poller = _epoll()
        self._awaited_by: Callable[[], object] | None = None
        # Readable while this has taken more from the device than it has given.
        self._more = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poller.register(self._more, select.EPOLLIN)

    @abstractmethod
    def _next(self) -> Item | None:
        """Return the next item that is there, or None; raise what ends the subscription."""

    @abstractmethod
    def stats(self) -> dict[str, int]:
        """Return how many packets were ``delivered`` and how many were ``lost``.

        When all that there is has been delivered, their sum is what was read since the
        subscription began.
        """

    @abstractmethod
    def close(self) -> None:
        """End the subscription; the device goes on."""

    def recv(self, timeout: float | None = None) -> Kind:
        """Return the next packet; with ``batch`` a list, with ``events`` perhaps a DeviceEvent.

        Args:
            timeout: seconds; None waits as long as the device lives.

        Raises:
            TimeoutError: nothing came in time.
            EOFError: the device was destroyed, and everything before has been delivered; or the
                subscription was closed. A loop over the subscription just ends.
            DeviceError: the device has ended otherwise.
        """
        check_timeout(timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            item = self._next()
            if item is not None:
                if timeout == 0 and (self._has_more() or self._is_behind()):
                    self._stay_readable()
                return cast("Kind", item)
            remaining = DAY if deadline is None else deadline - time.monotonic()
            if remaining <= 0:
                raise TimeoutError(f"no packet of {self._device} within {timeout} s")
            self._poller.poll(min(remaining, DAY))

    async def arecv(self, timeout: float | None = None) -> Kind:  # noqa: ASYNC109 - as recv
        """Return the next packet, from asyncio. See ``recv``. Cancelled, it loses none."""
        check_timeout(timeout)
        if not self._has_more():
            # Under load there is always a next packet: let others run. Nothing is awaited between
            # taking a packet and returning it, where a cancellation would lose it.
            await asyncio.sleep(0)
        try:
            async with asyncio.timeout(timeout):
                while (item := self._next()) is None:
                    await self._readable()
                return cast("Kind", item)
        except TimeoutError:
            raise TimeoutError(f"no packet of {self._device} within {timeout} s") from None

    def _has_more(self) -> bool:
        """Tell whether there is an item that was taken from the device already."""
        return False

    def _is_behind(self) -> bool:
        """Tell whether there may be packets that were not taken yet, and that nothing tells of."""
        return True

    async def _readable(self) -> None:
        if self._awaited_by is not None:
            raise RuntimeError(f"another task waits for a packet of this subscription: {self!r}")
        loop, fd = asyncio.get_running_loop(), self._poller.fileno()
        ready: asyncio.Future[None] = loop.create_future()

        def wakeup_fd() -> None:
            loop.remove_reader(fd)
            if not ready.done():
                ready.set_result(None)

        self._awaited_by = functools.partial(loop.call_soon_threadsafe, wakeup_fd)
        loop.add_reader(fd, wakeup_fd)
        try:
            await ready
        finally:
            self._awaited_by = None
            loop.remove_reader(fd)

    def _stay_readable(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_write(self._more, 1)

    def _clear_more(self) -> None:
        """What made the descriptor readable is looked at now."""
        with contextlib.suppress(OSError):  # nothing, or it is closed
            os.eventfd_read(self._more)

    def _close_poller(self) -> None:
        """Close the descriptor, and have a task that waits for it look."""
        if self._poller.closed:
            return
        if self._awaited_by is not None:
            with contextlib.suppress(RuntimeError):  # its loop is closed
                self._awaited_by()
        self._poller.close()
        os.close(self._more)

    def fileno(self) -> int:
        """Return a descriptor that is readable when something may have come, the end included.

        Then call ``recv(timeout=0)`` once, or until it raises TimeoutError. In an actor that has
        more to do, once: the descriptor stays readable as long as there is more.
        """
        return self._poller.fileno()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Kind]:
        return self

    def __next__(self) -> Kind:
        try:
            return self.recv()
        except EOFError:
            raise StopIteration from None

    def __aiter__(self) -> AsyncIterator[Kind]:
        return self

    async def __anext__(self) -> Kind:
        try:
            return await self.arecv()
        except EOFError:
            raise StopAsyncIteration from None

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()


class Merged(Subscription[Item]):
    """The subscriptions of a device's queues as one. Each queue's packets keep their order."""

    def __init__(self, device: str, parts: list[Subscription[Any]]) -> None:
        super().__init__(device)
        self._parts = parts
        self._open = deque(parts)
        self._error: Exception | None = None
        for part in parts:
            self._poller.register(part.fileno(), select.EPOLLIN)

    def _next(self) -> Item | None:
        self._clear_more()
        for _ in range(len(self._open)):
            part = self._open[0]
            try:
                item = self._of(part)
            except (DeviceError, EOFError) as error:
                self._open.popleft()
                self._poller.unregister(part.fileno())
                if self._error is None or isinstance(error, DeviceError):
                    self._error = error
                continue
            self._open.rotate(-1)  # the others are next
            if item is not None:
                return item
        if self._error is not None and not self._open:
            raise self._error
        return None

    def _of(self, part: Subscription[Any]) -> Item | None:
        """Return the next item of a queue, past what the first queue's worker tells for all."""
        while True:
            item = part._next()
            of_all = isinstance(item, DeviceEvent) and item.kind != "passive"
            if not of_all or part is self._parts[0]:
                return item

    def stats(self) -> dict[str, int]:
        """Return how many packets were ``delivered`` and ``lost``, of all queues."""
        found = [part.stats() for part in self._parts]
        return {name: sum(one[name] for one in found) for name in found[0]}

    def close(self) -> None:
        """End the subscription; the device goes on."""
        for part in self._parts:
            part.close()
        self._close_poller()
        self._open.clear()
        self._error = self._error or _over(self._device)


def _epoll() -> select.epoll:
    """Return a new epoll object.

    Raises:
        RuntimeError: something has patched it away.
    """
    if not hasattr(select, "epoll"):
        raise RuntimeError(
            "a subscription needs select.epoll, which has been taken away, by gevent's"
            " monkey.patch_all() most likely: patch_all(select=False) leaves it"
        )
    return select.epoll()


def _over(device: str) -> EOFError:
    return EOFError(f"{device} was destroyed, or the subscription was closed")


class _QueueSubscription(Subscription[Item]):
    """A subscription to one queue: a seq in its log, and the connection of its door."""

    def __init__(
        self, device: str, channel: Channel, wakeup_fd: int, batch: bool, events: bool, queue: int
    ) -> None:
        super().__init__(device)
        self._channel = channel
        self._batch = batch
        self._wants_events = events
        self._queue = queue
        self._ready: deque[Item] = deque()
        self._pending_events: deque[tuple[int, DeviceEvent]] = (
            deque()
        )  # with the packets that were before
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
    def _take_packets(self) -> list[Packet]:
        """Return the packets that are there, without waiting; account for lost ones."""

    @abstractmethod
    def _clear_wakeup(self) -> None:
        """Get ready to wait: take note that what woke this has been seen."""

    def _has_more(self) -> bool:
        return bool(self._ready)

    def _next(self) -> Item | None:
        if not self._ready:
            self._clear_more()
            self._clear_wakeup()
            if self._end is None:
                self._read_control()
            # In this order: what the log held when the end was told is delivered before it.
            self._interleave(self._take_packets())
            if not self._ready and self._end is not None:
                raise self._end
        if not self._ready:
            return None
        item = self._ready.popleft()
        self._delivered += len(item) if isinstance(item, list) else isinstance(item, Packet)
        return item

    def _interleave(self, packets: list[Packet]) -> None:
        """Put packets in the queue, and each event after the last packet that was before it."""
        over = not packets and self._end is not None  # what is missing now does not come any more
        while self._pending_events and (over or self._pending_events[0][0] <= self._seq):
            seq, event = self._pending_events.popleft()
            number = bisect.bisect_left(packets, seq, key=operator.attrgetter("seq"))
            self._put(packets[:number])
            self._ready.append(event)
            packets = packets[number:]
        self._put(packets)

    def _put(self, packets: list[Packet]) -> None:
        if packets and self._batch:
            self._ready.append(packets)
        else:
            self._ready.extend(packets)

    def _read_control(self) -> None:
        """Listen to what the worker says besides packets."""
        counted = self._counted_events()  # before: what is not there then was missed
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
            elif word == control_socket.END:
                number, text, self._log_end, events = terms
                self._note_missed(events)
                self._end = DeviceError(number, text, self._device) if number else self._over()

    def _note_missed(self, events: int) -> None:
        """Take note of how many events there were: what was not heard of them was missed."""
        if events > self._event_seq:
            self._queue_event(self._seq, "missed", events - self._event_seq)
            self._event_seq = events

    def _queue_event(self, seq: int, kind: str, value: bool | int | str | None) -> None:
        if self._wants_events:
            self._pending_events.append((seq, DeviceEvent(kind, self._device, value, self._queue)))

    def _counted_events(self) -> int:
        """Return how many events the worker has told, as far as that is known here."""
        return self._event_seq

    def _unannounced_end(self) -> DeviceError | EOFError:
        """Return how the device has ended, when nobody has told, or there was no room to tell."""
        problem = "the device's worker and its supervisors are gone"
        return DeviceError(errno.EPIPE, problem, self._device)

    def _over(self) -> EOFError:
        return _over(self._device)

    def stats(self) -> dict[str, int]:
        """Return how many packets were ``delivered`` and how many were ``lost``.

        When all that there is has been delivered, their sum is what was read since the
        subscription began.
        """
        return {"delivered": self._delivered, "lost": self._lost}

    def close(self) -> None:
        """End the subscription; the device goes on."""
        self._channel.close()
        self._close_poller()
        self._end = self._end or self._over()


class RingSubscription(_QueueSubscription):
    """Reads the ring: for processes on the device's host."""

    def __init__(self, path: Path, device: str, batch: bool, events: bool, queue: int = 0) -> None:
        answer, fds, channel = control_socket.request(
            path, device, "subscribe", events, timeout=PATIENCE, descriptors=2
        )
        log, event = fds
        try:
            self._log: ring.Reader | None = ring.Reader(log)
        except BaseException:  # it has no room in memory
            channel.close()
            os.close(event)
            raise
        finally:
            os.close(log)
        self._uncounted = 0
        super().__init__(device, channel, event, batch, events, queue)
        self._seq, self._event_seq = answer[1:]

    def _clear_wakeup(self) -> None:
        if self._log is not None:  # after close the number may be anybody's
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wakeup_fd)

    def _counted_events(self) -> int:
        return self._event_seq if self._log is None else self._log.control.events

    def _unannounced_end(self) -> DeviceError | EOFError:
        number = None if self._log is None else self._log.control.ended
        if number is None:
            return super()._unannounced_end()
        return DeviceError(number, os.strerror(number), self._device) if number else self._over()

    def _is_behind(self) -> bool:
        return self._log is not None and self._seq < self._log.control.head

    def _take_packets(self) -> list[Packet]:
        if self._log is None:
            return []
        before = self._uncounted
        packets, self._seq, self._uncounted = self._log.read(
            self._seq, _CHUNK, self._device, before, self._queue
        )
        self._lost += sum(packet.lost for packet in packets) + self._uncounted - before
        return packets

    def close(self) -> None:
        """End the subscription; the device goes on."""
        if self._log is not None:
            self._log.close()
            self._log = None
            os.close(self._wakeup_fd)
            super().close()


class ZmqSubscription(_QueueSubscription):
    """Receives messages of the wire format."""

    def __init__(self, path: Path, device: str, batch: bool, events: bool, queue: int = 0) -> None:
        answer, _, channel = control_socket.request(path, device, "watch", events, timeout=PATIENCE)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        # With the default of 100 ms a restart would cost hundreds of batches.
        self._socket.setsockopt(zmq.RECONNECT_IVL, 1)
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        self._socket.setsockopt(zmq.SUBSCRIBE, device.encode())
        self._socket.connect(f"ipc://{paths.publisher(path)}")
        hello = wire_format.HELLO + uuid.uuid4().bytes
        self._socket.setsockopt(zmq.SUBSCRIBE, hello)  # after connect, to be heard in this order
        wakeup_fd = int(self._socket.getsockopt(zmq.FD))
        super().__init__(device, channel, wakeup_fd, batch, events, queue)
        self._event_seq = answer[2]
        self._early: deque[wire_format.Batch] = deque()
        self._had_last = False
        self._untold = 0
        try:
            self._seq = self._handshake(hello)
        except BaseException:
            self.close()
            raise
        self._socket.setsockopt(zmq.UNSUBSCRIBE, hello)

    def _handshake(self, hello: bytes) -> int:
        """Wait for the answer to the greeting: from its number on, everything comes here."""
        deadline = time.monotonic() + PATIENCE
        while True:
            remaining = deadline - time.monotonic()
            if remaining <= 0 or not self._socket.poll(int(remaining * 1000) + 1):
                raise DeviceError(errno.ETIMEDOUT, "the publisher does not answer", self._device)
            batch = wire_format.decode(self._socket.recv_multipart())
            if batch.topic == hello:
                return batch.seq
            self._early.append(batch)

    def _clear_wakeup(self) -> None:
        """Nothing to do: the socket's descriptor is quiet when everything has been received."""

    def _take_packets(self) -> list[Packet]:
        while True:
            packets = self._accept(self._early.popleft()) if self._early else self._receive()
            if packets:
                return packets
            if packets is None and not self._more_to_come():
                return []

    def _more_to_come(self) -> bool:
        """After the device's end, wait for what is still on its way: the last message says so."""
        if self._end is None or self._had_last or self._socket.closed:
            return False
        self._had_last = not self._socket.poll(_STRAGGLERS)
        if self._had_last and self._log_end is not None:
            # What this was too slow for is told by nobody else any more.
            self._lost += max(0, self._log_end - self._seq)
            self._seq = max(self._seq, self._log_end)
        return not self._had_last

    def _receive(self) -> list[Packet] | None:
        if self._socket.closed:
            return None
        try:
            frames = self._socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return None
        return self._accept(wire_format.decode(frames))

    def _accept(self, batch: wire_format.Batch) -> list[Packet]:
        """Drop what was seen already, and count what is missing."""
        if batch.topic != self._device.encode():
            return []
        if batch.end is not None:
            self._had_last = True
            if batch.end == "closed":
                self._end = self._end or self._over()
        seen = max(0, self._seq - batch.seq)
        packets = batch.packets[seen:]
        first = batch.seq + seen
        lost = max(0, first - self._seq) if packets or not batch.packets else 0
        self._lost += lost
        self._untold += lost  # a message without packets tells of a gap, the next packet repeats it
        self._seq = max(self._seq, batch.seq + len(batch.packets))
        untold = self._untold
        if packets:
            self._untold = 0
        return [
            Packet(
                *(data, first + number, batch.timestamp, self._device, 0 if number else untold),
                queue=self._queue,
            )
            for number, data in enumerate(packets)
        ]

    def close(self) -> None:
        """End the subscription; the device goes on."""
        if not self._socket.closed:
            self._socket.close(0)
            self._context.term()
            super().close()
