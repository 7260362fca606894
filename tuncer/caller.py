"""Calling a device's worker, or its successor: a worker for each queue."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import deque
from pathlib import Path
from typing import Any, cast

from supervisor import NoProcess, ProcessDown, Ref
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
        self._left: deque[bytes] = deque()  # packets that came for calls that were given up

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

    # -- recv: a packet that came for a call that was given up is the next call's ------------------

    def recv(self, timeout: float | None) -> bytes:
        """Do what ``Device.recv`` says."""
        if self._left:
            return self._left.popleft()
        token = _token()
        worker, reply = self._asking(["recv", timeout, token])
        try:
            packet = reply.result(None if timeout is None else timeout + PATIENCE)[0]
        except Exception:
            raise
        except BaseException:  # Ctrl-C
            with contextlib.suppress(Exception):
                worker.cast(["withdraw", token])
                self._left.append(reply.result(PATIENCE)[0])
            raise
        return cast("bytes", packet)

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
        if self._left:
            return self._left.popleft()
        token, patience = _token(), None if timeout is None else timeout + PATIENCE
        worker = await self.afind()
        call = asyncio.ensure_future(worker.acall(["recv", timeout, token], patience))
        try:
            packet = (await asyncio.shield(call))[0]
        except asyncio.CancelledError:
            with contextlib.suppress(NoProcess):
                worker.cast(["withdraw", token])
            call.add_done_callback(self._keep)
            raise
        # One that was cancelled before this has come before this.
        self._left.append(packet)
        return self._left.popleft()

    def _keep(self, call: asyncio.Future[Any]) -> None:
        if not call.cancelled() and call.exception() is None:
            self._left.append(call.result()[0])


def _token() -> int:
    """Return a number that tells a call of any process's from others."""
    return int.from_bytes(os.urandom(7), "big")
