"""Creating devices, attaching to them, and what they are, by the ioctls of ``/dev/net/tun``.

Sources: ``linux/if_tun.h``, the kernel's ``Documentation/networking/tuntap.rst`` and
``drivers/net/tun.c``.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

from tuncer.tunctl.errors import CLONE_DEVICE, check_name, explain
from tuncer.tunctl.flags import KIND, REPORTED, Flag, difference, named, parse
from tuncer.tunctl.linux import ioctls, netlink, netns, rtnetlink
from tuncer.tunctl.linux.filter import detach_filter, set_receive_filter
from tuncer.tunctl.linux.link import IFLA_IFNAME, IFLA_LINKINFO, IFLA_NET_NS_FD
from tuncer.tunctl.linux.netlink import Target
from tuncer.tunctl.linux.netns import Namespace
from tuncer.tunctl.linux.queue import offload
from tuncer.tunctl.linux.rtnetlink import Attributes

_PASSING = b"tuncer%d"  # the name of a device on its way to another network namespace
_INFO_KIND, _INFO_DATA = 1, 2  # IFLA_INFO_KIND, IFLA_INFO_DATA
IFLA_TUN_OWNER, IFLA_TUN_GROUP = 1, 2
_TYPE, _PI, _VNET_HDR, _PERSIST, _MULTI_QUEUE, _QUEUES, _DETACHED = range(3, 10)  # IFLA_TUN_*
_REPORTED = {
    _VNET_HDR: Flag.VNET_HDR,
    _PERSIST: Flag.PERSIST,
    _MULTI_QUEUE: Flag.MULTI_QUEUE,
}


# -- creating, attaching ---------------------------------------------------------------------------


def create(
    name: str = "",
    flags: int = Flag.TAP | Flag.NO_PI,
    namespace: Namespace | None = None,
) -> int:
    """Create a TUN/TAP interface, or attach to one that exists.

    The device goes when the descriptor and its duplicates are closed, unless it is persistent.

    Args:
        name: at most 15 bytes; empty: the kernel chooses ``tap0``, ``tun0``, ...; one ``%d``
            becomes the first free number.
        flags: of ``Flag``, with exactly one of TUN and TAP.
        namespace: the network namespace, by name, path or pid; by default the present one.

    Returns:
        A descriptor, non-blocking and close-on-exec: a read gives one packet, a write sends one.
        All functions here that take a descriptor follow it to where the device is.

    Raises:
        OSError: with errno, a sentence on how to mend it, and the name.
        ValueError: flags that are none, or not exactly one of TUN and TAP.
    """
    wanted = parse(flags)
    check_name(name)
    if namespace is None:
        return _create(name, wanted)
    where = netns.opened(namespace)
    try:
        fd = _create_from_here(name, wanted, where)
        if fd is not None:
            return fd
        with netns.visited(where):
            return _create(name, wanted)
    finally:
        os.close(where)


def _create_from_here(name: str, wanted: Flag, where: int) -> int | None:
    """Create a device here, and move it to another network namespace; None if that cannot be.

    A descriptor of ``/dev/net/tun`` keeps the namespace alive in which it was opened. One that was
    opened there would keep that of a container, and all in it, when the container has ended. For
    a device that exists there, and for further queues, there is no other way.
    """
    if netns.inode(where) == netns.inode() or Flag.MULTI_QUEUE in wanted:
        return None
    with netns.visited(where):
        if name and "%" not in name and _exists(name):
            return None
    fd = _open(name)
    try:
        ioctls.call(fd, ioctls.TUNSETIFF, ioctls.IFREQ.pack(_PASSING, wanted), "attach", name)
        _reset(fd, wanted, existed=False)
        chosen = name or ("tap%d" if Flag.TAP in wanted else "tun%d")
        with netlink.session(fd, "move") as kernel:
            there = rtnetlink.u32(IFLA_NET_NS_FD, where) + rtnetlink.text(IFLA_IFNAME, chosen)
            kernel.set_link(there)
    except OSError:  # the caller tries again in the other namespace, and raises that error
        os.close(fd)
        return None
    except BaseException:
        os.close(fd)
        raise
    return fd


def _create(name: str, wanted: Flag, as_new: bool = True) -> int:
    fd = _open(name)
    try:
        existed = bool(name) and "%" not in name and _exists(name)
        _attach(fd, name, wanted)
        if as_new:
            _reset(fd, wanted, existed)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _open(name: str = "") -> int:
    try:
        return os.open(CLONE_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise explain(error.errno or 0, "open", name or CLONE_DEVICE) from error


def _attach(fd: int, name: str, wanted: Flag) -> None:
    try:
        ioctls.call(fd, ioctls.TUNSETIFF, ioctls.IFREQ.pack(name.encode(), wanted), "attach", name)
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise _refused(name, wanted) from error
        raise
    found, granted = ioctls.interface(fd)
    of = REPORTED
    if Flag.MULTI_QUEUE in wanted:
        # A further queue gets the framing of the first ones, whatever was asked. (A device that
        # nobody is attached to takes it from whoever comes: then nothing can differ.)
        granted, of = flags(fd), REPORTED | Flag.NO_PI
    odd = difference(wanted, granted, of)
    if odd:
        # An existing device keeps flags of its own, and packets are framed by those.
        raise OSError(
            errno.EINVAL,
            f"asked for {named(wanted)} the kernel gave a device {odd}: ask for what the device"
            " has, or delete it first",
            found,
        )


def _reset(fd: int, wanted: Flag, existed: bool) -> None:
    """Take away what an earlier user has left on a persistent device.

    Offload would hand super-packets of 64 KiB to somebody who expects packets of the MTU's size.
    """
    has = ioctls.interface(fd)[1]
    if Flag.MULTI_QUEUE in has and sum(queues(fd)) > 1:
        return  # the device is in use, as its user has set it up
    with ioctls.if_known():
        offload(fd, 0)
    if existed and Flag.NO_CARRIER in wanted:  # the kernel heeds it for a new device alone
        ioctls.call(fd, ioctls.TUNSETCARRIER, ioctls.INT.pack(0), "carrier")
    if existed:
        detach_filter(fd)
        if Flag.TAP in has:
            with ioctls.if_known():
                set_receive_filter(fd, [], all_multicast=False)


def _refused(name: str, wanted: Flag) -> OSError:
    """Say why the kernel answered TUNSETIFF with a bare EINVAL: what does the device have?"""
    try:
        present = flags(name) if name and "%" not in name else wanted
    except OSError as error:
        if error.errno == errno.ENODEV and _exists(name):
            problem = "another sort of interface has the name: choose another name"
            return OSError(errno.EINVAL, problem, name)
        return explain(errno.EINVAL, "attach", name)
    odd = difference(wanted, present, KIND | Flag.MULTI_QUEUE)
    if not odd:
        return explain(errno.EINVAL, "attach", name)
    return OSError(
        errno.EINVAL,
        f"asked for {named(wanted)}, but the device exists {odd}, and keeps what it was created"
        " with: ask for that, or delete the device first",
        name,
    )


def _exists(name: str) -> bool:
    try:
        netlink.index_of(name)
    except OSError:
        return False
    return True


def check(fd: int) -> Flag:
    """Return the flags of a descriptor that somebody else has opened, if it can be used.

    Raises:
        OSError: ENOTTY it is no TUN/TAP descriptor, EBADFD it is attached to no device.
        TypeError: no number.
    """
    return flags(ioctls.checked(fd))


@contextlib.contextmanager
def attached(target: Target) -> Iterator[int]:
    """Give a descriptor of a device: the one that was given, or for a name one of its own."""
    if not isinstance(target, str):
        with netlink.located(target):
            pass
        yield target
        return
    present = flags(target)
    if Flag.MULTI_QUEUE in present and queues(target)[0]:
        problem = "the device is in use by another process, which would lose a part of its packets"
        raise OSError(errno.EBUSY, f"{problem}: give a descriptor of it", target)
    fd = _create(target, present & (REPORTED | Flag.NO_PI), as_new=False)
    try:
        yield fd
    finally:
        os.close(fd)


# -- what it is ------------------------------------------------------------------------------------


def features() -> Flag:
    """Return the flags that the kernel knows (TUNGETFEATURES).

    Raises:
        OSError: ``/dev/net/tun`` cannot be opened; ENOTTY, the driver does not tell (gVisor's).
    """
    fd = _open()
    try:
        told = ioctls.call(fd, ioctls.TUNGETFEATURES, bytes(4), "features", CLONE_DEVICE)
    finally:
        os.close(fd)
    (bits,) = ioctls.INT.unpack(told)
    return Flag(bits & sum(Flag))


def devname(fd: int) -> str:
    """Return the name of the device that a descriptor is attached to, as it is now.

    Raises:
        OSError: EBADFD when the device was deleted.
    """
    return ioctls.printable(ioctls.interface(fd)[0])


def flags(target: Target) -> Flag:
    """Return what the kernel says of the device.

    TUNGETIFF sets the bit of NO_PI also when no filter is attached (``IFF_NOFILTER`` has the same
    value), so packet information is asked of rtnetlink.

    Raises:
        OSError: EBADFD when the device was deleted, ENODEV when no TUN/TAP device has the name.
    """
    with netlink.session(target, "ask for flags") as kernel:
        if not isinstance(target, str) and IFLA_LINKINFO not in kernel.link.attributes:
            return ioctls.interface(target)[1]  # the kernel is gVisor's, see tun_data
        data = tun_data(kernel, target)
    found = Flag(data.number(_TYPE) or 0)
    if not data.number(_PI):
        found |= Flag.NO_PI
    for attribute, flag in _REPORTED.items():
        if data.number(attribute):
            found |= flag
    if isinstance(target, str):
        return found
    return (ioctls.interface(target)[1] & ~Flag.NO_PI) | (found & Flag.NO_PI)


def tun_data(kernel: netlink.Session, target: Target) -> Attributes:
    """Return what rtnetlink says of a TUN/TAP device in particular.

    Raises:
        OSError: ENODEV, it is none; EOPNOTSUPP, the kernel does not tell: gVisor's.
    """
    link = kernel.link
    if not isinstance(target, str):
        link.told(IFLA_LINKINFO)
    info = link.attributes.nested(IFLA_LINKINFO)
    if info.text(_INFO_KIND) != "tun":
        raise OSError(errno.ENODEV, "this is no TUN/TAP device", kernel.name)
    return info.nested(_INFO_DATA)


def queues(target: Target) -> tuple[int, int]:
    """Return how many queues of the device are attached, and how many detached.

    Raises:
        OSError: EBADFD, ENODEV.
    """
    with netlink.session(target, "ask for queues") as kernel:
        data = tun_data(kernel, target)
    return data.number(_QUEUES) or 0, data.number(_DETACHED) or 0
