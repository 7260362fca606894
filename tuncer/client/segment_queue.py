"""The segments of large packets that no call of ``recv`` has returned yet.

A call that gets a large packet returns its first segment. The others belong to the calls that wait
already, and to the next ones. So one call at a time asks the worker, and the others wait for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable

from supervisor.lowlevel import RLock
from tuncer.client.worker_client import WorkerClient

_LATE = "no packet in time"


class _Call:
    """A call of recv."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()


class SegmentQueue:
    """Returns the ordinary packets of one queue of a device, to threads and tasks."""

    def __init__(self, worker: WorkerClient, cut: Callable[[bytes], list[bytes]]) -> None:
        """Receive from a worker.

        Args:
            worker: of the queue.
            cut: returns the ordinary packets of one that was read.
        """
        self._worker = worker
        self._cut = cut
        self._lock = RLock()
        self._segments: deque[bytes] = deque()
        self._asking: set[_Call] = set()  # the calls that wait for the worker
        self._waiting: list[Callable[[], object]] = []  # wake the calls that wait for those

    def recv(self, timeout: float | None) -> bytes:
        """Return the next packet. See ``Device.recv``."""
        deadline = None if timeout is None else time.monotonic() + timeout
        call = _Call()
        try:
            while True:
                turn = threading.Event()
                if (packet := self._take(call, turn.set, blocks=True)) is not None:
                    return packet
                rest = None if deadline is None else max(0.0, deadline - time.monotonic())
                if call in self._asking:
                    self._segments += self._cut(self._worker.recv(rest))
                    self._leave(call)
                elif not turn.wait(rest):
                    raise TimeoutError(_LATE)
        finally:
            self._leave(call)

    async def arecv(self, timeout: float | None) -> bytes:  # noqa: ASYNC109 - as recv
        """Return the next packet, from asyncio. See ``Device.recv``."""
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + timeout
        call = _Call()
        try:
            while True:
                turn = asyncio.Event()

                def wake(turn: asyncio.Event = turn) -> None:
                    with contextlib.suppress(RuntimeError):  # the loop is closed
                        loop.call_soon_threadsafe(turn.set)

                if (packet := self._take(call, wake, blocks=False)) is not None:
                    return packet
                rest = None if deadline is None else max(0.0, deadline - loop.time())
                if call in self._asking:
                    self._segments += self._cut(await self._worker.arecv(rest))
                    self._leave(call)
                else:
                    await _until(turn, rest)
        finally:
            self._leave(call)

    def _take(self, call: _Call, wake: Callable[[], object], *, blocks: bool) -> bytes | None:
        """Return a segment; if there is none, let the call ask the worker, or have it woken.

        Args:
            call: which has the next segment.
            wake: called when it is worth another look.
            blocks: whether its thread does nothing else meanwhile. Then it does not wait for a
                call of the same thread: of a signal's handler, or of a task, that is interrupted.
        """
        with self._lock:
            if self._segments:
                return self._segments.popleft()
            others = [one for one in self._asking if not blocks or one.thread != call.thread]
            if others:
                self._waiting.append(wake)
            else:
                self._asking.add(call)
            return None

    def _leave(self, call: _Call) -> None:
        """Let others ask the worker, or take what this call has left, if it has asked."""
        with self._lock:
            if call not in self._asking:
                return
            self._asking.remove(call)
            waiting, self._waiting = self._waiting, []
        for wake in waiting:
            wake()


async def _until(turn: asyncio.Event, timeout: float | None) -> None:  # noqa: ASYNC109
    try:
        async with asyncio.timeout(timeout):
            await turn.wait()
    except TimeoutError:
        raise TimeoutError(_LATE) from None
