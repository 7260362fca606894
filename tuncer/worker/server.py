"""The worker: the process that owns a device's descriptor.

It reads each packet straight into the ring, then wakes the subscribers, who read the ring
themselves. Descriptor, ring, door and the subscribers' eventfds lie in the supervisor's fd
store: a replacement takes them up, and neither the interface nor a subscriber notices more than
a pause.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from supervisor import GenServer, NoReply, Ref, Sender, Shutdown, Stop, linux
from supervisor.errors import Reason, is_orderly
from supervisor.linux import process
from supervisor.protocol.channel import Channel
from tuncer import tunctl
from tuncer.protocol import codec_types as _terms  # noqa: F401 - addresses and routes travel
from tuncer.protocol import control_socket, paths, ring
from tuncer.tunctl import Flag
from tuncer.tunctl.errors import explain
from tuncer.tunctl.header import SIZE as PI_SIZE
from tuncer.worker import active_mode, crash_safe_value, open_device, packet_length
from tuncer.worker.active_mode import Active, Mode
from tuncer.worker.control_server import Visitors
from tuncer.worker.link_monitor import LinkWatch
from tuncer.worker.open_device import SHORT, TXQUEUELEN
from tuncer.worker.packet_filter import Filter
from tuncer.worker.recv_queue import Receivers
from tuncer.worker.subscribers import Followers
from tuncer.worker.zmq_publisher import Publisher

_LARGEST_VNET_HDR = 1024  # so that a slot of the ring holds any packet behind it
_WAS_DELETED = "the device was deleted"
_IS_ACTIVE = "the device is in active mode: packets go to its subscriptions"

# What a Device may have done to the device: functions of tunctl that take its descriptor first.
_TUNCTL: dict[str, Callable[..., Any]] = {
    name: getattr(tunctl, name)
    for name in (
        "add_address",
        "add_route",
        "alias",
        "carrier",
        "change_address",
        "devname",
        "down",
        "flags",
        "group",
        "ifindex",
        "is_up",
        "link_local",
        "link_type",
        "list_addresses",
        "list_routes",
        "mac",
        "master",
        "move",
        "mtu",
        "owner",
        "persist",
        "place",
        "receive_filter",
        "remove_address",
        "remove_route",
        "rename",
        "sndbuf",
        "txqueuelen",
        "up",
    )
}


class Worker(GenServer):
    """Owns one device. Started by a supervisor only: without the fd store it would be no use."""

    # -- beginning ---------------------------------------------------------------------------------

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
        """Create the device, or take it up after a crash.

        Args:
            name: the device's.
            flags: to create it with.
            active: of ``Mode``.
            slots: of the ring.
            adopt: the path where its descriptor is offered; otherwise it is created.
            queue: which of the device's this is: the first one creates it, and leads.
            queues: how many there are, each with a worker below one supervisor.
            described: of ``child_spec``: what a new device gets.
            again: whether the device is made again when somebody else has deleted it.
            **settings: of ``open_device.created``.
        """
        self._queue, self._queues, self._again = queue, queues, again
        self._polled = False
        self._was_active = False
        self._operations: dict[str, Callable[..., Any]] = {
            "tunctl": self._tunctl,
            "send": self._send,
            "setopt": self._setopt,
            "filter": lambda *terms: self._filter.set(*terms),  # noqa: PLW0108 - not there yet
            "vnet_hdr_size": self._vnet_hdr_size,
            "offload": self._offload,
            "statistics": self._statistics,
            "door": lambda: [str(self._path), self.name, self._queues],
            "belongs": self._belongs,
            "destroy": self._destroy,
            "close": lambda: Stop(Shutdown("closed")),
        }
        self._ended = False
        try:
            self._take_up(lambda: open_device.opened(name, flags, queue, adopt, settings), slots)
            if described is not None and self._writer.control[ring.TRANSMITTED] == 0:
                open_device.describe(self._tun, **described)
            self._recover(active)
        except (OSError, ValueError, TypeError, KeyError) as error:
            if "tun" in self.stored_fds() and getattr(error, "errno", 0) == errno.EBADFD:
                self._bury_deleted()
                return None
            return Stop(error)
        self._visitors = Visitors(self, self._door, self._serve_visitor)
        self._followers.take_up()
        if self._mode.is_active(self._followed):  # what was recovered is the subscribers' already
            self._writer.control[ring.TAKEN] = self._writer.head
        self._link.begin()
        self._tell_if_over()
        if self._writer.control[ring.PUBLISHES]:
            self._bind_publisher()
        self._poll_device()
        return None

    def _take_up(self, opened: Callable[[], int], slots: int) -> None:
        """Get each descriptor from the store, or make it and put it there."""
        self._tun = self._stored("tun", opened)
        log = self._stored("ring", lambda: ring.create(slots))
        self._writer, self._reader = ring.Writer(log), ring.Reader(log)
        self._log = log
        self._flags = tunctl.flags(self._tun)  # whatever was asked for, or adopted
        self._door = socket.socket(fileno=self._stored("door", self._listen))
        self._path = Path(self._door.getsockname())
        if not self._path.exists():  # it was removed with the whole runtime directory
            self._open_door_again()
        self.name = self._writer.name
        paths.note_worker(self._path, process(os.getpid()))
        kept = self._stored("link", crash_safe_value.create)
        self._link = LinkWatch(self, self._tun, kept, self._happened, self._device_failed)
        self._vnet_hdr = tunctl.vnet_hdr_size(self._tun)
        self._filter = Filter(
            self._tun,
            self._stored("filter", crash_safe_value.create),
            self._writer.address,
            self._prefix,
            leads=self._queue == 0,
        )
        self._mode = Mode(self._writer.control)
        self._followers = Followers(self, log, self._begin, self._poll_device)
        control = self._writer.control
        self._receivers = Receivers(self, control, self._reader, self._poll_device)
        self._publisher: Publisher | None = None

    def _open_door_again(self) -> None:
        """Listen at the same path, though the device may have been moved or renamed since."""
        paths.directory()
        fd = control_socket.listen(self._path, self._writer.name)
        self._door.close()
        self._door = socket.socket(fileno=fd)
        self.store_fd("door", fd)

    def _directory_made_again(self) -> None:
        if self._ended or self._path.exists():
            return
        try:
            self._visitors.close_door()
            self._open_door_again()
            self._visitors.open_door(self._door)
            paths.note_worker(self._path, process(os.getpid()))
            if self._publisher is not None:
                self._publisher.bind_again(paths.publisher(self._path))
        except OSError as error:
            self._actor.log.error("%s cannot be found any more: %s", self.name, error)  # noqa: TRY400

    def _listen(self) -> int:
        name = tunctl.devname(self._tun)
        self._writer.name = name
        return control_socket.listen(paths.queue(paths.door_of(self._tun), self._queue), name)

    def _belongs(self) -> list[Ref]:
        """Return the owner's root, and the child of it that this device is."""
        parent = process(os.getppid())
        if self._queues == 1:
            return [Ref(parent), self.ref]
        return [Ref(linux.parent(parent.pid)), Ref(parent)]

    def _stored(self, name: str, make: Callable[[], int]) -> int:
        fd = self.stored_fds().get(name)
        if fd is None:
            fd = make()
            self.store_fd(name, fd)
        return fd

    def _recover(self, active: Active) -> None:
        """Begin the log, or take it up where the last worker left it; then publish from it."""
        control = self._writer.control
        if control[ring.TRANSMITTED] == 0:  # nobody has begun it
            self._mode.set(active, followed=False)
            counts = tunctl.statistics(self._tun)
            control[ring.HANDED_OUT] = counts["tx_packets"]
            control[ring.TRANSMITTED] = counts["tx_bytes"] + 1
        else:
            control[ring.RESTARTS] += 1
            self._writer.recover(self._measure, self._filter.accepts)

    def _bind_publisher(self) -> None:
        if self._publisher is not None:
            return
        self._publisher = Publisher(
            self.context,
            paths.publisher(self._path),
            self.name,
            self._reader,
            self._writer,
            self._actor.call_later,
            self._queue,
            self._poll_device,
        )
        self.add_reader(self._publisher.fileno(), self._publish)
        self._publish()

    def _prefix(self) -> int:
        """How many bytes precede each packet."""
        information = 0 if Flag.NO_PI in self._flags else PI_SIZE
        return information + (self._vnet_hdr if Flag.VNET_HDR in self._flags else 0)

    def _measure(self, packet: memoryview, place: int, before: int) -> int | None:
        """Return the length of the one packet whose length a killed worker did not store."""
        prefix = self._prefix()
        of = packet_length.frame_length if Flag.TAP in self._flags else packet_length.ip_length
        length = of(packet[prefix:])
        if length is None:
            length = self._measured_by_the_kernel(place, before, prefix)
        return None if length is None else min(max(length + prefix, 1), ring.SLOT)

    def _measured_by_the_kernel(self, place: int, before: int, prefix: int) -> int | None:
        """What the kernel has handed out, less what the log has, is this packet.

        Unless others read the device too, through a descriptor or another queue: then nobody knows.
        """
        control, counts = self._writer.control, tunctl.statistics(self._tun)
        others = place + control[ring.FILTERED]
        if counts["tx_packets"] - control[ring.HANDED_OUT] != others + 1:
            name = self._writer.name
            self._actor.log.warning("%s: a frame was lost: its length is not known", name)
            return None
        handed_out = counts["tx_bytes"] - (control[ring.TRANSMITTED] - 1)
        return handed_out - (before + control[ring.FILTERED_BYTES] - others * prefix)

    def _bury_deleted(self) -> None:
        """The device was deleted while no worker ran: tell the subscribers, and end."""
        for name, fd in self.stored_fds().items():
            if name.startswith(("quiet.", "events.")):
                channel = Channel(fd)
                events = self._writer.control[ring.EVENTS]
                if name.startswith("events."):
                    channel.offer(
                        control_socket.EVENT, "deleted", None, self._writer.head, events + 1
                    )
                channel.offer(
                    control_socket.END, errno.ENODEV, _WAS_DELETED, self._writer.head, events + 1
                )
            elif name == "door":
                with socket.socket(fileno=fd) as listener:
                    paths.remove(Path(listener.getsockname()))
        self._ended = True
        self._writer.control[ring.ENDED] = 1 + errno.ENODEV
        self._forget_stored()
        # Not before it has started: a start that fails is tried again, an end in order is the end.
        self._actor.call_later(0.0, lambda: self._actor.exit(Shutdown(_WAS_DELETED)))

    # -- packets from the kernel -------------------------------------------------------------------

    @property
    def _followed(self) -> bool:
        return bool(self._followers.events) or self._listeners > 0

    @property
    def _listeners(self) -> int:
        """Subscribers by ZeroMQ."""
        return 0 if self._publisher is None else max(0, self._publisher.listeners)

    def _begin(self) -> tuple[int, int]:
        """Return the first packet that a new subscriber gets, which may be one that nobody took.

        And how many events have been told before.
        """
        self._mode.subscribed()
        return self._writer.control[ring.TAKEN], self._writer.control[ring.EVENTS]

    def _poll_device(self) -> None:
        """Watch the device for packets exactly while somebody wants them."""
        if self._receivers and self._mode.is_active(self._followed):
            self._receivers.refuse_all(errno.EINVAL, _IS_ACTIVE, self.name)
        self._attach_or_detach()
        wanted = bool(self._receivers) or self._mode.room(self._followed) > 0
        if wanted and not self._polled:
            self.add_reader(self._tun, self._read)
        elif not wanted and self._polled:
            self.remove_reader(self._tun)
        self._polled = wanted

    def _attach_or_detach(self) -> None:
        """Let the kernel choose this queue, of several, exactly while somebody reads it.

        Between the ``recv`` calls of a passive one its packets have to wait in it, so it stays
        attached until its last subscriber has gone: what it holds then, nobody wants.
        """
        if self._queues == 1:
            return
        control = self._writer.control
        active = self._followed or self._mode.is_active(self._followed)
        with contextlib.suppress(OSError):  # it was deleted, of which its descriptor tells
            attached = tunctl.is_attached(self._tun)
            if (active or self._receivers) and not attached:
                tunctl.attach_queue(self._tun)
            elif not active and attached and (self._was_active or not control[ring.SETTLED]):
                tunctl.detach_queue(self._tun)  # a new one is attached, and not asked for yet
        self._was_active = active
        control[ring.SETTLED] = 1

    def _read(self) -> None:
        room = self._mode.room(self._followed)
        try:
            self._fill(room or 1)
            if room:
                self._writer.control[ring.TAKEN] = self._writer.head
            else:
                self._receivers.serve(self.name)
        except OSError as error:
            self._followers.wake()
            self._device_failed(error)
            return
        self._followers.wake()
        if self._publisher is not None and self._publisher.follows:
            self._publisher.follow()
        if self._mode.left == 0:
            self._tell_if_over()

    def _fill(self, most: int) -> None:
        if not self._filter.runs_here:
            self._writer.fill(self._tun, most)
        elif self._writer.fill_filtered(self._tun, most, self._filter.accepts)[1]:
            self._filter.is_dry()

    def _tell_if_over(self) -> None:
        """Tell the subscribers once that a count of packets has come to its end."""
        if self._mode.is_over:
            self._happened("passive")
            self._mode.told()
        self._poll_device()

    def _device_failed(self, error: OSError) -> None:
        if error.errno != errno.EBADFD:
            raise error
        self._end("deleted", errno.ENODEV, _WAS_DELETED)
        self._actor.log.warning("%s: %s", self.name, _WAS_DELETED)
        self._forget_stored()
        self._actor.exit(Shutdown(_WAS_DELETED))

    def _forget_stored(self) -> None:
        """Begin with a new device at the next start, if there is to be one."""
        if self._again:
            for name in self.stored_fds():
                self.drop_fd(name)
            for name in ("tun", "ring", "door", "link", "filter"):
                self.drop_fd(name)

    # -- calls -------------------------------------------------------------------------------------

    def handle_call(self, request: list[Any], sender: Sender) -> Any:
        """Serve the methods of ``Device``."""
        try:
            operation, *arguments = request
            if operation == "recv":
                return self._recv(sender, *arguments)
            if operation in self._operations:
                return self._operations[operation](*arguments)
            raise ValueError(f"a worker does not know {operation!r}")  # noqa: TRY301
        except (OSError, ValueError, TypeError, KeyError) as error:
            self.refuse(sender, error)
            if isinstance(error, OSError) and error.errno == errno.EBADFD:
                self._device_failed(error)
            return NoReply()

    def handle_cast(self, request: Any) -> None:
        """Forget a ``recv`` whose caller waits no longer."""
        match request:
            case ["withdraw", int(token)]:
                self._receivers.withdraw(token, self.name)
                return
        self._actor.log.warning("%s: a cast is ignored: %.200r", self.name, request)

    def _tunctl(self, function: str, arguments: list[Any], options: dict[str, Any]) -> Any:
        if function not in _TUNCTL:
            raise ValueError(f"a worker does not do {function!r}")
        return _TUNCTL[function](self._tun, *arguments, **options)

    def _send(self, packets: list[bytes]) -> int:
        control = self._writer.control
        for packet in packets:
            try:
                os.write(self._tun, packet)
            except OSError as error:
                raise explain(error.errno or 0, "send", self.name) from error
            control[ring.SENT] += 1
            control[ring.SENT_BYTES] += len(packet)
        return len(packets)

    def _recv(self, sender: Sender, timeout: float | None, token: int | None = None) -> Any:
        if self._mode.is_active(self._followed):
            raise OSError(errno.EINVAL, _IS_ACTIVE, self.name)
        self._receivers.add(sender, timeout, token, self.name)
        return NoReply()

    def _setopt(self, active: Active) -> None:
        self._mode.set(active_mode.check(active), self._followed)
        self._tell_if_over()

    def _vnet_hdr_size(self, size: int | None = None) -> int:
        if size is not None and size > _LARGEST_VNET_HDR:
            raise ValueError(f"a virtio_net_hdr has at most {_LARGEST_VNET_HDR} bytes, not {size}")
        self._vnet_hdr = tunctl.vnet_hdr_size(self._tun, size)
        return self._vnet_hdr

    def _offload(self, what: int) -> None:
        """Tell the kernel what the subscribers can handle, and queue fewer of what may be large.

        10,000 super-packets that nobody reads are 600 MB.
        """
        tunctl.offload(self._tun, what)
        before, after = (TXQUEUELEN, SHORT) if what else (SHORT, TXQUEUELEN)
        if tunctl.txqueuelen(self._tun) == before:  # somebody else's choice stays
            tunctl.txqueuelen(self._tun, after)

    def _statistics(self) -> dict[str, Any]:
        kernel = tunctl.statistics(self._tun)
        return {
            **ring.counters(self._writer),
            "filter": self._filter.expression,
            "filter_runs": self._filter.place,
            "dropped": kernel["tx_dropped"],
            "kernel_packets": kernel["tx_packets"],
            "kernel_bytes": kernel["tx_bytes"],
            "kernel": kernel,
            "queue": self._queue,
            "attached": self._queues == 1 or tunctl.is_attached(self._tun),
            "subscribers": len(self._followers.events) + self._listeners,
            "receivers": len(self._receivers),
            "active": self._mode.is_active(self._followed),
        }

    def _destroy(self) -> Stop:
        if self._queue == 0:
            self._delete()
        return Stop(Shutdown("destroyed"))

    # -- the door ----------------------------------------------------------------------------------

    def _serve_visitor(self, visitor: Channel, message: list[Any]) -> bool:
        """Answer; return False if the visitor has no room for the answer."""
        match message:
            case ["worker"]:
                return visitor.offer("worker", self.ref, self.name, self._queues)
            case ["getfd"]:
                return visitor.offer("fd", fds=(self._tun,))
            case ["subscribe", bool(events)]:
                self._subscribe(visitor, os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC), events)
            case ["watch", bool(events)]:
                self._bind_publisher()
                self._subscribe(visitor, None, events)
            case ["publish"]:
                self._bind_publisher()
                return visitor.offer("publishes", str(paths.publisher(self._path)))
            case _:
                return visitor.offer(ValueError(f"a door does not know {message!r:.100}"))
        return True

    def _subscribe(self, visitor: Channel, wake: int | None, wants_events: bool) -> None:
        self._visitors.let_go(visitor)
        self._followers.subscribe(visitor, wake, wants_events)

    def _publish(self) -> None:
        if self._publisher is not None:
            self._publisher.follow()
        self._poll_device()

    # -- events, and the end -----------------------------------------------------------------------

    def _happened(self, kind: str, value: bool | int | str | None = None) -> None:
        """Tell those who want to hear it, and after which packet it was."""
        # First told, then counted: what is counted and not there to be read was missed.
        number = self._writer.control[ring.EVENTS] + 1
        self._followers.tell(kind, value, self._writer.head, number)
        self._writer.control[ring.EVENTS] = number

    def _end(self, why: str, number: int = 0, text: str = "") -> None:
        """Tell all that follow the log that it ends here, and close the door."""
        if self._ended:
            return
        self._ended = True
        # For those who have no room to be told.
        self._writer.control[ring.ENDED] = 1 + number
        gone = text or "the device was destroyed"
        self._receivers.refuse_all(number or errno.ENODEV, gone, self.name)
        if number == errno.ENODEV:
            self._happened("deleted")
        self._followers.end(number, text, self._writer.head, self._writer.control[ring.EVENTS])
        self._followers.wake()
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
        if not is_orderly(reason) or self._actor.parent.starts_again:
            return  # another worker takes the device up
        with contextlib.suppress(OSError):
            if self._queue == 0 and Flag.PERSIST not in tunctl.flags(self._tun):
                # Closing alone would leave it alive through any duplicate of the descriptor.
                self._delete()
        self._end("closed")
