"""The worker: the process that owns a device's descriptor, or one queue's of it.

It reads each packet straight into the ring, then signals the ring subscribers, who read the ring
themselves. Descriptor, ring, control socket and the subscribers' eventfds lie in the supervisor's
fd store. After a crash a successor goes on with them: neither the interface nor a subscriber
notices more than a pause.

Here are the worker's life and what it is asked. Packets go from the descriptor into the ring in
``packet_reader``, and from there to those who want them in ``delivery``.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from supervisor import GenServer, NoReply, Ref, Sender, Shutdown, Stop, linux, lowlevel
from supervisor.errors import Reason, is_orderly
from supervisor.linux import process
from supervisor.lowlevel import Channel, Timer, crash_safe_value
from tuncer import tunctl
from tuncer.protocol import codec_types, paths, ring
from tuncer.protocol.control_socket import WAS_DELETED
from tuncer.protocol.fd_store_keys import CONTROL, FILTER, LINK, RING, TUN
from tuncer.protocol.operations import (
    BY_ZMQ,
    GETFD,
    PUBLISH,
    TUNCTL,
    WITHDRAW,
    WORKER,
    WORKER_OF,
)
from tuncer.protocol.subscriber_handshake import SUBSCRIBE, SUBSCRIBE_ZMQ
from tuncer.protocol.timeouts import check_timeout
from tuncer.tunctl import Flag
from tuncer.tunctl.header import VNET_SIZE
from tuncer.worker import active_mode, delivery, open_device
from tuncer.worker.active_mode import Active
from tuncer.worker.control_server import ControlServer
from tuncer.worker.delivery import Delivery
from tuncer.worker.fd_store import FdStore
from tuncer.worker.link_monitor import LinkMonitor
from tuncer.worker.open_device import SHORT, TXQUEUELEN
from tuncer.worker.packet_reader import PacketReader

_LATER = 1.0  # seconds until sockets that could not be bound are tried again


class Worker(GenServer):
    """Owns one queue of a device. A supervisor starts it, and keeps its descriptors."""

    # -- the start ---------------------------------------------------------------------------------

    def init(
        self,
        name: str = "",
        flags: int = Flag.TAP | Flag.NO_PI,
        *,
        active: Active = False,
        log_packets: int = ring.DEFAULT_PACKETS,
        log_bytes: int = ring.DEFAULT_BYTES,
        adopt: str | None = None,
        queue: int = 0,
        queues: int = 1,
        offload: bool = False,
        cpu: int | None = None,
        described: dict[str, Any] | None = None,
        again: bool = False,
        **settings: Any,
    ) -> Any:
        """Create the device; or, after a crash, go on with the stored descriptors.

        Args:
            name: the device's.
            flags: to create it with.
            active: of ``Mode``.
            log_packets: of the ring: how many it has room for.
            log_bytes: of the ring.
            adopt: the path where its descriptor is offered; otherwise it is created.
            queue: which of the device's this is. The first one creates the device, and its worker
                sets the filter, deletes the device, and has its control socket.
            queues: how many there are, each with a worker below one supervisor.
            offload: whether the device is to have offload, and its packets a virtio_net_hdr of
                which the clients see nothing.
            cpu: the processor that this worker runs on; None: any.
            described: of ``child_spec``: what a new device gets.
            again: whether the device is created again when somebody else has deleted it.
            **settings: of ``open_device.created``.
        """
        codec_types.register()
        self._queue, self._queues, self._again = queue, queues, again
        self._has_offload = offload
        self._run_on(cpu)
        self._ended = False
        self._retry: Timer | None = None
        self._store = FdStore(self)
        try:
            self._open(
                lambda: open_device.opened(name, flags, queue, adopt, settings),
                lambda: ring.create(log_packets, log_bytes),
            )
            if self._packets.is_new:
                self._prepare(described)
            self._packets.recover(active, self.log)
        except (OSError, ValueError, TypeError, KeyError) as error:
            if TUN in self._store.inherited and getattr(error, "errno", 0) == errno.EBADFD:
                self._end_deleted()
                return None
            return Stop(error)
        self._control_server.begin(self._answer)
        self._delivery.begin()
        self._link.begin()
        self._delivery.report_end_of_count()
        lowlevel.when_restored(self, self._restore_sockets)
        if self._control.publishes:
            self._restore_sockets()
        return None

    def _open(self, opened: Callable[[], int], new_ring: Callable[[], int]) -> None:
        """Get each descriptor from the fd store, or make it and store it."""
        store = self._store
        self._tun = store.get_or_make(TUN, opened)
        ring_fd = store.get_or_make(RING, new_ring)
        filter_fd = store.get_or_make(FILTER, crash_safe_value.create)
        self._packets = PacketReader(self._tun, ring_fd, filter_fd, self._queue, self._queues)
        self._control = self._packets.control
        if CONTROL not in store.inherited:
            self._control.name = tunctl.devname(self._tun)
        self.name = self._packets.name
        self._control_server = ControlServer(self, self.name, store, self._first_path)
        self._delivery = Delivery(self, self._packets, store, ring_fd, self._device_failed)
        self._link = LinkMonitor(
            self,
            self.name,
            self._tun,
            store.get_or_make(LINK, crash_safe_value.create),
            self._delivery.report_event,
            self._device_failed,
        )

    def _run_on(self, cpu: int | None) -> None:
        """Keep to a processor, as long as this machine lets it."""
        if cpu is not None:
            try:
                os.sched_setaffinity(0, {cpu})
            except OSError as error:  # taken from the control group since the device was created
                self.log.warning("not on processor %d alone: %s", cpu, error)

    def _prepare(self, described: dict[str, Any] | None) -> None:
        """Give a new device what its specification says."""
        if self._has_offload and self._queue == 0:
            self._packets.vnet_hdr_size(VNET_SIZE)  # a persistent device keeps what it had
            self._offload(open_device.granted_offload(self._tun))
        if described is not None:
            of_link = {key: value for key, value in described.items() if key != "filter"}
            open_device.describe(self._tun, **of_link)
            if "filter" in described:
                expression, instructions = described["filter"]
                self._filter(expression, instructions, None)

    def _first_path(self) -> Path:
        """Return the path of a new device's control socket."""
        return paths.queue(paths.control_path_of(self._tun), self._queue)

    def _restore_sockets(self) -> None:
        """Bind what is not bound, after a restart, or a removal of the runtime directory.

        It is tried again until it succeeds: the device goes on, for those who are connected.
        """
        if self._ended:
            return
        try:
            self._control_server.restore()
            if self._control.publishes:
                self._restore_publisher()
        except OSError as error:
            self.log.error("%s: new clients do not find it, for now: %s", self.name, error)
            if self._retry is not None:
                self.cancel_timer(self._retry)
            self._retry = self.call_later(_LATER, self._restore_sockets)

    def _restore_publisher(self) -> None:
        path = paths.publisher(self._path)
        if self._delivery.publisher is None:
            self._delivery.publish_at(path)
        elif not path.exists():
            self._delivery.publisher.bind_again(path)

    @property
    def _path(self) -> Path:
        return self._control_server.path

    def _publish(self) -> None:
        self._delivery.publish_at(paths.publisher(self._path))

    def _end_deleted(self) -> None:
        """The device was deleted while no worker ran: tell the subscribers, and end."""
        self._ended = True
        stored = self._store.inherited
        delivery.end_stored(stored)
        if CONTROL in stored:
            with socket.socket(fileno=stored[CONTROL]) as listener:
                paths.remove(Path(listener.getsockname()))
        self._forget_stored()
        # Not before this start has succeeded: a start that fails is tried again.
        self.call_later(0.0, lambda: self.exit(Shutdown(WAS_DELETED)))

    # -- calls: operations of ``tuncer.protocol.operations`` ---------------------------------------

    def handle_call(self, request: list[Any], sender: Sender) -> Any:
        """Carry out an operation: a function of ``tunctl``, or a method of this class."""
        try:
            return self._carry_out(request, sender)
        except (OSError, ValueError, TypeError, KeyError, OverflowError) as error:
            self.refuse(sender, error)
            if isinstance(error, OSError) and error.errno == errno.EBADFD:
                self._device_failed(error)
            return NoReply()

    def _carry_out(self, request: Any, sender: Sender) -> Any:
        match request:
            case ["recv", list(arguments), dict()]:
                return self._recv(sender, *arguments)
            case [str(name), list(arguments), dict(options)] if name in TUNCTL:
                return getattr(tunctl, name)(self._tun, *arguments, **options)
            case [str(name), list(arguments), dict(options)] if name in WORKER:
                return getattr(self, f"_{name}")(*arguments, **options)
        raise ValueError(f"a worker does not know {request!r:.100}")

    def handle_cast(self, request: Any) -> None:
        """Forget a ``recv`` whose caller does not wait any longer."""
        match request:
            case [str(name), int(token)] if name == WITHDRAW:
                self._delivery.receivers.withdraw(token)
            case _:
                self.log.warning("%s: a cast is ignored: %.200r", self.name, request)

    def _recv(self, sender: Sender, timeout: float | None, token: int | None = None) -> NoReply:
        self._delivery.receive(sender, timeout, token)
        return NoReply()

    def _set_active(self, active: Active) -> None:
        self._delivery.set_active(active_mode.check(active))

    _add_active = _set_active  # a number is added to what is left of the last one

    def _filter(
        self, expression: str | None, instructions: bytes, told: tuple[str | None, int] | None
    ) -> tuple[str | None, int]:
        return self._packets.filter.set(expression, instructions, told)

    def _vnet_hdr_size(self, size: int | None = None) -> int:
        if size is not None and self._has_offload:
            problem = "with offload=True the header before packets has a size of its own"
            raise OSError(errno.EINVAL, problem, self.name)
        return self._packets.vnet_hdr_size(size)

    def _offload(self, what: int | None = None) -> int:
        """Tell the kernel what the subscribers can handle, and queue fewer packets meanwhile.

        Each may have 64 KiB then: 10,000 that nobody reads are 600 MB.
        """
        if what is None:
            return self._control.offload
        tunctl.offload(self._tun, what)
        self._control.offload = what
        before, after = (TXQUEUELEN, SHORT) if what else (SHORT, TXQUEUELEN)
        if tunctl.txqueuelen(self._tun) == before:  # somebody else's choice stays
            tunctl.txqueuelen(self._tun, after)
        return what

    def _list_subscribers(self) -> list[list[Any]]:
        return self._delivery.subscribers.told()

    def _statistics(self) -> dict[str, Any]:
        kernel = tunctl.statistics(self._tun)
        return {
            **self._packets.writer.counters(),
            "filter": self._packets.filter.expression,
            "filter_runs": self._packets.filter.runs_in,
            "packets_sent": kernel["rx_packets"] - self._control.received,
            "bytes_sent": kernel["rx_bytes"] - self._control.received_bytes,
            "dropped": kernel["tx_dropped"],
            "lost": {
                "kernel": kernel["tx_dropped"],
                "filter": self._control.filtered,
                "publisher": self._control.overrun,
                "write": kernel["rx_dropped"] + kernel["rx_errors"],
            },
            "kernel_packets": kernel["tx_packets"],
            "kernel_bytes": kernel["tx_bytes"],
            "kernel": kernel,
            "queue": self._queue,
            "attached": self._queues == 1 or tunctl.is_attached(self._tun),
            "subscribers": self._delivery.count,
            "receivers": len(self._delivery.receivers),
            "active": self._delivery.is_active,
            "held_back": self._delivery.is_held_back,
        }

    def _control_path(self) -> list[Any]:
        return [str(self._path), self.name, self._queues, self._has_offload]

    def _belongs(self) -> list[Ref]:
        """Return the owner's root supervisor, and the child of it that this device is."""
        parent = process(os.getppid())
        if self._queues == 1:
            return [Ref(parent), self.ref]
        return [Ref(linux.parent(parent.pid)), Ref(parent)]

    def _close(self) -> Stop:
        return Stop(Shutdown("closed"))

    def _destroy(self) -> Stop:
        if self._queue == 0:
            self._delete()
        return Stop(Shutdown("destroyed"))

    # -- requests by the control socket ------------------------------------------------------------

    def _answer(self, peer: Channel, message: list[Any]) -> bool:
        """Answer a request; return False if the peer has no room for the answer."""
        match message:
            case [request, *_] if request in BY_ZMQ and self._has_offload:
                problem = "a device with offload=True has no subscribers by ZeroMQ"
                return peer.offer(OSError(errno.EOPNOTSUPP, problem, self.name))
            case [request] if request == WORKER_OF:
                about = (self.name, self._queues, self._has_offload)
                return peer.offer(WORKER_OF, self.ref, *about)
            case [request] if request == GETFD:
                return peer.offer(GETFD, fds=(self._tun,))
            case [request] if request == PUBLISH:
                self._publish()
                return peer.offer(PUBLISH, str(paths.publisher(self._path)))
            case [request, *_] if request in (SUBSCRIBE, SUBSCRIBE_ZMQ):
                return self._subscribe(peer, message)
        return peer.offer(ValueError(f"a control socket does not know {message!r:.100}"))

    def _subscribe(self, peer: Channel, message: list[Any]) -> bool:
        """Begin a handshake; return False if the peer has no room for an answer."""
        eventfd: int | None = None
        policy: dict[str, Any] = {}
        match message:
            case [request, bool(events), bool(lossless), hold] if request == SUBSCRIBE:
                try:
                    check_timeout(hold)
                except (TypeError, ValueError) as error:
                    return peer.offer(error)
                eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
                policy = {"is_lossless": lossless, "hold_timeout": hold}
            case [request, bool(events)] if request == SUBSCRIBE_ZMQ:
                self._publish()
            case _:
                return peer.offer(ValueError(f"no subscription: {message!r:.100}"))
        self._control_server.release(peer)
        self._delivery.subscribers.subscribe(peer, eventfd, wants_events=events, **policy)
        return True

    # -- the end -----------------------------------------------------------------------------------

    def _device_failed(self, error: OSError) -> None:
        """End, if the error says that the device was deleted; otherwise raise it."""
        if error.errno != errno.EBADFD:
            raise error
        self._end("deleted", errno.ENODEV, WAS_DELETED)
        more = ", and is made again" if self._again else ""
        level = logging.INFO if self._queue else logging.WARNING  # one warning for all queues
        self.log.log(level, "%s: %s by somebody else%s", self.name, WAS_DELETED, more)
        self._forget_stored()
        self.exit(Shutdown(WAS_DELETED))

    def _forget_stored(self) -> None:
        """Begin with a new device at the next start, if there is to be one."""
        if self._again:
            self._store.drop_all()

    def _end(self, why: str, number: int = 0, text: str = "") -> None:
        """Send every subscriber and receiver the end of the log, and close the control socket."""
        if not self._ended:
            self._ended = True
            self._delivery.end(why, number, text)
            paths.remove(self._path)

    def _delete(self) -> None:
        try:
            tunctl.delete(self._tun)
        except OSError as error:
            # EPERM: it is not this user's to delete. With this descriptor it goes, or it stays.
            if error.errno not in {errno.EBADFD, errno.ENODEV, errno.EPERM}:
                raise

    def terminate(self, reason: Reason) -> None:
        """Take the device down with this process, unless it is persistent."""
        if not is_orderly(reason) or lowlevel.starts_again(self):
            return  # a successor goes on with the stored descriptors
        with contextlib.suppress(OSError):
            if self._queue == 0 and Flag.PERSIST not in tunctl.flags(self._tun):
                # Closing alone would leave it alive through any duplicate of the descriptor.
                self._delete()
        self._end("closed")
