"""Creating devices, taking them over, and finding those that are there."""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from supervisor import (
    ChildSpec,
    NoProcess,
    ProcessDown,
    Ref,
    StartFailed,
    Supervisor,
    SupervisorRef,
)
from supervisor.lowlevel import Restart, RLock, made_in_thread
from tuncer import tunctl
from tuncer.client import packet_writer
from tuncer.client.device import Device, known
from tuncer.client.link import absolute
from tuncer.protocol import adoption, paths, ring
from tuncer.protocol.control_socket import PATIENCE
from tuncer.protocol.packet import DeviceError
from tuncer.tunctl import Flag, Namespace
from tuncer.tunctl.address import AddressLike, NetworkLike, interface, network
from tuncer.tunctl.errors import check_bool, check_name
from tuncer.tunctl.flags import parse
from tuncer.tunctl.linux import netlink, netns
from tuncer.tunctl.pcap import compile_filter
from tuncer.worker import active_mode
from tuncer.worker.active_mode import Active
from tuncer.worker.open_device import TXQUEUELEN
from tuncer.worker.server import Worker

MOST_QUEUES = 256
"""Queues of a device, at most: MAX_TAP_QUEUES of ``drivers/net/tun.c``."""

_OPTIONS = {
    *("active", "persist", "queues", "namespace", "owner", "group", "txqueuelen"),
    *("log_packets", "log_bytes", "slots", "offload", "cpus"),
    *("adopt", "beside"),  # of adopt, and of create with a name that the kernel chooses
}
_OF_EACH_QUEUE = {
    *("active", "namespace", "queues", "again", "offload"),
    *("log_packets", "log_bytes"),
}
_CRASHES, _CRASH_PERIOD = 600, 60.0  # a worker that crashes more often, in a loop, is given up

_roots: dict[tuple[int, int], SupervisorRef] = {}
_roots_lock = RLock()
_numbers = itertools.count(1)


def _after_fork() -> None:
    global _roots_lock
    _roots_lock = RLock()  # another thread of the parent may have held it


os.register_at_fork(after_in_child=_after_fork)


def create(
    name: str = "",
    flags: int = Flag.TAP | Flag.NO_PI,
    *,
    active: Active = False,
    persist: bool = False,
    queues: int = 1,
    namespace: Namespace | None = None,
    owner: int | str | None = None,
    group: int | str | None = None,
    txqueuelen: int = TXQUEUELEN,
    log_packets: int = ring.DEFAULT_PACKETS,
    log_bytes: int = ring.DEFAULT_BYTES,
    offload: bool = False,
    cpus: Sequence[int] | None = None,
    slots: int | None = None,
) -> Device:
    """Create a TUN/TAP interface, or attach to a persistent one, in a worker process of its own.

    It belongs to the calling process: when that ends, in whatever way, the device goes, unless
    it is persistent.

    Args:
        name: at most 15 bytes; empty: the kernel chooses; one ``%d`` becomes a number.
        flags: of ``Flag``, with exactly one of TUN and TAP.
        active: who packets are read for, as of ``Device.setopt``: with False for ``recv``, and for
            subscriptions while there are any.
        persist: let the device stay when its owner ends.
        queues: how many queues it has, each with a worker of its own, which share its packets: the
            kernel keeps a flow in one queue. Adds MULTI_QUEUE to the flags. Queues are detached
            while nobody reads them.
        namespace: the network namespace to create it in, by name, path or pid; the worker stays
            in the present one.
        owner: a user who may attach to it without CAP_NET_ADMIN.
        group: a group that may.
        txqueuelen: packets that the kernel queues while nobody reads, for a new device.
        log_packets: how many packets the ring keeps for subscribers that are late: a power of two,
            128 to 1,048,576.
        log_bytes: how many bytes of packets, a multiple of 4096 from 2 MiB on. The ring keeps what
            is within both, and takes as much memory.
        offload: let the kernel hand out TCP and UDP packets of up to 64 KiB, and packets without
            their checksums, as far as it can. A subscription yields ordinary packets, which are cut
            in its process (by numpy: ``pip install 'tuncer[offload]'``), or large ones if it asks
            for them; ``send`` of many puts TCP segments together. Such a device has no
            subscribers by ZeroMQ. ``Device.offload()`` tells what the kernel has granted.
        cpus: processors that the workers run on: the first queue's on the first one, and so on,
            beginning again if there are more queues. By default the kernel chooses.
        slots: deprecated: ``log_packets``.

    Raises:
        OSError: with errno, a sentence on how to mend it, and the name.
        ValueError, TypeError, KeyError: what is wrong with an argument.
    """
    check_name(name)
    flags = _with_queues(flags, queues)
    options: dict[str, Any] = {
        "active": active,
        "persist": persist,
        "namespace": None if namespace is None else absolute(namespace),
        "owner": owner,
        "group": group,
        "txqueuelen": txqueuelen,
        "log_packets": log_packets,
        "log_bytes": log_bytes,
        "offload": offload,
        "cpus": cpus,
        "slots": slots,
    }
    kind = "tun" if flags & Flag.TUN else "tap"
    number = f"{name or kind}.{next(_numbers)}"
    if queues == 1:
        return _started(child_spec(number, name, flags, **options))
    with _named(name, _with_offload(flags, offload=offload), namespace) as (chosen, beside):
        options |= {"queues": queues, "beside": beside}
        return _started(child_spec(number, chosen, flags, **options))


async def acreate(*args: Any, **kwargs: Any) -> Device:
    """Create a device, as ``create`` does, from asyncio: the loop goes on meanwhile.

    Cancelled, it waits until the device is there, and closes it; cancelled once more, it does not
    wait for that.
    """
    make = functools.partial(create, *args, **kwargs)
    return await made_in_thread(make, Device.close)


def _with_queues(flags: int, queues: int) -> Flag:
    if isinstance(queues, bool) or not isinstance(queues, int):
        raise TypeError(f"queues is a number, not {queues!r}")
    if not 1 <= queues <= MOST_QUEUES:
        raise ValueError(f"a device has 1 to {MOST_QUEUES} queues, not {queues}")
    return parse(flags) | (Flag.MULTI_QUEUE if queues > 1 else Flag(0))


def _with_offload(flags: Flag, *, offload: bool) -> Flag:
    check_bool(offload, "offload")
    if offload and Flag.NO_PI not in flags:
        raise ValueError("offload=True needs NO_PI: there is no packet information before packets")
    return flags | (Flag.VNET_HDR if offload else Flag(0))


@contextlib.contextmanager
def _named(name: str, flags: Flag, namespace: Namespace | None) -> Iterator[tuple[str, int]]:
    """Have the kernel choose a name, and keep it until the workers have their queues.

    Yields the name, and how many queues are attached to keep it.
    """
    if name and "%" not in name:
        yield name, 0
        return
    fd = tunctl.create(name, flags, namespace)
    try:
        yield tunctl.devname(fd), 1
    finally:
        os.close(fd)


def adopt(
    fd: int,
    *,
    active: Active = False,
    log_packets: int = ring.DEFAULT_PACKETS,
    log_bytes: int = ring.DEFAULT_BYTES,
    slots: int | None = None,
) -> Device:
    """Have a worker take over a device that somebody else has opened, by its descriptor.

    systemd, a container runtime or a test may have attached it. The device's settings stay
    as they are. It belongs to the calling process, as with ``create``.

    Args:
        fd: attached to a device. The worker gets a duplicate, which makes it non-blocking: close
            this one when you like, and no longer read it.
        active: as of ``create``.
        log_packets: as of ``create``.
        log_bytes: as of ``create``.
        slots: deprecated: ``log_packets``.

    Raises:
        OSError: ENOTTY it is no TUN/TAP descriptor, EBADFD it is attached to no device, EBUSY
            a worker has the device already.
    """
    flags = tunctl.check(fd)
    with adoption.offered(fd) as path:
        name = tunctl.devname(fd)
        options: dict[str, Any] = {
            "active": active,
            "log_packets": log_packets,
            "log_bytes": log_bytes,
            "slots": slots,
            "adopt": str(path),
        }
        spec = child_spec(f"{name}.{next(_numbers)}", name, flags & ~Flag.PERSIST, **options)
        return _started(spec)


def child_spec(
    id: str,  # noqa: A002 - OTP's word, and ChildSpec's
    name: str = "",
    flags: int = Flag.TAP | Flag.NO_PI,
    *,
    restart: Restart = "transient",
    mtu: int | None = None,
    addresses: Iterable[AddressLike] = (),
    routes: Iterable[NetworkLike] = (),
    filter: str | None = None,  # noqa: A002 - as the device's method
    **options: Any,
) -> ChildSpec:
    """Return the specification of a device's worker, for a supervisor of one's own.

    Find the device by ``attach(name)``. With several queues it is the specification of a
    supervisor, of a worker for each, and must name the device.

    Args:
        id: what the supervisor calls it.
        name: as of ``create``.
        flags: as of ``create``.
        restart: "transient": when somebody else deletes the device, that is its end. "permanent":
            it is made again, as it is described here; subscriptions to the former one end.
        mtu: in bytes, of a new device.
        addresses: which a new device gets, such as "10.0.0.1/24"; with one it is brought up.
        routes: networks that are reached through it.
        filter: which packets a new device hands out, as of ``Device.filter``; with one queue.
        **options: as of ``create``.
    """
    check_name(name)
    if restart not in {"transient", "permanent"}:
        raise ValueError(f"restart of a device is 'transient' or 'permanent', not {restart!r}")
    for what, given in (("addresses", addresses), ("routes", routes)):
        if isinstance(given, (str, bytes)):
            raise TypeError(f"{what} is a list, as in [{given!r}], not {given!r}")
    described: dict[str, Any] = {
        "mtu": mtu,
        "addresses": [str(interface(one)) for one in addresses],
        "routes": [str(network(one)) for one in routes],
    }
    unknown = options.keys() - _OPTIONS
    if unknown:
        raise TypeError(f"a device has no options {', '.join(sorted(unknown))}")
    is_old = _renamed_slots(options)
    _check_options(options)
    if is_old:
        warnings.warn("slots= is called log_packets=", DeprecationWarning, stacklevel=3)
    queues = options.get("queues", 1)
    if filter is not None:
        if queues > 1:
            raise ValueError("a filter of several queues is set by Device.filter, not beforehand")
        described["filter"] = [filter, compile_filter(filter, flags).instructions]
    cpus = _checked_cpus(options.pop("cpus", None))
    flags = _with_offload(_with_queues(flags, queues), offload=options.get("offload", False))
    options |= {"described": described, "again": restart == "permanent"}
    if queues > 1:
        return _queues_spec(id, name, flags, options, cpus, restart)
    options["cpu"] = cpus[0]
    return ChildSpec(
        id,
        Worker,
        (name, int(flags)),
        options,
        restart=restart,
        intensity=_CRASHES,
        period=_CRASH_PERIOD,
    )


def _renamed_slots(options: dict[str, Any]) -> bool:
    """Give the option that was called "slots" its name; return whether it was there."""
    slots = options.pop("slots", None)
    if slots is not None:
        options["log_packets"] = slots
    return slots is not None


def _check_options(options: dict[str, Any]) -> None:
    """Say beforehand what a worker would refuse: nothing has been started yet."""
    active_mode.check(options.get("active", False))
    check_bool(options.get("persist", False), "persist")
    ring.check_size(
        options.get("log_packets", ring.DEFAULT_PACKETS),
        options.get("log_bytes", ring.DEFAULT_BYTES),
    )
    if options.get("txqueuelen") == 0:
        raise ValueError("a device with txqueuelen=0 gets no packet: give more")
    tunctl.user_id(options.get("owner"))
    tunctl.group_id(options.get("group"))


def _checked_cpus(cpus: object) -> Sequence[int | None]:
    """Return the processors that the workers are to run on, in turns."""
    if cpus is None:
        return [None]
    if not isinstance(cpus, Sequence) or isinstance(cpus, (str, bytes)) or not cpus:
        raise TypeError(f"cpus is a sequence of numbers of processors, not {cpus!r}")
    there = os.sched_getaffinity(0)
    for cpu in cpus:
        if isinstance(cpu, bool) or not isinstance(cpu, int):
            raise TypeError(f"a processor is a number, not {cpu!r}")
        if cpu not in there:
            raise ValueError(
                f"this process may run on the processors {sorted(there)}, not on {cpu}"
            )
    return cpus


def _queues_spec(
    id_: str,
    name: str,
    flags: Flag,
    options: dict[str, Any],
    cpus: Sequence[int | None],
    restart: Restart,
) -> ChildSpec:
    if not name or "%" in name:
        raise ValueError("the workers of several queues must know the device's name: give one")
    shared = {key: options[key] for key in _OF_EACH_QUEUE if key in options}
    workers = [
        ChildSpec(
            f"queue {number}",
            Worker,
            (name, int(flags)),
            {
                **(shared if number else options),
                "queue": number,
                "cpu": cpus[number % len(cpus)],
            },
            restart="transient",
            significant=True,
            intensity=_CRASHES,
            period=_CRASH_PERIOD,
        )
        for number in range(options["queues"])
    ]
    # It ends with the device: when the last of its workers has ended in order.
    limits = {
        "intensity": _CRASHES * len(workers),
        "period": _CRASH_PERIOD,
        "auto_shutdown": "all_significant",
    }
    # Limits of its own: otherwise two kills of it would count as its supervisor's restarts, and end
    # all other devices.
    return ChildSpec(
        id_,
        Supervisor,
        (workers,),
        limits,
        restart=restart,
        intensity=_CRASHES,
        period=_CRASH_PERIOD,
    )


def attach(name: str, namespace: Namespace | None = None) -> Device:
    """Return a device of this user's that exists.

    Args:
        name: as the kernel has it now.
        namespace: the network namespace where it is; by default the present one.

    Raises:
        DeviceError: ENODEV, there is none of this name.
    """
    check_name(name)
    with contextlib.ExitStack() as stack:
        if namespace is not None:
            where = netns.opened(namespace)
            stack.callback(os.close, where)
            stack.enter_context(netns.visited(where))
        try:
            place = netlink.place(name)
        except OSError:
            raise DeviceError(
                errno.ENODEV, "there is no such device in this network namespace", name
            ) from None
        path = paths.control_path_at(*place)
    # The path of its control socket tells where it was created. Since then it may have been moved,
    # and another device may be where it was.
    device = _if_there(path, name, place)
    if device is not None:
        return device
    for control in (other for other in paths.control_paths() if other != path):
        device = _if_there(control, name, place)
        if device is not None:
            return device
    raise DeviceError(
        errno.ENODEV,
        "no worker of this user serves this interface: create() or adopt() starts one",
        name,
    )


def _if_there(path: Path, name: str, place: tuple[int, int]) -> Device | None:
    """Return the device of a control socket, if it is in this namespace and has this number.

    Raises:
        DeviceError: ETIMEDOUT, the worker that may have it does not answer.
    """
    try:
        device = known(path, name)
        return device if device.place() == place else None
    except DeviceError as error:
        if error.errno == errno.ETIMEDOUT and path == paths.control_path_at(*place):
            raise
        return None
    except (OSError, NoProcess):
        return None  # it is where this process may not go, or has ended


def devices() -> list[Device]:
    """Return all devices of this user's, in whatever network namespace."""
    found = []
    for path in paths.control_paths():
        with contextlib.suppress(DeviceError):  # it went between two looks
            found.append(known(path, path.name))
    return found


def _started(spec: ChildSpec) -> Device:
    packet_writer.give_up_the_dead()
    try:
        return Device(*_start(spec))
    except StartFailed as failed:
        paths.sweep()  # a worker that was killed as it began may have left its control
        reason: Any = failed
        while isinstance(reason, StartFailed):  # of a queue's worker, of their supervisor
            reason = reason.reason
        if isinstance(reason, (OSError, ValueError, TypeError, KeyError)):
            raise reason from None
        raise


def _start(spec: ChildSpec) -> tuple[Path, str, int, bool]:
    """Start a worker below this process's root; return what makes a ``Device``.

    There is a root per network namespace, as that is where it creates devices.
    """
    key = (os.getpid(), netns.inode())
    while True:
        with _roots_lock:
            root = _roots.get(key)
            if root is None or not root.is_alive():
                for dead in [k for k, ref in _roots.items() if not ref.is_alive()]:
                    del _roots[dead]
                root = _roots[key] = Supervisor.start_link([])
        try:
            worker = root.start_child(spec, owner=os.getpid())
            return _control_path_of(root, spec.id, worker)
        except (NoProcess, ProcessDown):
            if root.is_alive():
                raise
            # It was killed, and the device with it: with a new root, from the beginning.


def _control_path_of(
    root: SupervisorRef, child: str, worker: Ref | None
) -> tuple[Path, str, int, bool]:
    """Ask a new worker for its control socket; if it is killed at once, ask its successor."""
    while True:
        try:
            if isinstance(worker, SupervisorRef):
                worker = worker.child("queue 0")
            if worker is not None:
                path, *about = worker.call(["control_path", [], {}], timeout=PATIENCE)
                return Path(path), *about
        except (NoProcess, ProcessDown):
            pass
        worker = root.child(child)
