"""Devices: what a program holds of a TUN/TAP interface that a worker process owns."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from supervisor import NoProcess, NotOwner, ProcessDown, Ref, SupervisorRef
from supervisor.calls import CallFuture
from tuncer import door, mode, places
from tuncer.link import Link
from tuncer.mode import Active
from tuncer.packet import DeviceError
from tuncer.subscription import RingSubscription, Subscription, ZmqSubscription
from tuncer.tunctl import compile_filter

MOST_BYTES = 65535 + 14 + 4 + 4 + 12
"""The largest packet: an IP packet with Ethernet header, VLAN tag, packet information and
virtio_net_hdr before it."""

_PATIENCE = 10.0  # seconds in which a device's worker must answer


class Device(Link):
    """A TUN/TAP interface. Can be pickled, and used from any process of the same user.

    A context manager: at its end the device is destroyed.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._worker: Ref | None = None
        self._left: deque[bytes] = deque()  # packets that came for calls that were given up
        self.name = name
        """The name at its creation; ``devname()`` asks the kernel for the present one."""

    # -- packets -------------------------------------------------------------------------------

    def send(self, *packets: bytes | bytearray | memoryview) -> int:
        """Write packets to the device; return how many.

        They are written, in order, when this returns: the kernel takes them as received from
        the link. It has no back pressure: what its stack cannot take, it drops and counts.

        Raises:
            ValueError: an empty packet, or one longer than any can be; none was written.
            OSError: EIO the device is down, EINVAL it is no packet for this kind of device,
                EBADFD the device was deleted. Packets before it were written.
            ProcessDown: the worker ended meanwhile; whether they were written is unknown.
        """
        return cast("int", self._call("send", _checked(packets)))

    async def asend(self, *packets: bytes | bytearray | memoryview) -> int:
        """Write packets to the device, from asyncio. See ``send``."""
        data = _checked(packets)
        worker = await self._afind()
        return cast("int", await worker.acall(["send", data], _PATIENCE))

    def recv(self, timeout: float | None = None) -> bytes:
        """Return the next packet of a passive device.

        Interrupted (Ctrl-C), it loses none: what came meanwhile the next call returns.

        Args:
            timeout: seconds to wait; None waits as long as the worker lives.

        Raises:
            TimeoutError: none came in time.
            OSError: EINVAL while the device is active: its subscriptions get the packets.
            ProcessDown: the worker ended meanwhile, perhaps with a packet in its hand.
        """
        if self._left:
            return self._left.popleft()
        token = _token()
        worker, reply = self._asking(["recv", timeout, token])
        try:
            packet = reply.result(None if timeout is None else timeout + _PATIENCE)[0]
        except Exception:
            raise
        except BaseException:  # Ctrl-C
            with contextlib.suppress(Exception):
                worker.cast(["withdraw", token])
                self._left.append(reply.result(_PATIENCE)[0])
            raise
        return cast("bytes", packet)

    async def arecv(self, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - as recv
        """Return the next packet of a passive device, from asyncio. See ``recv``.

        Cancelled, it loses none: what came meanwhile the next call returns.
        """
        if self._left:
            return self._left.popleft()
        token, patience = _token(), None if timeout is None else timeout + _PATIENCE
        worker = await self._afind()
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

    def subscribe(
        self,
        *,
        batch: bool = False,
        events: bool = False,
        transport: str = "ring",
    ) -> Subscription:
        """Receive the device's packets, which makes a passive device active meanwhile.

        It returns when the subscription is in force.

        Args:
            batch: yield lists of packets, as many as are there.
            events: yield ``DeviceEvent`` too, when something happens to the device.
            transport: "ring", or "zmq" for messages in the wire format.

        Raises:
            DeviceError: there is no such device any more, or it does not answer.
            ValueError: another transport.
        """
        kinds = {"ring": RingSubscription, "zmq": ZmqSubscription}
        if transport not in kinds:
            raise ValueError(f"transport is one of {sorted(kinds)}, not {transport!r}")
        return kinds[transport](self._path, self.name, batch, events)

    def setopt(self, *, active: Active) -> None:
        """Change the mode: who the device's packets are read for. No packet is lost meanwhile.

        Args:
            active: True: for subscriptions, whether there are any or not. False: for ``recv``
                alone, until somebody subscribes anew. "once": for subscriptions, one packet,
                and then as with False. A number: the same for so many packets, which are added
                to those that are left of the last number, as in OTP; at the end a subscription
                with ``events`` gets ``DeviceEvent("passive")``. Counted packets wait for a
                subscription.

        Raises:
            TypeError: none of these.
            ValueError, OSError: EINVAL, more than 32767 packets, in all.
            ProcessDown: the worker ended meanwhile; whether a number was added is unknown.
        """
        counted = not isinstance(mode.check(active), bool) and active != "once"
        (self._call if counted else self._repeatable)("setopt", active)

    def filter(self, expression: str | None) -> str | None:
        """Get only packets that an expression accepts: subscriptions and ``recv`` alike.

        The kernel keeps back the others where it can, and counts them as ``dropped``; else the
        worker does, and counts ``packets_filtered``. ``statistics()["filter_runs"]`` says which.

        Args:
            expression: of pcap-filter(7), such as "udp port 53"; None: everything again. Names in
                it are looked up by the calling process.

        Returns:
            Where it runs: "kernel" or "worker"; None without any.

        Raises:
            ValueError, TypeError: it is no filter expression; the filter before stays.
            OSError: ENOENT, libpcap is not installed.
        """
        if expression is None:
            return cast("None", self._repeatable("filter", None))
        program = compile_filter(expression, self.flags())
        found = self._repeatable("filter", program.expression, program.instructions)
        return cast("str", found)

    def getfd(self) -> int:
        """Return a duplicate of the device's descriptor, the caller's own, to read and write.

        What it reads passes the worker by, and its numbering. Close it when done.
        """
        _, fds, channel = door.knock(
            self._path, self.name, "getfd", timeout=_PATIENCE, descriptors=1
        )
        channel.close()
        return fds[0]

    # -- the worker ----------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """The pid of the worker, now."""
        return self._find().pid

    @property
    def endpoint(self) -> str:
        """Where plain ZeroMQ SUB sockets connect to for messages in the wire format."""
        return f"ipc://{places.publisher(self._path)}"

    def statistics(self) -> dict[str, Any]:
        """Return counters, which go on over restarts of the worker.

        ``packets_read``, ``bytes_read``, ``packets_sent``, ``bytes_sent``, ``restarts``,
        ``subscribers``, ``active``; and the kernel's: ``dropped`` (its queue was full),
        ``kernel_packets`` and ``kernel_bytes`` (read by whomever).
        """
        return cast("dict[str, Any]", self._repeatable("statistics"))

    def controlling_process(self, pid: int) -> None:
        """Hand the device on: it goes when that process ends, no longer when this one does.

        Raises:
            ProcessLookupError: there is no such process.
            NotOwner: the device does not belong to the calling process.
        """
        deadline = time.monotonic() + _PATIENCE
        while True:
            supervisor = SupervisorRef(self._repeatable("supervisor")._process)
            worker = self._find()
            for child, ref, _, _ in supervisor.which_children():
                if ref == worker:
                    supervisor.give_child(child, pid)
                    return
            if worker.is_alive() or time.monotonic() > deadline:  # otherwise it was replaced
                raise NotOwner(f"{self.name} does not belong to process {os.getpid()}")

    def destroy(self) -> None:
        """Remove the device, and end its worker. It is no error if it is gone already."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                worker = self._find()
                monitor = worker.monitor()
                worker.call(["destroy"], timeout=_PATIENCE)
                monitor.wait(_PATIENCE)
            except (NoProcess, ProcessDown):
                if not places.is_open(self._path):
                    return
                if time.monotonic() > deadline:
                    raise
                self._worker = None  # it crashed meanwhile: ask the next one
            except DeviceError as error:
                if error.errno != errno.ENODEV:
                    raise
                return
            else:
                return

    # -- calls ---------------------------------------------------------------------------------

    def _find(self) -> Ref:
        """Return the worker; while it is being restarted, wait for it."""
        worker = self._worker  # another thread may set it to None at any time
        if worker is None or not worker.is_alive():
            answer, _, channel = door.knock(self._path, self.name, "worker", timeout=_PATIENCE)
            channel.close()
            worker = self._worker = answer[1]
        return worker

    async def _afind(self) -> Ref:
        """Do as ``_find`` does; while there is something to wait for, others run."""
        worker = self._worker
        if worker is not None and worker.is_alive():
            return worker
        return await asyncio.to_thread(self._find)

    def _asking(self, request: list[Any]) -> tuple[Ref, CallFuture]:
        """Send a request to the worker, or to its successor."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            worker = self._find()
            try:
                return worker, worker.call_async(request, _PATIENCE)
            except NoProcess:
                if time.monotonic() > deadline:
                    raise
                self._worker = None

    def _call(self, *request: Any, timeout: float | None = _PATIENCE) -> Any:
        """Have the worker do something, once."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                return self._find().call(list(request), timeout=timeout)
            except NoProcess:
                if time.monotonic() > deadline:
                    raise
                self._worker = None  # nothing was sent: ask its successor

    def _repeatable(self, *request: Any, done: int | None = None) -> Any:
        """Have the worker do what may be done twice: again, if it ended meanwhile.

        Args:
            *request: what to do.
            done: the errno that says, the second time, that the first time did it.
        """
        deadline = time.monotonic() + _PATIENCE
        again = False
        while True:
            try:
                return self._call(*request)
            except ProcessDown:
                if time.monotonic() > deadline:
                    raise
                self._worker, again = None, True
            except OSError as error:
                if again and done is not None and error.errno == done:
                    return None
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.destroy()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self.destroy)

    def __reduce__(self) -> tuple[type[Device], tuple[Path, str]]:
        return type(self), (self._path, self.name)

    def __eq__(self, other: object) -> bool:
        return self._path == other._path if isinstance(other, Device) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._path)

    def __repr__(self) -> str:
        return f"<Device {self.name}>"


def _checked(packets: Iterable[bytes | bytearray | memoryview]) -> list[bytes]:
    data = [bytes(memoryview(packet)) for packet in packets]
    for packet in data:
        if not 0 < len(packet) <= MOST_BYTES:
            raise ValueError(f"a packet has 1 to {MOST_BYTES} bytes, this one {len(packet)}")
    return data


def _token() -> int:
    """Return a number that tells a call of any process's from others."""
    return int.from_bytes(os.urandom(7), "big")


def known(path: Path, name: str) -> Device:
    """Return the device of a door, by the name that its worker knows.

    Raises:
        DeviceError: ENODEV, nobody is there.
    """
    answer, _, channel = door.knock(path, name, "worker", timeout=_PATIENCE)
    channel.close()
    device = Device(path, answer[2])
    device._worker = answer[1]
    return device
