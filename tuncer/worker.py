"""The worker: the process that owns a device's descriptor.

It reads each packet straight into the ring, then wakes the subscribers, who read the ring
themselves. Descriptor, ring, door and the subscribers' eventfds lie in the supervisor's fd
store: a replacement takes them up, and neither the interface nor a subscriber notices more than
a pause.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supervisor import GenServer, Ignore, NoReply, Ref, Sender, Shutdown, Stop
from supervisor.channel import Channel, close_all
from supervisor.errors import Reason, is_orderly
from supervisor.linux import process
from supervisor.timers import Timer
from tuncer import door, measure, places, ring, tunctl
from tuncer.publisher import Publisher
from tuncer.tunctl import Flag
from tuncer.tunctl.errors import explain
from tuncer.tunctl.header import SIZE as PI_SIZE
from tuncer.tunctl.linux.monitor import LinkMonitor

_VNET_HDR_SIZE = 10  # struct virtio_net_hdr, as the kernel puts it before packets by default
_WAS_DELETED = "the device was deleted"

# What a Device may have done to the device: functions of tunctl that take its descriptor first.
_TUNCTL: dict[str, Callable[..., Any]] = {
    "up": tunctl.up,
    "down": tunctl.down,
    "dstaddr": tunctl.dstaddr,
    "broadcast": tunctl.broadcast,
    "mtu": tunctl.mtu,
    "persist": tunctl.persist,
    "owner": tunctl.owner,
    "group": tunctl.group,
    "devname": tunctl.devname,
    "flags": tunctl.flags,
    "ifindex": tunctl.ifindex,
}


@dataclass
class _Subscriber:
    """One that follows the device: the connection that ends when it ends.

    One that reads the ring has an eventfd too. The others are subscribers of the publisher.
    """

    number: int
    channel: Channel
    wake: int | None
    wants_events: bool

    @property
    def key(self) -> str:
        """The name of its channel in the fd store."""
        return f"{'events' if self.wants_events else 'quiet'}.{self.number}"


@dataclass
class _Waiter:
    """A ``recv`` that waits for a packet."""

    sender: Sender
    timer: Timer | None


class Worker(GenServer):
    """Owns one device. Started by a supervisor only: without the fd store it would be no use."""

    # -- beginning ---------------------------------------------------------------------------------

    def init(
        self,
        name: str = "",
        flags: int = Flag.TAP | Flag.NO_PI,
        *,
        active: bool = False,
        persist: bool = False,
        txqueuelen: int | None = None,
        slots: int = ring.DEFAULT_SLOTS,
    ) -> Any:
        """Create the device, or take it up after a crash."""
        self._flags = Flag(flags)
        self._subscribers: list[_Subscriber] = []
        self._events: list[int] = []
        self._visitors: dict[int, Channel] = {}
        self._waiters: deque[_Waiter] = deque()
        self._polled = False
        self._operations: dict[str, Callable[..., Any]] = {
            "send": self._send,
            "setopt": self._setopt,
            "statistics": self._statistics,
            "door": lambda: [str(self._path), self.name],
            "supervisor": lambda: Ref(process(os.getppid())),
            "destroy": self._destroy,
        }
        self._ended = False
        try:
            self._take_up(name, persist, txqueuelen, slots)
            self._recover(active)
        except (OSError, ValueError) as error:
            if "tun" in self.stored_fds() and getattr(error, "errno", 0) == errno.EBADFD:
                self._bury_deleted()
                return Ignore()
            return Stop(error)
        self.add_reader(self._door.fileno(), self._open_door)
        self.add_reader(self._publisher.fileno(), self._publish)
        if self._links is not None:
            self.add_reader(self._links.fileno(), self._link_changed)
        self._take_up_subscribers()
        self._link_changed()
        self._publish()
        return None

    def _take_up(self, name: str, persist: bool, txqueuelen: int | None, slots: int) -> None:
        """Get each descriptor from the store, or make it and put it there."""
        self._tun = self._stored("tun", lambda: self._create(name, persist, txqueuelen))
        log = self._stored("ring", lambda: ring.create(slots))
        self._writer, self._reader = ring.Writer(log), ring.Reader(log)
        self._log = log
        self._door = socket.socket(fileno=self._stored("door", self._listen))
        if not os.path.exists(self._door.getsockname()):  # with the whole runtime directory
            self._door.close()
            self._door = socket.socket(fileno=self._listen())
            self.store_fd("door", self._door.fileno())
        self._path = Path(self._door.getsockname())
        self.name = self._writer.name
        self._links = self._watched_link()

    def _listen(self) -> int:
        name = tunctl.devname(self._tun)
        self._writer.name = name
        return door.listen(places.door(tunctl.ifindex(self._tun)), name)

    def _watched_link(self) -> LinkMonitor | None:
        try:
            return LinkMonitor(tunctl.ifindex(self._tun))
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
            return None  # it was moved to another network namespace

    def _stored(self, name: str, make: Callable[[], int]) -> int:
        fd = self.stored_fds().get(name)
        if fd is None:
            fd = make()
            self.store_fd(name, fd)
        return fd

    def _create(self, name: str, persist: bool, txqueuelen: int | None) -> int:
        existed = bool(name) and "%" not in name and _exists(name)
        fd = tunctl.create(name, self._flags)
        try:
            if persist:
                tunctl.persist(fd)
            if txqueuelen is not None and not existed:
                tunctl.txqueuelen(fd, txqueuelen)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _recover(self, active: bool) -> None:
        """Begin the log, or take it up where the last worker left it; then publish from it."""
        control = self._writer.control
        if control[ring.TRANSMITTED] == 0:  # nobody has begun it
            control[ring.ACTIVE] = active
            control[ring.TRANSMITTED] = tunctl.statistics(self._tun)["tx_bytes"] + 1
        else:
            control[ring.RESTARTS] += 1
            self._writer.recover(self._measure)
        self._publisher = Publisher(
            self.context,
            places.publisher(self._path),
            self.name,
            self._reader,
            self._writer,
            self._actor.call_later,
        )

    def _measure(self, packet: memoryview, before: int) -> int:
        """Return the length of the one packet whose length a killed worker did not store."""
        prefix = 0 if Flag.NO_PI in self._flags else PI_SIZE
        prefix += _VNET_HDR_SIZE if Flag.VNET_HDR in self._flags else 0
        of = measure.frame_length if Flag.TAP in self._flags else measure.ip_length
        length = of(packet[prefix:])
        if length is None:
            # What the kernel has handed out, less what the log has, is this packet.
            packets = self._writer.head + 1
            base = self._writer.control[ring.TRANSMITTED] - 1
            handed_out = tunctl.statistics(self._tun)["tx_bytes"] - base
            length = handed_out - (before - (packets - 1) * prefix)
        return min(max(length + prefix, 1), ring.SLOT)

    def _take_up_subscribers(self) -> None:
        stored = self.stored_fds()
        for name, fd in stored.items():
            kind, _, number = name.partition(".")
            if kind in {"quiet", "events"}:
                wake = stored.get(f"wake.{number}")
                subscriber = _Subscriber(int(number), Channel(fd), wake, kind == "events")
                self._add_subscriber(subscriber)
                if f"asking.{number}" in stored:
                    self._welcome(subscriber)  # nobody knows whether it was answered
            elif kind in {"wake", "asking"}:
                if not {f"quiet.{number}", f"events.{number}"} & stored.keys():
                    os.close(fd)  # its worker was killed before it had stored all: it asks again
                    self.drop_fd(name)
                elif kind == "asking":
                    os.close(fd)  # a duplicate of the channel's
        self._wake()

    def _bury_deleted(self) -> None:
        """The device was deleted while no worker ran: tell the subscribers, and end."""
        for name, fd in self.stored_fds().items():
            if name.startswith(("quiet.", "events.")):
                Channel(fd).offer(door.END, errno.ENODEV, _WAS_DELETED, self._writer.head)
            elif name == "door":
                with socket.socket(fileno=fd) as listener:
                    places.remove(Path(listener.getsockname()))

    # -- packets from the kernel -------------------------------------------------------------------

    @property
    def _reading(self) -> bool:
        active = self._writer.control[ring.ACTIVE]
        return bool(active or self._events or self._publisher.listeners > 0)

    def _poll_device(self) -> None:
        """Watch the device for packets exactly while somebody wants them."""
        wanted = self._reading or bool(self._waiters)
        if wanted and not self._polled:
            self.add_reader(self._tun, self._read)
        elif not wanted and self._polled:
            self.remove_reader(self._tun)
        self._polled = wanted

    def _read(self) -> None:
        try:
            if self._reading:
                self._writer.fill(self._tun)
                self._writer.control[ring.TAKEN] = self._writer.head
            else:
                self._writer.fill(self._tun, 1)
                self._serve_waiters()
        except OSError as error:
            self._wake()
            self._device_failed(error)
            return
        self._wake()
        if self._publisher.follows:
            self._publisher.follow()

    def _wake(self) -> None:
        for event in self._events:
            os.eventfd_write(event, 1)

    def _device_failed(self, error: OSError) -> None:
        if error.errno != errno.EBADFD:
            raise error
        self._end("deleted", errno.ENODEV, _WAS_DELETED)
        self._actor.exit(Shutdown(_WAS_DELETED))

    # -- calls -------------------------------------------------------------------------------------

    def handle_call(self, request: list[Any], sender: Sender) -> Any:
        """Serve the methods of ``Device``."""
        try:
            operation, *arguments = request
            if operation in _TUNCTL:
                return _TUNCTL[operation](self._tun, *arguments)
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
        """Nobody has anything to cast to a worker."""
        self._actor.log.warning("%s: a cast is ignored: %.200r", self.name, request)

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

    def _recv(self, sender: Sender, timeout: float | None) -> Any:
        if timeout is not None and not timeout >= 0:
            raise ValueError(f"a timeout is a number of seconds, not {timeout!r}")
        if self._reading:
            problem = "the device is in active mode: packets go to its subscriptions"
            raise OSError(errno.EINVAL, problem, self.name)
        waiter = _Waiter(sender, None)
        if timeout is not None:
            waiter.timer = self._actor.call_later(timeout, lambda: self._recv_timed_out(waiter))
        self._waiters.append(waiter)
        self._serve_waiters()
        return NoReply()

    def _recv_timed_out(self, waiter: _Waiter) -> None:
        if waiter in self._waiters:
            self._waiters.remove(waiter)
            self.refuse(
                waiter.sender, TimeoutError(errno.ETIMEDOUT, "no packet in time", self.name)
            )
            self._poll_device()

    def _serve_waiters(self) -> None:
        """Give the packets that nobody has taken to those who wait; the living, in their order."""
        control = self._writer.control
        while self._waiters and control[ring.TAKEN] < self._writer.head:
            waiter = self._waiters.popleft()
            if waiter.timer is not None:
                self.cancel_timer(waiter.timer)
            place = control[ring.TAKEN]
            (packet,), _, _ = self._reader.read(place, 1, self.name)
            control[ring.TAKEN] = place + 1  # before the reply: if this is killed, none comes twice
            if not self.reply(waiter.sender, list(packet)):
                control[ring.TAKEN] = place
        self._poll_device()

    def _setopt(self, active: bool) -> None:
        self._writer.control[ring.ACTIVE] = active
        self._poll_device()

    def _statistics(self) -> dict[str, Any]:
        kernel = tunctl.statistics(self._tun)
        return {
            **ring.counters(self._writer),
            "dropped": kernel["tx_dropped"],
            "kernel_packets": kernel["tx_packets"],
            "kernel_bytes": kernel["tx_bytes"],
            "subscribers": len(self._events) + max(0, self._publisher.listeners),
            "active": self._reading,
        }

    def _destroy(self) -> Stop:
        self._delete()
        return Stop(Shutdown("destroyed"))

    # -- the door ----------------------------------------------------------------------------------

    def _open_door(self) -> None:
        try:
            while (visitor := door.accept(self._door)) is not None:
                self._visitors[visitor.fileno()] = visitor
                self.add_reader(visitor.fileno(), functools.partial(self._attend, visitor))
        except OSError as error:
            # Most likely there are too many descriptors: those who wait would wake the loop
            # again at once, so look after them a little later.
            self._actor.log.warning("%s: nobody can be let in: %s", self.name, error)
            self.remove_reader(self._door.fileno())
            again = functools.partial(self.add_reader, self._door.fileno(), self._open_door)
            self._actor.call_later(1.0, again)

    def _attend(self, visitor: Channel) -> None:
        try:
            received = visitor.receive()
            if received is None:
                return
            message, fds = received
            close_all(fds)
            if not self._serve_visitor(visitor, message):
                self._dismiss(visitor)  # it does not read what it is answered
        except (EOFError, ValueError, OSError):  # or there are too many descriptors
            self._dismiss(visitor)

    def _dismiss(self, visitor: Channel) -> None:
        if self._visitors.pop(visitor.fileno(), None) is not None:
            self.remove_reader(visitor.fileno())
            visitor.close()

    def _serve_visitor(self, visitor: Channel, message: list[Any]) -> bool:
        """Answer; return False if the visitor has no room for the answer."""
        match message:
            case ["worker"]:
                return visitor.offer("worker", self.ref, self.name)
            case ["getfd"]:
                return visitor.offer("fd", fds=(self._tun,))
            case ["subscribe", bool(events)]:
                self._subscribe(visitor, os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC), events)
            case ["watch", bool(events)]:
                self._subscribe(visitor, None, events)
            case _:
                return visitor.offer(ValueError(f"a door does not know {message!r:.100}"))
        return True

    def _subscribe(self, visitor: Channel, wake: int | None, wants_events: bool) -> None:
        """Make a visitor a subscriber.

        This worker may be killed between any two steps. Until "asking" is gone from the store,
        a successor answers, perhaps again; a visitor that is not in the store finds its connection
        closed, and asks again.
        """
        del self._visitors[visitor.fileno()]
        self.remove_reader(visitor.fileno())
        number = 1 + max((s.number for s in self._subscribers), default=0)
        subscriber = _Subscriber(number, visitor, wake, wants_events)
        self._add_subscriber(subscriber)
        try:
            self.store_fd(f"asking.{number}", visitor.fileno())
            if wake is not None:
                self.store_fd(f"wake.{number}", wake)
            self.store_fd(subscriber.key, visitor.fileno())
        except OSError as error:  # the store is full
            visitor.offer(OSError(error.errno or errno.EIO, str(error), self.name))
            self._forget(subscriber)
            return
        self._welcome(subscriber)
        self._poll_device()

    def _welcome(self, subscriber: _Subscriber) -> None:
        fds = () if subscriber.wake is None else (self._log, subscriber.wake)
        subscriber.channel.offer("subscribed", self._writer.head, fds=fds)
        self.drop_fd(f"asking.{subscriber.number}")

    def _add_subscriber(self, subscriber: _Subscriber) -> None:
        self._subscribers.append(subscriber)
        if subscriber.wake is not None:
            self._events.append(subscriber.wake)
        self.add_reader(subscriber.channel.fileno(), lambda: self._hear(subscriber))

    def _hear(self, subscriber: _Subscriber) -> None:
        """A subscriber says nothing: what there is to read is its end."""
        try:
            received = subscriber.channel.receive()
        except (EOFError, ValueError):
            self._forget(subscriber)
        else:
            close_all(received[1] if received else [])

    def _forget(self, subscriber: _Subscriber) -> None:
        self.remove_reader(subscriber.channel.fileno())
        self._subscribers.remove(subscriber)
        subscriber.channel.close()
        names = [f"asking.{subscriber.number}", subscriber.key]
        if subscriber.wake is not None:
            self._events.remove(subscriber.wake)
            os.close(subscriber.wake)
            names.append(f"wake.{subscriber.number}")
        for name in names:
            self.drop_fd(name)
        self._poll_device()

    def _publish(self) -> None:
        self._publisher.follow()
        self._poll_device()

    # -- the link, and the end ---------------------------------------------------------------------

    def _link_changed(self) -> None:
        """Tell the subscribers that the link has gone up or down, be it while no worker ran."""
        if self._links is not None:
            self._links.states()
        try:
            up = tunctl.is_up(self._tun)
        except OSError as error:
            if error.errno == errno.EBADFD:
                self._device_failed(error)
            return  # or it was taken to another network namespace
        if up != self._writer.control[ring.UP]:
            self._writer.control[ring.UP] = up
            self._tell(door.EVENT, "up" if up else "down")

    def _tell(self, *message: Any) -> None:
        for subscriber in self._subscribers:
            if subscriber.wants_events or message[0] == door.END:
                subscriber.channel.offer(*message)  # one that does not read holds up nobody

    def _end(self, why: str, number: int = 0, text: str = "") -> None:
        """Tell all that follow the log that it ends here, and close the door."""
        if self._ended:
            return
        self._ended = True
        for waiter in self._waiters:
            gone = OSError(number or errno.ENODEV, text or "the device was destroyed", self.name)
            self.refuse(waiter.sender, gone)
        self._waiters.clear()
        self._tell(door.END, number, text, self._writer.head)
        self._wake()
        self._publisher.end(why)
        places.remove(self._path)

    def _delete(self) -> None:
        try:
            tunctl.delete(self._tun)
        except OSError as error:
            if error.errno not in {errno.EBADFD, errno.ENODEV}:
                raise

    def terminate(self, reason: Reason) -> None:
        """Take the device down with this process, unless it is persistent."""
        if not is_orderly(reason):
            return  # another worker takes the device up
        with contextlib.suppress(OSError):
            if Flag.PERSIST not in tunctl.flags(self._tun):
                # Closing alone would leave it alive through any duplicate of the descriptor.
                self._delete()
        self._end("closed")


def _exists(name: str) -> bool:
    try:
        tunctl.ifindex(name)
    except OSError:
        return False
    return True
