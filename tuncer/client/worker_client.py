"""Calling a device's worker, or its successor: a worker for each queue."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import deque
from pathlib import Path
from typing import Any, cast

from supervisor import CallTimeout, MailboxFull, NoProcess, ProcessDown, Ref, lowlevel
from supervisor.lowlevel import CAST, CallFuture, Pending
from tuncer.protocol import control_socket
from tuncer.protocol.operations import OPERATIONS, PUBLISH, WITHDRAW, WORKER_OF
from tuncer.protocol.timeouts import check_timeout

PATIENCE = 10.0
"""Seconds in which a worker must answer."""


class WorkerClient:
    """Calls the worker of one queue, found by its control socket."""

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self._name = name
        self._worker: Ref | None = None
        # Calls of recv that were given up. A packet that arrives for one is the next call's.
        self._late: deque[CallFuture] = deque()
        self._kept: deque[bytes] = deque()
        self._pid = os.getpid()
        self._lock = lowlevel.RLock()

    def find(self) -> Ref:
        """Return the worker; while it is being restarted, wait for it."""
        worker = self._worker  # another thread may set it to None at any time
        if worker is None or not worker.is_alive():
            answer, _, channel = control_socket.request(
                self.path, self._name, WORKER_OF, timeout=PATIENCE
            )
            channel.close()
            worker = self._worker = answer[1]
        return worker

    def publisher(self) -> str:
        """Have the worker bind its publisher; return the endpoint."""
        answer, _, channel = control_socket.request(
            self.path, self._name, PUBLISH, timeout=PATIENCE
        )
        channel.close()
        return f"ipc://{answer[1]}"

    def forget(self) -> None:
        """Ask the control socket at the next call who the worker is."""
        self._worker = None

    def call(self, name: str, *arguments: Any, **options: Any) -> Any:
        """Have the worker carry out an operation of ``tuncer.protocol.operations``.

        If it ends meanwhile, its successor carries out the operation, perhaps for the second time,
        if it is an idempotent one.

        Raises:
            ProcessDown: the worker ended, and the operation must not be repeated.
        """
        operation = OPERATIONS[name]
        request = [name, list(arguments), options]
        deadline = time.monotonic() + PATIENCE
        again = False
        while True:
            try:
                return self.find().call(request, timeout=PATIENCE)
            except NoProcess:  # nothing was sent
                if time.monotonic() > deadline:
                    raise
            except ProcessDown:
                if not operation.idempotent or time.monotonic() > deadline:
                    raise
                again = True
            except OSError as error:
                if again and error.errno == operation.already_done:
                    return None
                raise
            self._worker = None

    # -- recv: a packet that arrives for a call that was given up is the next call's ---------------

    def recv(self, timeout: float | None) -> bytes:
        """Do what ``Device.recv`` says."""
        check_timeout(timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        kept = self._settled(PATIENCE if timeout is None else min(timeout, PATIENCE))
        if kept is not None:
            return kept
        remaining = None if deadline is None else max(0.0, deadline - time.monotonic())
        token, pending = _token(), Pending(is_call=True)
        try:
            _, reply = self._request(["recv", [remaining, token], {}], pending)
            return cast("bytes", reply.result(None if timeout is None else timeout + PATIENCE)[0])
        except CallTimeout:
            self._give_up(token, pending)
            raise
        except Exception:
            raise  # that was the answer
        except BaseException:  # Ctrl-C, or what a signal handler raises, as the request is sent
            self._give_up(token, pending)
            raise

    def _give_up(self, token: int, pending: Pending) -> None:
        """Give up a call that may have been sent, and to which the reply may be under way."""
        there = pending.there
        if pending.number == 0 or there is None:
            return
        with self._lock:
            self._late.append(CallFuture(there, pending, self._name))
        with contextlib.suppress(NoProcess, MailboxFull):
            there.send(CAST, [WITHDRAW, token], PATIENCE)

    def _withdraw(self, worker: Ref, token: int, reply: CallFuture) -> None:
        """Give up a call to which the reply may be under way."""
        with self._lock:
            self._late.append(reply)
        with contextlib.suppress(NoProcess, MailboxFull):
            worker.cast([WITHDRAW, token])

    def _withdraw_asked(self, asked: asyncio.Future[tuple[Ref, CallFuture]], token: int) -> None:
        if not asked.cancelled() and asked.exception() is None:
            worker, reply = asked.result()
            self._withdraw(worker, token, reply)

    def _settled(self, timeout: float) -> bytes | None:
        """Return a packet that arrived for a call that was given up, if there is one.

        The call was withdrawn, so the worker answers it at once, unless the worker hangs.
        """
        deadline = time.monotonic() + timeout
        with self._lock:
            late = list(self._late)
        for call in late:
            with contextlib.suppress(Exception):
                call.result(max(0.0, deadline - time.monotonic()))
        return self._kept_packet()

    def _kept_packet(self) -> bytes | None:
        """Return a packet that has arrived for a call that was given up, without waiting."""
        with self._lock:
            if self._pid != os.getpid():  # this is a fork: its parent returns them itself
                self._pid = os.getpid()
                self._late.clear()
                self._kept.clear()
            for late in [call for call in self._late if call.done()]:
                try:
                    self._late.remove(late)
                except ValueError:  # a signal's handler, which calls recv here, has taken it
                    continue
                with contextlib.suppress(Exception):  # whatever the answer was, it was no packet
                    self._kept.append(late.result(0.0)[0])
            return self._kept.popleft() if self._kept else None

    def _has_late(self) -> bool:
        with self._lock:
            return bool(self._kept) or any(call.done() for call in self._late)

    def _request(
        self, request: list[Any], pending: Pending | None = None
    ) -> tuple[Ref, CallFuture]:
        """Send a request to the worker, or to its successor."""
        deadline = time.monotonic() + PATIENCE
        while True:
            worker = self.find()
            try:
                return worker, lowlevel.call_async(worker, request, PATIENCE, pending)
            except NoProcess:
                if time.monotonic() > deadline:
                    raise
                self._worker = None

    async def _arequest(self, request: list[Any]) -> tuple[Ref, CallFuture]:
        """Do as ``_request`` does; while there is something to wait for, others run."""
        worker = self._worker
        if worker is not None:
            with contextlib.suppress(NoProcess, MailboxFull):
                return worker, worker.call_async(request, 0.0)
        return await asyncio.to_thread(self._request, request)

    async def arecv(self, timeout: float | None) -> bytes:  # noqa: ASYNC109 - as recv
        """Do what ``Device.arecv`` says."""
        check_timeout(timeout)
        kept = self._kept_packet()
        if kept is not None:
            return kept
        token = _token()
        asking = asyncio.ensure_future(self._arequest(["recv", [timeout, token], {}]))
        try:
            worker, reply = await asyncio.shield(asking)
        except asyncio.CancelledError:
            asking.add_done_callback(lambda asked: self._withdraw_asked(asked, token))
            raise
        try:
            async with asyncio.timeout(None if timeout is None else timeout + PATIENCE):
                # A call that is cancelled only now may still get a packet before this one.
                while (kept := self._kept_packet()) is None and not reply.done():
                    await reply.until(lambda: self._has_late() or reply.done())
        except TimeoutError:
            self._withdraw(worker, token, reply)
            raise CallTimeout(f"the worker of {self._name} does not answer") from None
        except asyncio.CancelledError:
            self._withdraw(worker, token, reply)
            raise
        if kept is not None:
            self._withdraw(worker, token, reply)
            return kept
        return cast("bytes", reply.result(0.0)[0])

    async def acall(self, name: str, *arguments: Any) -> Any:
        """Have the worker carry out an operation once, from asyncio."""
        _, reply = await self._arequest([name, list(arguments), {}])
        try:
            async with asyncio.timeout(PATIENCE):
                return await reply
        except TimeoutError as error:
            if reply.done():
                raise  # that was the answer
            raise CallTimeout(f"the worker of {self._name} does not answer") from error


def _token() -> int:
    """Return a number that tells a call of any process's from others."""
    return int.from_bytes(os.urandom(7), "big")
