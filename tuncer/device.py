"""Devices: what a program holds of a TUN/TAP interface that a worker process owns."""

from __future__ import annotations

import errno
import itertools
import os
import socket
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from supervisor import (
    ChildSpec,
    NoProcess,
    NotOwner,
    ProcessDown,
    Ref,
    StartFailed,
    Supervisor,
    SupervisorRef,
)
from tuncer import door, places, ring
from tuncer.packet import DeviceError
from tuncer.subscription import RingSubscription, Subscription, ZmqSubscription
from tuncer.tunctl import Flag
from tuncer.tunctl import address as addresses
from tuncer.tunctl.errors import check_name
from tuncer.tunctl.flags import parse
from tuncer.worker import Worker

MOST_BYTES = 65535 + 14 + 4 + 4 + 12
"""The largest packet: an IP packet with Ethernet header, VLAN tag, packet information and
virtio_net_hdr before it."""

TXQUEUELEN = 10_000
"""Packets that the kernel queues by default while a worker restarts."""

_PATIENCE = 10.0  # seconds in which a device's worker must answer
_CRASHES, _CRASH_PERIOD = 600, 60.0  # a worker that crashes more often, in a loop, is given up

_roots: dict[tuple[int, int], SupervisorRef] = {}
_roots_lock = threading.Lock()
_numbers = itertools.count(1)


def _after_fork() -> None:
    global _roots_lock  # noqa: PLW0603
    _roots_lock = threading.Lock()  # another thread of the parent may have held it


os.register_at_fork(after_in_child=_after_fork)


class Device:
    """A TUN/TAP interface. Can be pickled, and used from any process of the same user.

    A context manager: at its end the device is destroyed.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._worker: Ref | None = None
        self.name = name
        """The name at its creation; ``devname()`` asks the kernel for the present one."""

    # -- configuration -------------------------------------------------------------------------

    def up(
        self, address: addresses.AddressLike | None = None, prefix: int | str | None = None
    ) -> None:
        """Bring the device up, with an address if one is given. See ``tunctl.up``.

        Raises:
            OSError: with errno, a sentence on how to mend it, and the name.
            ValueError, TypeError: no address.
        """
        interface = None if address is None else str(addresses.interface(address, prefix))
        self._repeatable("up", interface)

    def down(self) -> None:
        """Take the device down. See ``tunctl.down``."""
        self._repeatable("down")

    def dstaddr(self, peer: addresses.AddressLike) -> None:
        """Set the other end's address. See ``tunctl.dstaddr``."""
        self._repeatable("dstaddr", str(addresses.host(peer)))

    def broadcast(self, address: addresses.AddressLike) -> None:
        """Set the broadcast address. See ``tunctl.broadcast``."""
        self._repeatable("broadcast", str(addresses.host(address, version=4)))

    def mtu(self, size: int | None = None) -> int:
        """Return the MTU in bytes, after setting it if a size is given. See ``tunctl.mtu``."""
        return cast("int", self._repeatable("mtu", size))

    def persist(self, on: bool = True) -> None:
        """Let the device stay, or no longer stay, when its owner and worker have ended."""
        self._repeatable("persist", bool(on))

    def owner(self, user: int | str) -> None:
        """Let a user attach to the device without CAP_NET_ADMIN. See ``tunctl.owner``."""
        self._repeatable("owner", user)

    def group(self, group: int | str) -> None:
        """Let a group attach to the device without CAP_NET_ADMIN. See ``tunctl.group``."""
        self._repeatable("group", group)

    def devname(self) -> str:
        """Return the device's name as the kernel has it now."""
        return cast("str", self._repeatable("devname"))

    def flags(self) -> Flag:
        """Return the device's flags as the kernel has them."""
        return Flag(self._repeatable("flags"))

    def ifindex(self) -> int:
        """Return the kernel's number of the device."""
        return cast("int", self._repeatable("ifindex"))

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
        data = [bytes(memoryview(packet)) for packet in packets]
        for packet in data:
            if not 0 < len(packet) <= MOST_BYTES:
                raise ValueError(f"a packet has 1 to {MOST_BYTES} bytes, this one {len(packet)}")
        return cast("int", self._call("send", data))

    def recv(self, timeout: float | None = None) -> bytes:
        """Return the next packet of a passive device.

        Args:
            timeout: seconds to wait; None waits as long as the worker lives.

        Raises:
            TimeoutError: none came in time.
            OSError: EINVAL while the device is active: its subscriptions get the packets.
        """
        patience = None if timeout is None else timeout + _PATIENCE
        packet = self._call("recv", timeout, timeout=patience)
        return cast("bytes", packet[0])

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
            events: yield ``DeviceEvent`` too, when the link goes up or down.
            transport: "ring", or "zmq" for messages in the wire format.

        Raises:
            DeviceError: there is no such device any more, or it does not answer.
            ValueError: another transport.
        """
        kinds = {"ring": RingSubscription, "zmq": ZmqSubscription}
        if transport not in kinds:
            raise ValueError(f"transport is one of {sorted(kinds)}, not {transport!r}")
        return kinds[transport](self._path, self.name, batch, events)

    def setopt(self, *, active: bool) -> None:
        """Read packets all the time (True), or only while somebody asks for them (False)."""
        if not isinstance(active, bool):
            raise TypeError(f"active is True or False, not {active!r}")
        self._repeatable("setopt", active)

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

    def _repeatable(self, *request: Any) -> Any:
        """Have the worker do what may be done twice: again, if it ended meanwhile."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                return self._call(*request)
            except ProcessDown:
                if time.monotonic() > deadline:
                    raise
                self._worker = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.destroy()

    def __reduce__(self) -> tuple[type[Device], tuple[Path, str]]:
        return type(self), (self._path, self.name)

    def __eq__(self, other: object) -> bool:
        return self._path == other._path if isinstance(other, Device) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._path)

    def __repr__(self) -> str:
        return f"<Device {self.name}>"


def create(
    name: str = "",
    flags: int = Flag.TAP | Flag.NO_PI,
    *,
    active: bool = False,
    persist: bool = False,
    txqueuelen: int = TXQUEUELEN,
    slots: int = ring.DEFAULT_SLOTS,
) -> Device:
    """Create a TUN/TAP interface, or attach to a persistent one, in a worker process of its own.

    It belongs to the calling process: when that ends, in whatever way, the device goes, unless
    it is persistent.

    Args:
        name: at most 15 bytes; empty: the kernel chooses; one ``%d`` becomes a number.
        flags: of ``Flag``, with exactly one of TUN and TAP.
        active: read packets all the time, not only while somebody wants them.
        persist: let the device stay when its owner ends.
        txqueuelen: packets that the kernel queues while nobody reads, for a new device.
        slots: packets that the ring holds for subscribers that are late: a power of two.

    Raises:
        OSError: with errno, a sentence on how to mend it, and the name.
        ValueError: flags or slots that are none.
    """
    check_name(name)
    options = {"active": active, "persist": persist, "txqueuelen": txqueuelen, "slots": slots}
    kind = "tun" if parse(flags) & Flag.TUN else "tap"
    spec = child_spec(f"{name or kind}.{next(_numbers)}", name, flags, **options)
    try:
        return Device(*_start(spec))
    except StartFailed as failed:
        places.sweep()  # a worker that was killed as it began may have left its door
        if isinstance(failed.reason, (OSError, ValueError)):
            raise failed.reason from None
        raise


def child_spec(
    id: str,  # noqa: A002 - OTP's word, and ChildSpec's
    name: str = "",
    flags: int = Flag.TAP | Flag.NO_PI,
    **options: Any,
) -> ChildSpec:
    """Return the specification of a device's worker, for a supervisor of one's own.

    The options are those of ``create``. Find the device by ``attach(name)``.
    """
    return ChildSpec(
        id,
        Worker,
        (name, int(flags)),
        options,
        restart="transient",
        intensity=_CRASHES,
        period=_CRASH_PERIOD,
    )


def attach(name: str) -> Device:
    """Return a device of this user's that exists in the present network namespace.

    Raises:
        DeviceError: ENODEV, there is none of this name.
    """
    try:
        path = places.door(socket.if_nametoindex(check_name(name)))
    except OSError as error:
        if error.filename is not None:
            raise
        raise DeviceError(errno.ENODEV, "there is no such device here", name) from None
    return _known(path, name)


def devices() -> list[Device]:
    """Return all devices of this user's, in whatever network namespace."""
    found = []
    for path in places.doors():
        try:
            found.append(_known(path, path.name))
        except DeviceError:
            continue  # it went between two looks
    return found


def _known(path: Path, name: str) -> Device:
    """Return the device of a door, by the name that its worker knows."""
    answer, _, channel = door.knock(path, name, "worker", timeout=_PATIENCE)
    channel.close()
    device = Device(path, answer[2])
    device._worker = answer[1]
    return device


def _start(spec: ChildSpec) -> tuple[Path, str]:
    """Start a worker below this process's root; return the path of its door, and its name.

    There is a root per network namespace, as that is where it creates devices.
    """
    key = (os.getpid(), places.namespace())
    while True:
        with _roots_lock:
            root = _roots.get(key)
            if root is None or not root.is_alive():
                for dead in [k for k, ref in _roots.items() if not ref.is_alive()]:
                    del _roots[dead]
                root = _roots[key] = Supervisor.start_link([])
        try:
            worker = root.start_child(spec, owner=os.getpid())
            return _door_of(root, spec.id, worker)
        except (NoProcess, ProcessDown):
            if root.is_alive():
                raise
            # It was killed, and the device with it: with a new root, from the beginning.


def _door_of(root: SupervisorRef, child: str, worker: Ref | None) -> tuple[Path, str]:
    """Ask a new worker where its door is; if it is killed at once, ask its successor."""
    while True:
        try:
            if worker is not None:
                path, name = worker.call(["door"], timeout=_PATIENCE)
                return Path(path), name
        except (NoProcess, ProcessDown):
            pass
        worker = root.child(child)
