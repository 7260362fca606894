"""Devices: what a program holds of a TUN/TAP interface that a worker process owns."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import itertools
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias, cast, overload

from supervisor import (
    CallTimeout,
    NoProcess,
    NotFound,
    NotOwner,
    ProcessDown,
    Ref,
    SupervisorRef,
    linux,
    lowlevel,
)
from tuncer import tunctl
from tuncer.client import flow_hash
from tuncer.client.large_packets import LargePackets, cutter
from tuncer.client.link import Link
from tuncer.client.packet_writer import Data
from tuncer.client.ring_subscription import RingSubscription
from tuncer.client.subscription import Merged, Subscription
from tuncer.client.worker_client import WorkerClient
from tuncer.client.zmq_subscription import ZmqSubscription
from tuncer.protocol import control_socket, paths, ring
from tuncer.protocol.batch import Batch
from tuncer.protocol.control_socket import PATIENCE
from tuncer.protocol.operations import GETFD, WORKER_OF, SubscriberRow
from tuncer.protocol.packet import DeviceError, DeviceEvent, Packet
from tuncer.protocol.timeouts import check_timeout
from tuncer.tunctl import Flag, compile_filter
from tuncer.tunctl.errors import check_bool
from tuncer.tunctl.header import SIZE as PI_SIZE
from tuncer.tunctl.header import VNET_SIZE
from tuncer.tunctl.linux import netns
from tuncer.worker import active_mode
from tuncer.worker.active_mode import Active

_TRANSPORTS = {"ring": RingSubscription, "zmq": ZmqSubscription}

Policy: TypeAlias = Literal["drop", "lossless"]
"""What happens when a subscription is slower than the packets come."""
HOLD_TIMEOUT = 10.0
"""Seconds that a lossless subscription may hold the device back, by default."""


class Device(Link):
    """A TUN/TAP interface. Can be pickled, and used from any process of the same user.

    A context manager, of asyncio too: at its end the device is closed: it goes, unless it is
    persistent.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        queues: int = 1,
        has_offload: bool = False,  # noqa: FBT001, FBT002 - positional, as it is pickled
    ) -> None:
        self._workers = [WorkerClient(paths.queue(path, number), name) for number in range(queues)]
        self._has_offload = has_offload
        self._large_packets: list[LargePackets] = []
        self._first = self._workers[0]
        self._path = path
        self._framing: tuple[Callable[[Data, int], int], int] | None = None
        self.name = name
        """The name at its creation; ``devname()`` asks the kernel for the present one."""
        self.queues = queues
        """How many there are, each with a worker of its own."""

    def _call(self, operation: str, *arguments: Any, **options: Any) -> Any:
        return self._first.call(operation, *arguments, **options)

    # -- packets -------------------------------------------------------------------------------

    def send(self, *packets: Data, queue: int | None = None, large: bool = False) -> int:
        """Write packets to the device; return how many.

        They are written, in order, when this returns: the kernel takes them as received from
        the link. It has no back pressure: what its stack cannot take, it drops and counts.

        They are written on a descriptor of this process's own, which it gets at the first packet.
        A restart of the worker changes nothing.

        Args:
            *packets: as the device frames them.
            queue: of several queues, the one to write to: the kernel then hands out further packets
                of the same flow by that queue. Give the ``queue`` of the packet that is answered.
                By default it is chosen by a hash of the flow, the same for both directions.
            large: to a device with ``offload=True``: each packet has a virtio_net_hdr before it, as
                with ``subscribe(large=True)``. Otherwise TCP segments of one flow that follow one
                another are put together, if numpy is installed. A large packet that the kernel
                refuses with EINVAL is cut, and sent again.

        Raises:
            OSError: EIO the device is down, EINVAL it is no packet for this kind of device,
                EBADFD the device was deleted.
            DeviceError: there is no such device any more, or it does not answer.
            ValueError, TypeError: no packet, or one longer than any can be; no such queue.
            Whatever it is, the packets before were written.
        """
        if self._has_offload or large is not False:
            runs = self._by_queue(packets, queue, large=large)
            return sum(
                self._large.send(self._worker(number).writer, part, large=large)
                for number, part in runs
            )
        if queue is None and self.queues == 1:
            writer = self._first.writer
            sent = writer.write_some(packets)  # all, but for a device with a small send buffer
            return sent if sent == len(packets) else sent + writer.write(packets[sent:])
        if queue is not None:
            return self._worker(queue).writer.write(packets)
        framing = self._framing or self._look_at_framing()
        return sum(
            self._workers[number].writer.write(list(run))
            for number, run in self._by_flow(packets, *framing)
        )

    async def asend(self, *packets: Data, queue: int | None = None, large: bool = False) -> int:
        """Write packets to the device, from asyncio. See ``send``."""
        if self._has_offload or large is not False:
            await self._large_is_there()
            for number, part in self._by_queue(packets, queue, large=large):
                await self._large.asend(self._worker(number).writer, part, large=large)
            return len(packets)
        if queue is not None or self.queues == 1:
            return await self._worker(queue or 0).writer.awrite(packets)
        framing = self._framing
        if framing is None:
            framing = await asyncio.to_thread(self._look_at_framing)
        sent = 0
        for number, run in self._by_flow(packets, *framing):
            sent += await self._workers[number].writer.awrite(list(run))
        return sent

    @property
    def _large(self) -> LargePackets:
        """What makes ordinary packets of a device with offload: one for all threads."""
        found = self._large_packets
        if not found:
            found.append(LargePackets(self.name, is_frame=Flag.TAP in self.flags()))
        return found[0]  # whichever thread was the first

    async def _large_is_there(self) -> None:
        """See to it that ``_large`` need not ask the worker, which would stop the loop."""
        if not self._large_packets:
            await asyncio.to_thread(lambda: self._large)

    def _check_offload(self) -> None:
        if not self._has_offload:
            problem = "only a device that was created with offload=True has large packets"
            raise OSError(errno.EOPNOTSUPP, problem, self.name)

    def _by_queue(
        self, packets: Sequence[Data], queue: int | None, *, large: bool
    ) -> Iterator[tuple[int, Sequence[Data]]]:
        """Yield the packets of a device with offload, for the queue that is given or chosen."""
        check_bool(large, "large")
        self._check_offload()
        if queue is not None or self.queues == 1:
            yield queue or 0, packets
            return
        flow = flow_hash.of_frame if self._large.is_frame else flow_hash.of_packet
        for number, run in self._by_flow(packets, flow, VNET_SIZE if large else 0):
            yield number, list(run)

    def _by_flow(
        self, packets: Iterable[Data], flow: Callable[[Data, int], int], start: int
    ) -> Iterator[tuple[int, Iterator[Data]]]:
        """Yield packets in their order: those of the same queue that follow one another.

        Args:
            packets: to be sent.
            flow: returns the flow of a packet that begins at an offset.
            start: how many bytes precede each packet.
        """
        queues = self.queues

        def queue_of(packet: Data) -> int:
            try:
                if isinstance(packet, memoryview):  # of items of any size and shape
                    packet = packet.cast("B")
                return flow_hash.choose(flow(packet, start), queues)
            except (TypeError, ValueError, NotImplementedError):
                return 0  # whatever is wrong with it, the writer tells, after the packets before it

        return itertools.groupby(packets, queue_of)

    def _look_at_framing(self) -> tuple[Callable[[Data, int], int], int]:
        """Return how to find the flow of a packet, and how many bytes precede the packet."""
        flags = self.flags()
        start = 0 if Flag.NO_PI in flags else PI_SIZE
        if Flag.VNET_HDR in flags:
            start += self.vnet_hdr_size()
        flow = flow_hash.of_frame if Flag.TAP in flags else flow_hash.of_packet
        self._framing = flow, start
        return self._framing

    def recv(self, timeout: float | None = None, *, queue: int = 0) -> bytes:
        """Return the next packet of a passive device.

        Interrupted (Ctrl-C) while it waits, it loses none: the next call returns what came.

        Args:
            timeout: seconds to wait; None waits as long as the worker lives.
            queue: of which of several queues.

        Raises:
            TimeoutError: none came in time.
            OSError: EINVAL while the device is active: its subscriptions get the packets.
            ProcessDown: the worker ended meanwhile. A packet taken for this call may be lost.
        """
        if self._has_offload:
            check_timeout(timeout)
            return self._large.queue_of(self._worker(queue)).recv(timeout)
        return self._worker(queue).recv(timeout)

    async def arecv(self, timeout: float | None = None, *, queue: int = 0) -> bytes:  # noqa: ASYNC109 - as recv
        """Return the next packet of a passive device, from asyncio. See ``recv``.

        Cancelled, it loses none: what came meanwhile the next call returns.
        """
        if self._has_offload:
            await self._large_is_there()
            check_timeout(timeout)
            return await self._large.queue_of(self._worker(queue)).arecv(timeout)
        return await self._worker(queue).arecv(timeout)

    @overload
    async def asubscribe(
        self, *, batch: Literal[False] = ..., events: Literal[False] = ..., **options: Any
    ) -> Subscription[Packet]: ...

    @overload
    async def asubscribe(
        self, *, batch: Literal[True] | int, events: Literal[False] = ..., **options: Any
    ) -> Subscription[Batch]: ...

    @overload
    async def asubscribe(
        self, *, batch: Literal[False] = ..., events: Literal[True], **options: Any
    ) -> Subscription[Packet | DeviceEvent]: ...

    @overload
    async def asubscribe(
        self, *, batch: Literal[True] | int, events: Literal[True], **options: Any
    ) -> Subscription[Batch | DeviceEvent]: ...

    async def asubscribe(self, **options: Any) -> Subscription[Any]:
        """Do as ``subscribe`` does, from asyncio: the loop goes on meanwhile."""
        subscribe: Callable[[], Subscription[Any]] = functools.partial(self.subscribe, **options)
        return await lowlevel.made_in_thread(subscribe, lambda made: made.close())

    async def aup(self, *args: Any, **options: Any) -> None:
        """Do as ``up`` does, from asyncio: the loop goes on meanwhile."""
        await asyncio.to_thread(self.up, *args, **options)

    @overload
    def subscribe(  # type: ignore[overload-overlap]  # False is an int
        self,
        *,
        batch: Literal[False] = ...,
        events: Literal[False] = ...,
        transport: str = ...,
        queue: int | None = ...,
        policy: Policy = ...,
        hold_timeout: float | None = ...,
        large: bool = ...,
    ) -> Subscription[Packet]: ...

    @overload
    def subscribe(
        self,
        *,
        batch: Literal[True] | int,
        events: Literal[False] = ...,
        transport: str = ...,
        queue: int | None = ...,
        policy: Policy = ...,
        hold_timeout: float | None = ...,
        large: bool = ...,
    ) -> Subscription[Batch]: ...

    @overload
    def subscribe(  # type: ignore[overload-overlap]  # False is an int
        self,
        *,
        batch: Literal[False] = ...,
        events: Literal[True],
        transport: str = ...,
        queue: int | None = ...,
        policy: Policy = ...,
        hold_timeout: float | None = ...,
        large: bool = ...,
    ) -> Subscription[Packet | DeviceEvent]: ...

    @overload
    def subscribe(
        self,
        *,
        batch: Literal[True] | int,
        events: Literal[True],
        transport: str = ...,
        queue: int | None = ...,
        policy: Policy = ...,
        hold_timeout: float | None = ...,
        large: bool = ...,
    ) -> Subscription[Batch | DeviceEvent]: ...

    @overload
    def subscribe(
        self,
        *,
        batch: bool | int = ...,
        events: bool = ...,
        transport: str = ...,
        queue: int | None = ...,
        policy: Policy = ...,
        hold_timeout: float | None = ...,
        large: bool = ...,
    ) -> Subscription[Any]: ...

    def subscribe(
        self,
        *,
        batch: bool | int = False,
        events: bool = False,
        transport: str = "ring",
        queue: int | None = None,
        policy: Policy = "drop",
        hold_timeout: float | None = HOLD_TIMEOUT,
        large: bool = False,
    ) -> Subscription[Any]:
        """Receive the device's packets, which makes a passive device active meanwhile.

        It returns when the subscription is in force.

        Args:
            batch: yield batches: sequences of packets, as many as are there. A number is how many
                packets a batch has at most; True is 256.
            events: yield ``DeviceEvent`` too, when something happens to the device.
            transport: "ring", or "zmq" for messages in the wire format.
            queue: of several queues, the packets of this one alone; by default those of all.
            policy: what happens when this subscription is slower than the packets come. "drop":
                it loses the oldest ones, counts them, and slows nobody. "lossless": it loses none
                that the worker has read. The ring fills up, and the worker reads no further, for
                all subscribers of the device; then the kernel's queue fills up, and the kernel
                drops what comes, and counts it as ``dropped``. The ring only.
            hold_timeout: seconds that a lossless subscription may hold the worker back without
                reading a packet: one that is stopped, for example. Then it ends with a DeviceError,
                ETIMEDOUT. None: it may do so as long as its process lives.
            large: of a device with ``offload=True``: yield packets as the kernel hands them out,
                each with its virtio_net_hdr (``VnetHdr.parse``), not ordinary ones.

        Raises:
            DeviceError: there is no such device any more, or it does not answer.
            ValueError, TypeError: another transport or policy, no such queue, no timeout.
            ImportError: large packets are to be cut, and numpy is not installed.
            OSError: EOPNOTSUPP, a device with offload has no subscribers by ZeroMQ, and only such a
                device has large packets.
        """
        most = _checked_batch(batch)
        check_bool(events, "events")
        if not isinstance(transport, str) or transport not in _TRANSPORTS:
            raise ValueError(f"transport is one of {sorted(_TRANSPORTS)}, not {transport!r}")
        check_timeout(hold_timeout)
        options: dict[str, Any] = {"batch": most, "events": events}
        if _is_lossless(policy, transport):
            hold = None if hold_timeout is None else float(hold_timeout)
            options |= {"is_lossless": True, "hold_timeout": hold}
        check_bool(large, "large")
        if large:
            self._check_offload()
        elif self._has_offload and transport == "ring":
            options["cut"] = cutter(is_frame=self._large.is_frame)
        numbers = range(self.queues) if queue is None else [queue]
        parts: list[Subscription[Any]] = []
        try:
            for number in numbers:
                path = self._worker(number).path
                parts.append(_TRANSPORTS[transport](path, self.name, queue=number, **options))
        except BaseException:
            for part in parts:
                part.close()
            raise
        return parts[0] if len(parts) == 1 else Merged(self.name, parts)

    def setopt(self, *, active: Active) -> None:
        """Change the mode: who the device's packets are read for. No packet is lost meanwhile.

        Args:
            active: True: for subscriptions, whether there are any or not. False: for ``recv``
                alone, until somebody subscribes anew. "once": for subscriptions, one packet,
                and then as with False. A number: the same for so many packets, which are added
                to those that are left of the last number, as in OTP; at the end a subscription
                with ``events`` gets ``DeviceEvent("passive")``. Counted packets wait for a
                subscription. Of several queues, each reads as many.

        Raises:
            TypeError: none of these.
            ValueError, OSError: EINVAL, more than 32767 packets, in all.
            ProcessDown: the worker ended meanwhile; whether a number was added is unknown.
        """
        counted = not isinstance(active_mode.check(active), bool) and active != "once"
        for worker in self._workers:
            worker.call("add_active" if counted else "set_active", active)

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
        instructions, told = b"", None
        if expression is not None:
            instructions = compile_filter(expression, self.flags()).instructions
        for worker in self._workers:  # the first installs it in the kernel, and numbers it
            told = worker.call("filter", expression, instructions, told)
        return cast("str | None", told[0] if told else None)

    def vnet_hdr_size(self, size: int | None = None) -> int:
        """Return the bytes of the virtio_net_hdr before each packet, after setting it if given."""
        found = [worker.call("vnet_hdr_size", size) for worker in self._workers]
        return cast("int", found[0])

    def getfd(self, *, queue: int = 0) -> int:
        """Return a duplicate of the device's descriptor, the caller's own, to read and write.

        What it reads passes the worker by, and its numbering. Close it when done.
        """
        _, fds, channel = control_socket.request(
            self._worker(queue).path, self.name, GETFD, timeout=PATIENCE, descriptors=1
        )
        channel.close()
        return fds[0]

    # -- the worker ----------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """The pid of the worker, now; of several queues, the first one's."""
        return self._first.find().pid

    @property
    def pids(self) -> list[int]:
        """The pids of the workers, now, a queue each."""
        return [worker.find().pid for worker in self._workers]

    @property
    def endpoint(self) -> str:
        """Where plain ZeroMQ SUB sockets connect to for messages in the wire format.

        The worker binds it when it is first asked for, here or by a subscription, and from then on
        after each of its restarts.

        Raises:
            DeviceError: there is no such device any more, or it does not answer.
        """
        return self.endpoints[0]

    @property
    def endpoints(self) -> list[str]:
        """The same, of each queue."""
        return [worker.publisher() for worker in self._workers]

    def statistics(self) -> dict[str, Any]:
        """Return counters, which go on over restarts of the worker.

        ``packets_read``, ``bytes_read``, ``packets_filtered`` (refused by a filter in the worker),
        ``packets_sent`` and ``bytes_sent`` (of the kernel, by whomever), ``restarts``,
        ``subscribers``, ``receivers`` (calls of ``recv`` that wait), ``active``, ``held_back`` (by
        a lossless subscription), ``filter``, ``filter_runs``; the kernel's ``dropped`` (its queue
        was full, or it runs the filter), ``kernel_packets`` and ``kernel_bytes`` (read by
        whomever); and in ``kernel`` all its counters, by its own names (``tunctl.statistics``).

        ``lost`` says where packets did not get through: in the ``kernel`` (as ``dropped``), in the
        worker's ``filter`` (as ``packets_filtered``), before the ``publisher`` had sent them (then
        all ZeroMQ subscribers see a gap), or as they were written (``write``: the kernel's
        rx_dropped and rx_errors; ``send`` has raised its errno). What a subscription was too slow
        for, in the ring or in ZeroMQ's queue, its own ``stats()`` tells.

        Of several queues, counters are added up, and ``queues`` has each one's, and whether it is
        ``attached``.
        """
        found = [worker.call("statistics") for worker in self._workers]
        return found[0] if self.queues == 1 else _total(found)

    def list_subscribers(self) -> list[SubscriberRow]:
        """Return who has subscribed: by the wire format alone a subscriber is not known here."""
        return [
            SubscriberRow._make([*row, queue])
            for queue, worker in enumerate(self._workers)
            for row in worker.call("list_subscribers")
        ]

    def controlling_process(self, pid: int) -> None:
        """Hand the device on: it goes when that process ends, no longer when this one does.

        Raises:
            ProcessLookupError: there is no such process.
            NotOwner: the device does not belong to the calling process.
        """
        if isinstance(pid, bool) or not isinstance(pid, int):
            raise TypeError(f"a process is a pid, a number, not {pid!r}")
        deadline = time.monotonic() + PATIENCE
        while True:
            root, child = self._call("belongs")
            for name, ref, _, _ in SupervisorRef(lowlevel.process_of(root)).which_children():
                if ref == child:
                    SupervisorRef(lowlevel.process_of(root)).give_child(name, pid)
                    return
            if child.is_alive() or time.monotonic() > deadline:  # otherwise it was replaced
                raise NotOwner(f"{self.name} does not belong to process {os.getpid()}")

    def destroy(self) -> None:
        """Remove the device, and end its worker. It is no error if it is gone already.

        A persistent device that this user may not delete stays, without a worker. A worker that
        does not answer is killed, after 10 seconds.
        """
        self._end("destroy")

    def close(self) -> None:
        """End the worker, and with it the device, unless it is persistent. See ``destroy``."""
        self._end("close")

    def _end(self, operation: str) -> None:
        for worker in reversed(self._workers):  # the first one removes the device
            worker.writer.give_up()
            if not _end(worker, operation, self.queues):
                _delete_what_is_left(self._path, persistent=operation == "destroy")

    # -- as an object --------------------------------------------------------------------------

    def _worker(self, queue: int) -> WorkerClient:
        if isinstance(queue, bool) or not isinstance(queue, int):
            raise TypeError(f"a queue is a number, not {queue!r}")
        if not 0 <= queue < self.queues:
            raise ValueError(f"{self.name} has queues 0 to {self.queues - 1}, and no {queue}")
        return self._workers[queue]

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
        await asyncio.to_thread(self.close)

    def __reduce__(self) -> tuple[type[Device], tuple[Path, str, int, bool]]:
        return type(self), (self._path, self.name, self.queues, self._has_offload)

    def __eq__(self, other: object) -> bool:
        return self._path == other._path if isinstance(other, Device) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._path)

    def __repr__(self) -> str:
        return f"<Device {self.name}>"


_ADDED_UP = (
    "packets_read",
    "bytes_read",
    "packets_filtered",
    "restarts",
    "receivers",
)
_LOST_IN_QUEUES = ("filter", "publisher")  # the kernel counts its own of the whole device


def _total(queues: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the statistics of a device from those of its queues. Pure."""
    total = {name: value for name, value in queues[0].items() if name not in {"queue", "attached"}}
    total |= {name: sum(queue[name] for queue in queues) for name in _ADDED_UP}
    lost = [queue["lost"] for queue in queues]
    total["lost"] = lost[0] | {name: sum(one[name] for one in lost) for name in _LOST_IN_QUEUES}
    total["held_back"] = any(queue["held_back"] for queue in queues)
    # The kernel counts what is written of the whole device.
    total |= {name: queues[0][name] for name in ("packets_sent", "bytes_sent")}
    total["subscribers"] = max(queue["subscribers"] for queue in queues)  # most follow them all
    total["active"] = any(queue["active"] for queue in queues)
    return {**total, "queues": queues}


def _is_lossless(policy: object, transport: str) -> bool:
    if policy not in ("drop", "lossless"):
        raise ValueError(f"policy is 'drop' or 'lossless', not {policy!r}")
    if policy == "lossless" and transport != "ring":
        raise ValueError("ZeroMQ drops what a subscriber has no room for: lossless is the ring's")
    return policy == "lossless"


def _checked_batch(batch: object) -> int | None:
    """Return how many packets a batch has at most; None: packets come one by one."""
    if not isinstance(batch, int):
        raise TypeError(f"batch is True, False or a number of packets, not {batch!r}")
    if isinstance(batch, bool):
        return ring.BATCH if batch else None
    if not 1 <= batch <= ring.MOST_PACKETS:
        raise ValueError(f"a batch has 1 to {ring.MOST_PACKETS} packets, not {batch}")
    return batch


def _end(client: WorkerClient, operation: str, queues: int) -> bool:
    """Have a worker end in order, if there is one; return whether it did, and was not killed."""
    deadline = time.monotonic() + PATIENCE
    was_killed = False
    while True:
        try:
            worker = client.find()
            monitor = worker.monitor()
            worker.call([operation, [], {}], timeout=PATIENCE)
            monitor.wait(PATIENCE)
        except CallTimeout:
            _kill(client.path, queues)
            was_killed = True
        except (NoProcess, ProcessDown):
            if not paths.is_open(client.path):
                return not was_killed
            if time.monotonic() > deadline:
                raise
            client.forget()  # it crashed meanwhile: ask the next one
        except DeviceError as error:
            if error.errno == errno.ETIMEDOUT:
                _kill(client.path, queues)
                was_killed = True
            elif error.errno == errno.ENODEV:
                return not was_killed
            else:
                raise
        else:
            return not was_killed


def _kill(path: Path, queues: int) -> None:
    """Have a worker that does not answer be ended for good, by its supervisor.

    A device with several queues has a supervisor of its own, which is
    terminated here with all workers. If only the worker were, this supervisor would stay.
    """
    hanging = paths.worker(path)
    if hanging is None:
        return
    with contextlib.suppress(ProcessLookupError, NoProcess, ProcessDown, NotFound):
        child, above = Ref(hanging), linux.parent(hanging.pid)
        if queues > 1:
            child, above = Ref(above), linux.parent(above.pid)
        supervisor = SupervisorRef(above)
        for name, ref, _, _ in supervisor.which_children():
            if ref == child:
                supervisor.terminate_child(name)
                supervisor.delete_child(name)


def _delete_what_is_left(path: Path, *, persistent: bool) -> None:
    """Delete a device whose worker was killed, if it is in this network namespace.

    The kernel does so itself with the last descriptor. But whoever has sent packets has one, too.
    """
    inode, index = paths.place_of(path)
    with contextlib.suppress(OSError):  # there is no interface of this number, or it is no TUN
        if inode == netns.inode():
            name = socket.if_indextoname(index)
            if persistent or Flag.PERSIST not in tunctl.flags(name):
                tunctl.delete(name)


def known(path: Path, name: str) -> Device:
    """Return the device of a control socket, by the name that its worker knows.

    Raises:
        DeviceError: ENODEV, nobody is there.
    """
    answer, _, channel = control_socket.request(path, name, WORKER_OF, timeout=PATIENCE)
    channel.close()
    return Device(path, *answer[2:])
