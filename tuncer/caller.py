"""Calling a device's worker, or its successor: a worker for each queue."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import deque
from pathlib import Path
from typing import Any, cast

from supervisor import CallTimeout, NoProcess, ProcessDown, Ref
from supervisor.calls import CallFuture
from tuncer import door

PATIENCE = 10.0
"""Seconds in which a worker must answer."""


class Caller:
    """Calls the worker of one queue, found by its door."""

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self._name = name
        self._worker: Ref | None = None
        # Calls of recv that were given up: what comes for them is the next call's.
        self._late: deque[CallFuture | asyncio.Future[Any]] = deque()

    def find(self) -> Ref:
        """Return the worker; while it is being restarted, wait for it."""
        worker = self._worker  # another thread may set it to None at any time
        if worker is None or not worker.is_alive():
            answer, _, channel = door.knock(self.path, self._name, "worker", timeout=PATIENCE)
            channel.close()
            worker = self._worker = answer[1]
        return worker

    def forget(self) -> None:
        """Ask anew who the worker is."""
        self._worker = None

    async def afind(self) -> Ref:
        """Do as ``find`` does; while there is something to wait for, others run."""
        worker = self._worker
        if worker is not None and worker.is_alive():
            return worker
        return await asyncio.to_thread(self.find)

    def call(self, *request: Any, timeout: float | None = PATIENCE) -> Any:
        """Have the worker do something, once."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return self.find().call(list(request), timeout=timeout)
            except NoProcess:
                if time.monotonic() > deadline:
                    raise
                self._worker = None  # nothing was sent: ask its successor

    def repeatable(self, *request: Any, done: int | None = None) -> Any:
        """Have the worker do what may be done twice: again, if it ended meanwhile.

        Args:
            *request: what to do.
            done: the errno that says, the second time, that the first time did it.
        """
        deadline = time.monotonic() + PATIENCE
        again = False
        while True:
            try:
                return self.call(*request)
            except ProcessDown:
                if time.monotonic() > deadline:
                    raise
                self._worker, again = None, True
            except OSError as error:
                if again and done is not None and error.errno == done:
                    return None
                raise

    # -- recv: what comes for a call that was given up is the next call's -----------------

    def recv(self, timeout: float | None) -> bytes:
        """Do what ``Device.recv`` says."""
        check_timeout(timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._late:
            # It was withdrawn, so it is answered at once: by a packet, or by none.
            kept = _settled(self._late[0], PATIENCE)
            self._late.popleft()
            if kept is not None:
                return kept
        remaining = None if deadline is None else max(0.0, deadline - time.monotonic())
        token = _token()
        worker, reply = self._asking(["recv", remaining, token])
        try:
            return cast("bytes", reply.result(None if timeout is None else timeout + PATIENCE)[0])
        except (CallTimeout, KeyboardInterrupt):
            self._withdraw(worker, token, reply)
            raise
        except Exception:
            raise  # that was the answer
        except BaseException:  # of a signal's handler, a thread's end, ...
            self._withdraw(worker, token, reply)
            raise

    def _withdraw(self, worker: Ref, token: int, reply: CallFuture | asyncio.Future[Any]) -> None:
        """Give up a call; whether a packet is on its way nobody knows yet."""
        self._late.append(reply)
        with contextlib.suppress(NoProcess):
            worker.cast(["withdraw", token])

    def _asking(self, request: list[Any]) -> tuple[Ref, CallFuture]:
        """Send a request to the worker, or to its successor."""
        deadline = time.monotonic() + PATIENCE
        while True:
            worker = self.find()
            try:
                return worker, worker.call_async(request, PATIENCE)
            except NoProcess:
                if time.monotonic() > deadline:
                    raise
                self._worker = None

    async def arecv(self, timeout: float | None) -> bytes:  # noqa: ASYNC109 - as recv
        """Do what ``Device.arecv`` says."""
        check_timeout(timeout)
        while self._late:
            kept = await _asettled(self._late[0])
            self._late.popleft()
            if kept is not None:
                return kept
        token, patience = _token(), None if timeout is None else timeout + PATIENCE
        worker = await self.afind()
        call = asyncio.ensure_future(self._acall(worker, ["recv", timeout, token], patience))
        try:
            return cast("bytes", (await asyncio.shield(call))[0])
        except asyncio.CancelledError:
            self._withdraw(worker, token, call)
            raise

    async def acall(self, request: list[Any], timeout: float | None) -> Any:  # noqa: ASYNC109
        """Have the worker do something, once, from asyncio."""
        return await self._acall(await self.afind(), request, timeout)

    async def _acall(self, worker: Ref, request: list[Any], timeout: float | None) -> Any:  # noqa: ASYNC109
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return await worker.acall(request, timeout)
            except NoProcess:
                if time.monotonic() > deadline:
                    raise
                self._worker = None  # nothing was sent: ask its successor
                worker = await self.afind()


def _settled(late: CallFuture | asyncio.Future[Any], timeout: float) -> bytes | None:
    """Return the packet that came for a call that was given up; None if none did.

    Raises:
        CallTimeout: it is not known yet.
    """
    if isinstance(late, asyncio.Future):
        if not late.done() or late.cancelled() or late.exception() is not None:
            return None  # its loop has ended, and with it the call
        return cast("bytes", late.result()[0])
    try:
        return cast("bytes", late.result(timeout)[0])
    except CallTimeout:
        raise
    except Exception:  # noqa: BLE001 - whatever the answer was, it was no packet
        return None


async def _asettled(late: CallFuture | asyncio.Future[Any]) -> bytes | None:
    """Do as ``_settled`` does; others run meanwhile. Cancelled, it is still not settled."""
    if isinstance(late, CallFuture):
        return await asyncio.to_thread(_settled, late, PATIENCE)
    if late.get_loop() is asyncio.get_running_loop():
        await asyncio.wait([late])
    return _settled(late, 0.0)


def check_timeout(timeout: object) -> None:
    """Check a number of seconds.

    Raises:
        TypeError: no number.
        ValueError: below 0, or none that can be compared.
    """
    if timeout is None:
        return
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(f"a timeout is a number of seconds or None, not {timeout!r}")
    if not timeout >= 0:
        raise ValueError(f"a timeout is a number of seconds from 0 on, not {timeout!r}")


def _token() -> int:
    """Return a number that tells a call of any process's from others."""
    return int.from_bytes(os.urandom(7), "big")
