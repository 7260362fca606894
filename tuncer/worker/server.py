"""The worker: the process that owns a device's descriptor, or one queue's of it.

It reads each packet straight into the ring, then signals the ring subscribers, who read the ring
themselves. Descriptor, ring, control socket and the subscribers' eventfds lie in the supervisor's
fd store. After a crash a successor goes on with them: neither the interface nor a subscriber
notices more than a pause.

Here are the worker's life and its calls. ``packet_reader`` has the way of a packet into the ring.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from supervisor import GenServer, NoReply, Ref, Sender, Shutdown, Stop, linux, lowlevel
from supervisor.errors import Reason, is_orderly
from supervisor.linux import process
from supervisor.lowlevel import Channel
from tuncer import tunctl
from tuncer.protocol import codec_types, control_socket, paths, ring, subscriber_handshake
from tuncer.protocol.control_socket import WAS_DELETED
from tuncer.protocol.operations import TUNCTL, WORKER
from tuncer.protocol.packet import EventValue
from tuncer.tunctl import Flag
from tuncer.tunctl.errors import explain
from tuncer.worker import active_mode, crash_safe_value, open_device
from tuncer.worker.active_mode import Active
from tuncer.worker.control_server import ControlServer
from tuncer.worker.link_monitor import LinkMonitor
from tuncer.worker.open_device import SHORT, TXQUEUELEN
from tuncer.worker.packet_reader import PacketReader
from tuncer.worker.recv_queue import RecvQueue
from tuncer.worker.subscribers import Subscribers
from tuncer.worker.zmq_publisher import Publisher

_IS_ACTIVE = "the device is in active mode: packets go to its subscriptions"


class Worker(GenServer):
    """Owns one queue of a device. A supervisor starts it, and keeps its descriptors."""

    # -- the start ---------------------------------------------------------------------------------

    def init(
        self,
        name: str = "",
        flags: int = Flag.TAP | Flag.NO_PI,
        *,
        active: Active = False,
        slots: int = ring.DEFAULT_SLOTS,
        adopt: str | None = None,
        queue: int = 0,
        queues: int = 1,
        described: dict[str, Any] | None = None,
        again: bool = False,
        **settings: Any,
    ) -> Any:
        """Create the device; or, after a crash, go on with the stored descriptors.

        Args:
            name: the device's.
            flags: to create it with.
            active: of ``Mode``.
            slots: of the ring.
            adopt: the path where its descriptor is offered; otherwise it is created.
            queue: which of the device's this is. The first one creates the device, and its worker
                sets the filter, deletes the device, and has its control socket.
            queues: how many there are, each with a worker below one supervisor.
            described: of ``child_spec``: what a new device gets.
            again: whether the device is created again when somebody else has deleted it.
            **settings: of ``open_device.created``.
        """
        codec_types.register()
        self._queue, self._queues, self._again = queue, queues, again
        self._polled = self._ended = False
        try:
            self._open(lambda: open_device.opened(name, flags, queue, adopt, settings), slots)
            if described is not None and self._packets.is_new:
                open_device.describe(self._tun, **described)
            self._packets.recover(active, self.log)
        except (OSError, ValueError, TypeError, KeyError) as error:
            if "tun" in self.stored_fds() and getattr(error, "errno", 0) == errno.EBADFD:
                self._end_deleted()
                return None
            return Stop(error)
        self._control_server = ControlServer(self, self._listener, self._serve_request)
        self._subscribers.restore()
        if self._packets.mode.is_active(has_subscribers=self._has_subscribers):
            self._control.taken = self._writer.head  # what was recovered is for subscribers
        self._link.begin()
        self._report_end_of_count()
        if self._control.publishes:
            self._bind_publisher()
        self.demand_changed()
        return None

    def _open(self, opened: Callable[[], int], slots: int) -> None:
        """Get each descriptor from the fd store, or make it and store it."""
        self._tun = self._stored("tun", opened)
        ring_fd = self._stored("ring", lambda: ring.create(slots))
        filter_fd = self._stored("filter", crash_safe_value.create)
        self._packets = PacketReader(self._tun, ring_fd, filter_fd, self._queue, self._queues)
        self._writer, self._control = self._packets.writer, self._packets.control
        self._listener = socket.socket(fileno=self._stored("control", self._listen))
        self._path = Path(self._listener.getsockname())
        if not paths.is_open(self._path):  # it was removed with the whole runtime directory
            self._listen_again()
        self.name = self._writer.name
        paths.link_worker(self._path, process(os.getpid()))
        self._link = LinkMonitor(self, self._tun, self._stored("link", crash_safe_value.create))
        self._subscribers = Subscribers(self, ring_fd)
        lowlevel.when_restored(self, self._restore_sockets)
        self._receivers = RecvQueue(self, self._control, self._packets.ring)
        self._publisher: Publisher | None = None

    def _stored(self, name: str, make: Callable[[], int]) -> int:
        fd = self.stored_fds().get(name)
        if fd is None:
            fd = make()
            self.store_fd(name, fd)
        return fd

    def _listen(self) -> int:
        name = tunctl.devname(self._tun)
        self._writer.name = name
        path = paths.queue(paths.control_path_of(self._tun), self._queue)
        return control_socket.listen(path, name)

    def _listen_again(self) -> None:
        """Listen at the same path, though the device may have been moved or renamed since."""
        paths.directory()
        fd = control_socket.listen(self._path, self._writer.name)
        self._listener.close()
        self._listener = socket.socket(fileno=fd)
        self.store_fd("control", fd)

    def _restore_sockets(self) -> None:
        if self._ended or paths.is_open(self._path):
            return
        try:
            self._control_server.stop_listening()
            self._listen_again()
            self._control_server.listen_at(self._listener)
            paths.link_worker(self._path, process(os.getpid()))
            if self._publisher is not None:
                self._publisher.bind_again(paths.publisher(self._path))
        except OSError as error:
            self.log.error("%s: attach() does not find it, for now: %s", self.name, error)

    def _bind_publisher(self) -> None:
        if self._publisher is not None:
            return
        path = paths.publisher(self._path)
        self._publisher = Publisher(self, self.context, path, self._packets, self._queue)
        self.add_reader(self._publisher.fileno(), self._publish)
        self._publish()

    def _end_deleted(self) -> None:
        """The device was deleted while no worker ran: tell the subscribers, and end."""
        self._ended = True
        stored = self.stored_fds()
        if "ring" in stored:  # otherwise the worker before was killed before it had subscribers
            writer = ring.Writer(stored["ring"])
            writer.control.ended = errno.ENODEV
            Subscribers.end_stored(stored, writer.head, writer.control.events)
        if "control" in stored:
            with socket.socket(fileno=stored["control"]) as listener:
                paths.remove(Path(listener.getsockname()))
        self._forget_stored()
        # Not before this start has succeeded: a start that fails is tried again.
        self.call_later(0.0, lambda: self.exit(Shutdown(WAS_DELETED)))

    # -- packets -----------------------------------------------------------------------------------

    @property
    def _has_subscribers(self) -> bool:
        return bool(self._subscribers.eventfds) or self._zmq_subscribers > 0

    @property
    def _zmq_subscribers(self) -> int:
        return 0 if self._publisher is None else max(0, self._publisher.subscribers)

    def begin_subscription(self) -> tuple[int, int]:
        """Make a passive device active; return the next ``seq``, and the events sent so far.

        The next packet may be an older one that no ``recv`` has taken.
        """
        self._packets.mode.subscribed()
        return self._control.taken, self._control.events

    def demand_changed(self) -> None:
        """Poll the device, and attach its queue, exactly while somebody wants its packets."""
        if self._receivers and self._packets.mode.is_active(has_subscribers=self._has_subscribers):
            self._receivers.refuse_all(errno.EINVAL, _IS_ACTIVE, self.name)
        wanted = self._packets.decide(
            receivers=bool(self._receivers), has_subscribers=self._has_subscribers
        )
        if wanted and not self._polled:
            self.add_reader(self._tun, self._read)
        elif not wanted and self._polled:
            self.remove_reader(self._tun)
        self._polled = wanted

    def _read(self) -> None:
        try:
            if not self._packets.read(has_subscribers=self._has_subscribers):
                self._receivers.serve(self.name)
        except OSError as error:
            self._subscribers.notify()
            self.device_failed(error)
            return
        self._subscribers.notify()
        if self._publisher is not None and self._publisher.has_work:
            self._publisher.publish()
        if self._packets.mode.has_run_out:
            self._report_end_of_count()

    def _publish(self) -> None:
        if self._publisher is not None:
            self._publisher.publish()
        self.demand_changed()

    # -- events ------------------------------------------------------------------------------------

    def report_event(self, kind: str, value: EventValue = None) -> None:
        """Send an event, and after which packet it was, to those who have subscribed to events."""
        # Send before counting: a subscriber that sees the count without the event knows that it
        # has missed it.
        number = self._control.events + 1
        self._subscribers.send_event(kind, value, self._writer.head, number)
        self._control.events = number

    def _report_end_of_count(self) -> None:
        """Report once that a counted mode is over: the device is passive."""
        if self._packets.mode.is_over:
            self.report_event("passive")
            self._packets.mode.told()
        self.demand_changed()

    def device_failed(self, error: OSError) -> None:
        """End, if the error says that the device was deleted; otherwise raise it."""
        if error.errno != errno.EBADFD:
            raise error
        self._end("deleted", errno.ENODEV, WAS_DELETED)
        self.log.warning("%s: %s", self.name, WAS_DELETED)
        self._forget_stored()
        self.exit(Shutdown(WAS_DELETED))

    def _forget_stored(self) -> None:
        """Begin with a new device at the next start, if there is to be one."""
        if self._again:
            for name in self.stored_fds():
                self.drop_fd(name)
            for name in ("tun", "ring", "control", "link", "filter"):
                self.drop_fd(name)

    def store_fd_later(self, name: str, fd: int, done: Callable[[str | None], None]) -> None:
        """Store a descriptor without waiting for the supervisor; call back when it is stored."""
        lowlevel.store_fd_later(self, name, fd, done)

    # -- calls: operations of ``tuncer.protocol.operations`` ---------------------------------------

    def handle_call(self, request: list[Any], sender: Sender) -> Any:
        """Carry out an operation: a function of ``tunctl``, or a method of this class."""
        try:
            return self._carry_out(request, sender)
        except (OSError, ValueError, TypeError, KeyError) as error:
            self.refuse(sender, error)
            if isinstance(error, OSError) and error.errno == errno.EBADFD:
                self.device_failed(error)
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
            case ["withdraw", int(token)]:
                self._receivers.withdraw(token, self.name)
                return
        self.log.warning("%s: a cast is ignored: %.200r", self.name, request)

    def _send(self, packets: list[bytes]) -> int:
        control = self._control
        for packet in packets:
            try:
                os.write(self._tun, packet)
            except OSError as error:
                raise explain(error.errno or 0, "send", self.name) from error
            control.sent += 1
            control.sent_bytes += len(packet)
        return len(packets)

    def _recv(self, sender: Sender, timeout: float | None, token: int | None = None) -> NoReply:
        if self._packets.mode.is_active(has_subscribers=self._has_subscribers):
            raise OSError(errno.EINVAL, _IS_ACTIVE, self.name)
        self._receivers.add(sender, timeout, token, self.name)
        return NoReply()

    def _set_active(self, active: Active) -> None:
        self._packets.mode.set(active_mode.check(active), has_subscribers=self._has_subscribers)
        self._report_end_of_count()

    _add_active = _set_active  # a number is added to what is left of the last one

    def _filter(
        self, expression: str | None, instructions: bytes, told: tuple[str | None, int] | None
    ) -> tuple[str | None, int]:
        return self._packets.filter.set(expression, instructions, told)

    def _vnet_hdr_size(self, size: int | None = None) -> int:
        return self._packets.vnet_hdr_size(size)

    def _offload(self, what: int) -> None:
        """Tell the kernel what the subscribers can handle, and queue fewer packets meanwhile.

        Each may have 64 KiB then: 10,000 that nobody reads are 600 MB.
        """
        tunctl.offload(self._tun, what)
        before, after = (TXQUEUELEN, SHORT) if what else (SHORT, TXQUEUELEN)
        if tunctl.txqueuelen(self._tun) == before:  # somebody else's choice stays
            tunctl.txqueuelen(self._tun, after)

    def _statistics(self) -> dict[str, Any]:
        kernel = tunctl.statistics(self._tun)
        return {
            **ring.counters(self._writer),
            "filter": self._packets.filter.expression,
            "filter_runs": self._packets.filter.runs_in,
            "dropped": kernel["tx_dropped"],
            "kernel_packets": kernel["tx_packets"],
            "kernel_bytes": kernel["tx_bytes"],
            "kernel": kernel,
            "queue": self._queue,
            "attached": self._queues == 1 or tunctl.is_attached(self._tun),
            "subscribers": len(self._subscribers.eventfds) + self._zmq_subscribers,
            "receivers": len(self._receivers),
            "active": self._packets.mode.is_active(has_subscribers=self._has_subscribers),
        }

    def _control_path(self) -> list[Any]:
        return [str(self._path), self.name, self._queues]

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

    # -- the control socket ------------------------------------------------------------------------

    def _serve_request(self, peer: Channel, message: list[Any]) -> bool:
        """Answer a request; return False if the peer has no room for the answer."""
        match message:
            case ["worker"]:
                return peer.offer("worker", self.ref, self.name, self._queues)
            case ["getfd"]:
                return peer.offer("fd", fds=(self._tun,))
            case [subscriber_handshake.RING, bool(events)]:
                self._subscribe(
                    peer, os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC), wants_events=events
                )
            case [subscriber_handshake.ZMQ, bool(events)]:
                self._bind_publisher()
                self._subscribe(peer, None, wants_events=events)
            case ["publish"]:
                self._bind_publisher()
                return peer.offer("publishes", str(paths.publisher(self._path)))
            case _:
                return peer.offer(ValueError(f"a control socket does not know {message!r:.100}"))
        return True

    def _subscribe(self, peer: Channel, eventfd: int | None, *, wants_events: bool) -> None:
        self._control_server.release(peer)
        self._subscribers.subscribe(peer, eventfd, wants_events=wants_events)

    # -- the end -----------------------------------------------------------------------------------

    def _end(self, why: str, number: int = 0, text: str = "") -> None:
        """Send every subscriber and receiver the end of the log, and close the control socket."""
        if self._ended:
            return
        self._ended = True
        # A subscriber that has no room for a message reads it in the ring.
        self._control.ended = number
        gone = text or "the device was destroyed"
        self._receivers.refuse_all(number or errno.ENODEV, gone, self.name)
        if number == errno.ENODEV:
            self.report_event("deleted")
        self._subscribers.send_end(number, text, self._writer.head, self._control.events)
        self._subscribers.notify()
        if self._publisher is not None:
            self._publisher.end(why)
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
