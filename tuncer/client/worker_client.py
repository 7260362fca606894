"""Calling a device's worker, or its successor: a worker for each queue."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from pathlib import Path
from typing import Any

from supervisor import CallTimeout, MailboxFull, NoProcess, ProcessDown, Ref, lowlevel
from supervisor.lowlevel import CallFuture, Pending
from tuncer.client.packet_writer import PacketWriter, writer_of
from tuncer.client.recv_calls import RecvCall, RecvCalls, if_ended
from tuncer.protocol import control_socket
from tuncer.protocol.control_socket import PATIENCE
from tuncer.protocol.operations import OPERATIONS, PUBLISH, WORKER_OF
from tuncer.protocol.timeouts import check_timeout


class WorkerClient:
    """Calls the worker of one queue, found by its control socket."""

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self._name = name
        self._worker: Ref | None = None
        self._calls = RecvCalls(name)

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

    @functools.cached_property
    def writer(self) -> PacketWriter:
        """This process's writer of packets to the queue."""
        return writer_of(self.path, self._name)

    def forget(self) -> None:
        """Ask the control socket at the next call who the worker is."""
        self._worker = None

    def call(self, name: str, *arguments: Any, **options: Any) -> Any:
        """Have the worker carry out an operation of ``tuncer.protocol.operations``.

        If it ends meanwhile, its successor carries out the operation, perhaps for the second time,
        if it is an idempotent one.

        Raises:
            DeviceError: ENODEV, the device has ended.
            ProcessDown: the worker was killed, and the operation must not be repeated.
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
            except ProcessDown as error:
                if not operation.idempotent or time.monotonic() > deadline:
                    raise if_ended(error, self._name) from None
                again = True
            except OSError as error:
                if again and error.errno == operation.already_done:
                    return None
                raise
            self._worker = None

    # -- recv --------------------------------------------------------------------------------------

    def recv(self, timeout: float | None) -> bytes:
        """Do what ``Device.recv`` says."""
        check_timeout(timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        self._calls.wait(PATIENCE if timeout is None else min(timeout, PATIENCE))
        packet = self._calls.take()
        if packet is not None:
            return packet
        remaining = None if deadline is None else max(0.0, deadline - time.monotonic())
        call = self._calls.new()
        try:
            self._send(call, ["recv", [remaining, call.token], {}])
            call.future.exception(None if timeout is None else timeout + PATIENCE)
        except BaseException:  # or Ctrl-C, or what a signal's handler raises, as it is sent
            if call.pending.number:
                self._calls.give_up(call)
            raise
        packet = self._calls.take(call)
        assert packet is not None  # the call is answered
        return packet

    async def arecv(self, timeout: float | None) -> bytes:  # noqa: ASYNC109 - as recv
        """Do what ``Device.arecv`` says."""
        check_timeout(timeout)
        packet = self._calls.take()
        if packet is not None:
            return packet
        call = self._calls.new()
        request = ["recv", [timeout, call.token], {}]
        limit = None if timeout is None else asyncio.get_running_loop().time() + timeout + PATIENCE
        try:
            if self._send_at_once(request, call.pending) is None:
                sending = asyncio.ensure_future(asyncio.to_thread(self._send, call, request))
                sending.add_done_callback(_retrieve)  # a thread that sends cannot be cancelled
                await asyncio.shield(sending)
            while packet is None:  # else another task has taken what was there
                await self._answered(call, limit)
                packet = self._calls.take(call)
        except asyncio.CancelledError:
            self._calls.give_up(call)
            raise
        return packet

    async def _answered(self, call: RecvCall, limit: float | None) -> None:
        """Wait until there is something for a call of recv."""
        try:
            async with asyncio.timeout_at(limit):
                await call.future.until(lambda: self._calls.has_something_for(call))
        except TimeoutError:
            self._calls.give_up(call)
            raise CallTimeout(f"the worker of {self._name} does not answer") from None

    # -- requests ----------------------------------------------------------------------------------

    def _send(self, call: RecvCall, request: list[Any]) -> None:
        """Send a call of recv to the worker, or to its successor."""
        try:
            self._request(request, call.pending)
        except Exception:
            self._calls.forget(call)
            raise
        call.was_sent()

    def _request(self, request: list[Any], pending: Pending | None = None) -> CallFuture:
        """Send a request to the worker, or to its successor."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return lowlevel.call_async(self.find(), request, PATIENCE, pending)
            except NoProcess:
                if time.monotonic() > deadline:
                    raise
                self._worker = None

    def _send_at_once(
        self, request: list[Any], pending: Pending | None = None
    ) -> CallFuture | None:
        """Send a request to the worker, if there is nothing to wait for; otherwise return None."""
        worker = self._worker
        if worker is not None:
            with contextlib.suppress(NoProcess, MailboxFull):
                return lowlevel.call_async(worker, request, 0.0, pending)
        return None

    async def acall(self, name: str, *arguments: Any) -> Any:
        """Have the worker carry out an operation once, from asyncio."""
        request = [name, list(arguments), {}]
        reply = self._send_at_once(request)
        if reply is None:
            reply = await asyncio.to_thread(self._request, request)
        try:
            async with asyncio.timeout(PATIENCE):
                return await reply
        except ProcessDown as error:
            raise if_ended(error, self._name) from None
        except TimeoutError as error:
            if reply.done():
                raise  # that was the answer
            raise CallTimeout(f"the worker of {self._name} does not answer") from error


def _retrieve(sending: asyncio.Future[None]) -> None:
    """Retrieve the error of what nobody may wait for any longer, of which asyncio would tell."""
    if not sending.cancelled():
        sending.exception()
