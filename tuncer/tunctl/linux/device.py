"""Devices and their queues, by the ioctls of ``/dev/net/tun``.

Sources: ``linux/if_tun.h``, the kernel's ``Documentation/networking/tuntap.rst`` and
``drivers/net/tun.c``.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tuncer.tunctl import address as addresses
from tuncer.tunctl.errors import CLONE_DEVICE, check_name, explain
from tuncer.tunctl.flags import KIND, REPORTED, Flag, Offload, difference, named, parse
from tuncer.tunctl.linux import ioctls, netlink, netns
from tuncer.tunctl.linux.filter import detach_filter
from tuncer.tunctl.linux.netlink import Target
from tuncer.tunctl.linux.netns import Namespace

_ATTACH_QUEUE, _DETACH_QUEUE = 0x0200, 0x0400  # IFF_ATTACH_QUEUE, IFF_DETACH_QUEUE
_INFO_DATA = {
    "IFLA_TUN_VNET_HDR": Flag.VNET_HDR,
    "IFLA_TUN_PERSIST": Flag.PERSIST,
    "IFLA_TUN_MULTI_QUEUE": Flag.MULTI_QUEUE,
}
_TOLD_BY_NAME = KIND | Flag.MULTI_QUEUE | Flag.VNET_HDR | Flag.NO_PI
_NO_ID = 0xFFFFFFFF  # (uid_t) -1, which means no user
_ALL_MULTICAST = 0x0001  # TUN_FLT_ALLMULTI
_MOST_ADDRESSES = 1000  # of a receive filter; the kernel takes 8 exactly, then a hash


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
        with netns.visited(where):
            return _create(name, wanted)
    finally:
        os.close(where)


def _create(name: str, wanted: Flag, as_new: bool = True) -> int:
    fd = _open(name)
    try:
        existed = bool(name) and "%" not in name and _exists(name)
        _attach(fd, name, wanted)
        if as_new:
            _reset(fd, existed)
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


def _reset(fd: int, existed: bool) -> None:
    """Take away what an earlier user has left on a persistent device.

    Offload would hand super-packets of 64 KiB to somebody who expects packets of the MTU's size.
    """
    has = ioctls.interface(fd)[1]
    if Flag.MULTI_QUEUE in has and sum(queues(fd)) > 1:
        return  # the device is in use, as its user has set it up
    offload(fd, 0)
    if existed:
        detach_filter(fd)
        if Flag.TAP in has:
            receive_filter(fd)


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
    if isinstance(fd, bool) or not isinstance(fd, int):
        raise TypeError(f"a descriptor is a number, not {fd!r}")
    if fd < 0:
        raise explain(errno.EBADF, "ask for the device's name")
    return flags(fd)


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
        OSError: ``/dev/net/tun`` cannot be opened.
    """
    fd = _open()
    try:
        (bits,) = ioctls.INT.unpack(ioctls.call(fd, ioctls.TUNGETFEATURES, bytes(4), "features"))
    finally:
        os.close(fd)
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
        data = _tun_data(kernel)
    found = Flag(data.get_attr("IFLA_TUN_TYPE"))
    if not data.get_attr("IFLA_TUN_PI"):
        found |= Flag.NO_PI
    for attribute, flag in _INFO_DATA.items():
        if data.get_attr(attribute):
            found |= flag
    if isinstance(target, str):
        return found
    return (ioctls.interface(target)[1] & ~Flag.NO_PI) | (found & Flag.NO_PI)


def _tun_data(kernel: netlink.Session) -> Any:
    link = kernel.link
    if link.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") != "tun":
        raise OSError(errno.ENODEV, "this is no TUN/TAP device", kernel.name)
    return link.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA")


# -- who may attach --------------------------------------------------------------------------------


def persist(target: Target, on: bool = True) -> None:
    """Let the device stay, or no longer stay, when its last descriptor is closed.

    ``flags`` tells whether it does.

    Raises:
        OSError: EBUSY if it is given by name while another process is attached.
        TypeError: neither True nor False.
    """
    if not isinstance(on, bool):
        raise TypeError(f"a device is persistent or not, True or False, not {on!r}")
    with attached(target) as fd:
        ioctls.call(fd, ioctls.TUNSETPERSIST, on, "persist")


def owner(target: Target, user: int | str | None = None) -> int | None:
    """Return the user who may attach to the device without CAP_NET_ADMIN; set it if given.

    Args:
        target: the device.
        user: a number or a login name.

    Returns:
        The user's number; None: there is none.

    Raises:
        KeyError: no user of that name.
        ValueError, TypeError: no user id.
        OSError: EINVAL, the user does not exist in this user namespace.
    """
    if user is not None:
        number = _identity(user, "user", lambda name: pwd.getpwnam(name).pw_uid)
        with attached(target) as fd:
            ioctls.call(fd, ioctls.TUNSETOWNER, number, "owner")
    return _told(target, "IFLA_TUN_OWNER")


def group(target: Target, group: int | str | None = None) -> int | None:
    """Return the group that may attach to the device without CAP_NET_ADMIN; set it if given.

    Args:
        target: the device.
        group: a number or a name.

    Returns:
        The group's number; None: there is none.

    Raises:
        KeyError: no group of that name.
        ValueError, TypeError: no group id.
        OSError: EINVAL, the group does not exist in this user namespace.
    """
    if group is not None:
        number = _identity(group, "group", lambda name: grp.getgrnam(name).gr_gid)
        with attached(target) as fd:
            ioctls.call(fd, ioctls.TUNSETGROUP, number, "group")
    return _told(target, "IFLA_TUN_GROUP")


def _told(target: Target, attribute: str) -> int | None:
    with netlink.session(target, "ask who may attach") as kernel:
        number = _tun_data(kernel).get_attr(attribute)
    return None if number is None else int(number)


def _identity(wanted: int | str, kind: str, find: Callable[[str], int]) -> int:
    if isinstance(wanted, bool) or not isinstance(wanted, (int, str)):
        raise TypeError(f"a {kind} is a name or a number, not {wanted!r}")
    try:
        number = find(wanted) if isinstance(wanted, str) else wanted
    except KeyError:
        raise KeyError(f"there is no {kind} {wanted!r} on this host") from None
    if not 0 <= number < _NO_ID:
        raise ValueError(f"{number} is no user or group id")
    return number - (1 << 32) if number >= 1 << 31 else number  # fcntl.ioctl takes a C int


# -- carrier and link type -------------------------------------------------------------------------


def carrier(target: Target, on: bool | None = None) -> bool:
    """Return whether the link has a carrier, after setting it if a state is given.

    Source: TUNSETCARRIER, Linux 5.0. A device without carrier passes nothing on to its reader;
    ``ip`` shows NO-CARRIER.

    Raises:
        OSError: EBUSY if it is set by name while another process is attached.
        TypeError: neither True nor False.
    """
    if on is not None:
        if not isinstance(on, bool):
            raise TypeError(f"a carrier is there or not, True or False, not {on!r}")
        with attached(target) as fd:
            ioctls.call(fd, ioctls.TUNSETCARRIER, ioctls.INT.pack(on), "carrier")
    with netlink.session(target, "ask for the carrier") as kernel:
        return bool(kernel.link.get_attr("IFLA_CARRIER"))


def link_type(target: Target, kind: int | None = None) -> int:
    """Return the link's type (``ARPHRD_*`` of ``linux/if_arp.h``), after setting it if given.

    Source: TUNSETLINK. A TAP's is 1 (Ethernet), a TUN's 65534 (none).

    Raises:
        OSError: EBUSY while the device is up, or if it is set by name while another process is
            attached.
        ValueError, TypeError: no number of 16 bits.
    """
    if kind is not None:
        if isinstance(kind, bool) or not isinstance(kind, int):
            raise TypeError(f"a link type is a number of ARPHRD_*, not {kind!r}")
        if not 0 <= kind < 1 << 16:
            raise ValueError(f"a link type is a number of 16 bits, not {kind}")
        with attached(target) as fd:
            ioctls.call(fd, ioctls.TUNSETLINK, kind, "link type")
    with netlink.session(target, "ask for the link type") as kernel:
        return int(kernel.link["ifi_type"])


# -- framing, buffers, offload ---------------------------------------------------------------------


def vnet_hdr_size(fd: int, size: int | None = None) -> int:
    """Return the bytes of the virtio_net_hdr before each packet, after setting it if one is given.

    It is the device's, for all its queues: TUNSETVNETHDRSZ.

    Raises:
        OSError: EINVAL under 10 bytes, or the device has no VNET_HDR.
        TypeError, ValueError: no number.
    """
    if size is not None:
        packed = _packed(size, "a header's size")
        _check_vnet_hdr(fd, "a virtio_net_hdr")
        ioctls.call(fd, ioctls.TUNSETVNETHDRSZ, packed, "vnet_hdr_size")
    (found,) = ioctls.INT.unpack(
        ioctls.call(fd, ioctls.TUNGETVNETHDRSZ, bytes(4), "ask for the header's size")
    )
    return int(found)


def sndbuf(fd: int, size: int | None = None) -> int:
    """Return the bytes of written packets that may be under way, after setting it if given.

    By default there is no limit (2147483647): TUNSETSNDBUF. What waits longer is, for example,
    a packet in the queue of another device; then a write fails with EAGAIN.

    Raises:
        OSError: EINVAL, not above 0.
        TypeError, ValueError: no number.
    """
    if size is not None:
        ioctls.call(fd, ioctls.TUNSETSNDBUF, _packed(size, "a buffer's size"), "sndbuf")
    (found,) = ioctls.INT.unpack(
        ioctls.call(fd, ioctls.TUNGETSNDBUF, bytes(4), "ask for the buffer's size")
    )
    return int(found)


def _packed(size: int, what: str) -> bytes:
    if isinstance(size, bool) or not isinstance(size, int):
        raise TypeError(f"{what} is a number of bytes, not {size!r}")
    try:
        return ioctls.INT.pack(size)
    except struct.error:
        raise ValueError(f"{what} is a number of 31 bits, not {size}") from None


def offload(fd: int, what: int) -> None:
    """Tell the kernel what the reader can handle: a combination of ``Offload``, 0 for nothing.

    Source: TUNSETOFFLOAD. It is the device's, for all its queues.

    Raises:
        OSError: EINVAL, the device has no VNET_HDR, or the kernel does not know one of them, or
            not without another.
        TypeError, ValueError: no such combination.
    """
    if isinstance(what, bool) or not isinstance(what, int):
        raise TypeError(f"offload is a combination of tuncer.Offload, not {what!r}")
    unknown = what & ~sum(Offload)
    if unknown:
        raise ValueError(f"unknown offload {unknown:#x}: see tuncer.Offload for the known ones")
    if what:
        _check_vnet_hdr(fd, "offload")
    ioctls.call(fd, ioctls.TUNSETOFFLOAD, what, "offload")


def _check_vnet_hdr(fd: int, what: str) -> None:
    """Refuse what would only spoil packets: without the header nobody can tell what is missing."""
    name, bits = ioctls.interface(fd)
    if Flag.VNET_HDR not in bits:
        problem = f"{what} needs a device with VNET_HDR"
        raise OSError(errno.EINVAL, problem, ioctls.printable(name))


# -- queues ----------------------------------------------------------------------------------------


def queues(target: Target) -> tuple[int, int]:
    """Return how many queues of the device are attached, and how many detached.

    Raises:
        OSError: EBADFD, ENODEV.
    """
    with netlink.session(target, "ask for queues") as kernel:
        data = _tun_data(kernel)
    attached, detached = (f"IFLA_TUN_NUM_{kind}" for kind in ("QUEUES", "DISABLED_QUEUES"))
    return int(data.get_attr(attached) or 0), int(data.get_attr(detached) or 0)


def is_attached(fd: int) -> bool:
    """Tell whether the kernel chooses this queue (TUNGETIFF).

    Raises:
        OSError: EBADFD when the device was deleted.
    """
    answer = ioctls.call(fd, ioctls.TUNGETIFF, bytes(ioctls.IFREQ.size), "ask for the queue")
    return not ioctls.IFREQ.unpack(answer)[1] & _DETACH_QUEUE


def attach_queue(fd: int) -> None:
    """Let the kernel choose this queue again, of a device with MULTI_QUEUE.

    Raises:
        OSError: EINVAL, it is attached, or the device has one queue only.
    """
    _queue(fd, _ATTACH_QUEUE, "attach the queue")


def detach_queue(fd: int) -> None:
    """Let the kernel no longer choose this queue; what it holds is thrown away.

    Raises:
        OSError: EINVAL, it is detached already, or the device has one queue only.
    """
    _queue(fd, _DETACH_QUEUE, "detach the queue")


def _queue(fd: int, what: int, operation: str) -> None:
    ioctls.call(fd, ioctls.TUNSETQUEUE, ioctls.IFREQ.pack(b"", what), operation)


# -- the receive filter of a TAP -------------------------------------------------------------------


def receive_filter(
    target: Target, macs: Iterable[str] = (), *, all_multicast: bool = False
) -> None:
    """Let a TAP's reader get only frames for these addresses. Source: TUNSETTXFILTER.

    Broadcast must be named like any other address (``ff:ff:ff:ff:ff:ff``). The kernel compares
    the first 8 addresses exactly; further ones must be multicast, and go by a hash, which lets
    some others pass as well.

    Args:
        target: the device.
        macs: addresses of destination; none at all takes the filter away.
        all_multicast: let all multicast pass, broadcast with it.

    Raises:
        OSError: EINVAL on a TUN.
        ValueError, TypeError: no MAC address, or more than 1000.
    """
    if isinstance(macs, str):
        raise TypeError(f"a list of MAC addresses, not one: {macs!r}")
    packed = [addresses.mac(one) for one in macs]
    if len(packed) > _MOST_ADDRESSES:
        raise ValueError(f"a receive filter has at most {_MOST_ADDRESSES} addresses")
    head = struct.pack("=HH", _ALL_MULTICAST if all_multicast else 0, len(packed))
    with attached(target) as fd:
        ioctls.call(fd, ioctls.TUNSETTXFILTER, head + b"".join(packed), "receive filter")
