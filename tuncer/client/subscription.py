"""Subscriptions: how a process receives a device's packets.

A ring subscription has a ``seq`` of its own in the ring, and an eventfd that the worker signals. A
ZeroMQ subscription gets messages, as a reader in any language does. Both have a connection to the
device's control socket. The kernel closes it when the worker and its supervisors have ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import os
import select
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, cast

from tuncer.protocol.batch import Batch
from tuncer.protocol.packet import DeviceError, DeviceEvent, Packet
from tuncer.protocol.timeouts import DAY, check_timeout

Item = Packet | DeviceEvent | Batch
Kind = TypeVar("Kind", bound=Item)
"""What a subscription yields: a matter of ``batch`` and ``events``."""


class Subscription(ABC, Generic[Kind]):
    """Yields the packets that a device has read since ``subscribe`` returned.

    Each of them is delivered, or counted as lost. A subscription goes on by itself over restarts of
    the worker. It ends when the device is destroyed. It raises ``DeviceError`` when somebody else
    has deleted the device, or its supervisors were killed. It is a context manager and an iterator,
    of asyncio too.

    A subscription belongs to one thread at a time, and is not shared with forked processes.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._poller = _epoll()
        self._awaited_by: Callable[[], object] | None = None
        # Readable while this subscription has taken packets from the device that it has not
        # returned.
        self._more = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._is_more_set = False
        self._poller.register(self._more, select.EPOLLIN)

    @abstractmethod
    def _next(self) -> Item | None:
        """Return the next item, or None if there is none yet; raise what ends the subscription."""

    @abstractmethod
    def stats(self) -> dict[str, int]:
        """Return how many packets were ``delivered`` and how many were ``lost``.

        When every packet has been delivered, the sum of both is what the worker has read since the
        subscription began.
        """

    @abstractmethod
    def close(self) -> None:
        """End the subscription; the device goes on."""

    def recv(self, timeout: float | None = None) -> Kind:
        """Return the next packet; with ``batch`` a Batch, with ``events`` perhaps a DeviceEvent.

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
            # Under load there is always a next packet: let other tasks run. Nothing is awaited
            # between taking a packet and returning it: a cancellation there would lose the packet.
            await asyncio.sleep(0)
        try:
            async with asyncio.timeout(timeout):
                while (item := self._next()) is None:
                    await self._readable()
                return cast("Kind", item)
        except TimeoutError:
            raise TimeoutError(f"no packet of {self._device} within {timeout} s") from None

    def _has_more(self) -> bool:
        """Tell whether an item was taken from the device, and not returned yet."""
        return False

    def _is_behind(self) -> bool:
        """Tell whether there may be packets to take, of which no descriptor tells."""
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
        if not self._is_more_set:
            os.eventfd_write(self._more, 1)
            self._is_more_set = True

    def _clear_more(self) -> None:
        """Reset the eventfd of packets that were taken and not returned."""
        if self._is_more_set and not self._poller.closed:
            os.eventfd_read(self._more)
            self._is_more_set = False

    def _close_poller(self) -> None:
        """Close the descriptors, and wake a task that waits for them."""
        if self._poller.closed:
            return
        if self._awaited_by is not None:
            with contextlib.suppress(RuntimeError):  # its loop is closed
                self._awaited_by()
        self._poller.close()
        os.close(self._more)

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._poller.closed

    def fileno(self) -> int:
        """Return a descriptor that is readable when there may be an item, or the end.

        Then call ``recv(timeout=0)``: once, or until it raises TimeoutError. An actor that has
        other things to do calls it once: the descriptor stays readable as long as there are more
        items.
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
                if isinstance(error, DeviceError) and error.errno == errno.ETIMEDOUT:
                    # A lossless subscription to this queue was ended; the device goes on.
                    self._error = error
                    self._open.clear()
                    break
                self._open.popleft()
                self._poller.unregister(part.fileno())
                if self._error is None or isinstance(error, DeviceError):
                    self._error = error
                continue
            self._open.rotate(-1)  # the next item is another queue's, if it has one
            if item is not None:
                return item
        if self._error is not None and not self._open:
            raise self._error
        return None

    def _of(self, part: Subscription[Any]) -> Item | None:
        """Return the next item of a queue.

        Events of the link come from each queue's worker: those of the first queue count for all.
        """
        while True:
            item = part._next()  # noqa: SLF001 - of the same class
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
        self._error = self._error or over(self._device)


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


def over(device: str) -> EOFError:
    """Return what a subscription raises after an end in order."""
    return EOFError(f"{device} was destroyed, or the subscription was closed")
