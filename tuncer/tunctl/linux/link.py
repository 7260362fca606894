"""The link: up and down, MTU, MAC, name, namespace, counters. Source: rtnetlink(7), ip-link(8).

A setting that is as it should be is left alone, so a device that was made ready by somebody
else can be used by one who may change nothing.
"""

from __future__ import annotations

import errno
import os
import struct
from typing import Any

from tuncer.tunctl import address as addresses
from tuncer.tunctl.errors import check_bool, check_name, explain
from tuncer.tunctl.linux import netlink, netns, rtnetlink
from tuncer.tunctl.linux.netlink import FAMILY, IFF_UP, Session, Target, session
from tuncer.tunctl.linux.netns import Namespace

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_MASTER, IFLA_TXQLEN = 1, 3, 4, 10, 13
IFLA_LINKINFO, IFLA_IFALIAS, IFLA_STATS64, IFLA_AF_SPEC = 18, 20, 23, 26
IFLA_NET_NS_FD, IFLA_CARRIER = 28, 33
_ADDR_GEN_MODE = 8  # IFLA_INET6_ADDR_GEN_MODE
_NO_LINK_LOCAL, _EUI64 = 1, 0  # IN6_ADDR_GEN_MODE_NONE, IN6_ADDR_GEN_MODE_EUI64
_MOST_ALIAS = 255  # IFALIASZ, less the final NUL
_COUNTERS = {  # where they stand in struct rtnl_link_stats64
    "rx_packets": 0,
    "rx_bytes": 2,
    "rx_dropped": 6,
    "rx_errors": 4,
    "tx_packets": 1,
    "tx_bytes": 3,
    "tx_dropped": 7,
    "tx_errors": 5,
}
IPV6_MIN_MTU = 1280
"""RFC 8200, section 5."""


def set_up(kernel: Session) -> None:
    """Bring a device up, if it is not."""
    if not kernel.link.flags & IFF_UP:
        kernel.set_up(True)


def down(target: Target) -> None:
    """Take the device down: it keeps its IPv4 addresses, and loses its IPv6 ones and its routes.

    Raises:
        OSError: ENODEV, EPERM.
    """
    with session(target, "down") as kernel:
        if kernel.link.flags & IFF_UP:
            kernel.set_up(False)


def is_up(target: Target) -> bool:
    """Tell whether the device is administratively up (IFF_UP).

    Raises:
        OSError: ENODEV, EBADFD.
    """
    with session(target, "ask for the state") as kernel:
        return bool(kernel.link.flags & IFF_UP)


def link_local(target: Target, on: bool | None = None) -> bool:
    """Tell whether the device gets an IPv6 link-local address when it comes up; set it if given.

    Without one, and up, the kernel sends no router solicitations or multicast reports through it.

    Raises:
        OSError: EOPNOTSUPP the kernel has no IPv6, EPERM.
    """
    if on is not None:
        check_bool(on, "link_local")
    with session(target, "link-local address") as kernel:
        present = _generates(kernel)
        if on is None or on == present:
            return present
        mode = _EUI64 if on else _NO_LINK_LOCAL
        inet6 = rtnetlink.nested(FAMILY[6], rtnetlink.attribute(_ADDR_GEN_MODE, bytes([mode])))
        kernel.set_link(rtnetlink.nested(IFLA_AF_SPEC, inet6))
        return on


def _generates(kernel: Session) -> bool:
    inet6 = kernel.link.attributes.nested(IFLA_AF_SPEC, FAMILY[6])
    return inet6.number(_ADDR_GEN_MODE) not in {None, _NO_LINK_LOCAL}


def mtu(target: Target, size: int | None = None) -> int:
    """Return the device's MTU in bytes, after setting it if a size is given.

    Raises:
        OSError: EINVAL if the size is out of range; also under 1280 on a device with IPv6
            addresses, which the kernel would silently take away.
        TypeError: no number.
    """
    if size is not None:
        _check_number(size, "an MTU is a number of bytes", "mtu")
    with session(target, "mtu") as kernel:
        present = present_mtu(kernel)
        if size is None or size == present:
            return present
        if size < IPV6_MIN_MTU and _has_ipv6(kernel):
            raise OSError(
                errno.EINVAL,
                f"IPv6 needs an MTU of {IPV6_MIN_MTU} or more (RFC 8200): remove the device's"
                " IPv6 addresses first",
                kernel.name,
            )
        kernel.set_link(rtnetlink.u32(IFLA_MTU, size))
        return present_mtu(kernel)


def present_mtu(kernel: Session) -> int:
    """Return a device's MTU in bytes, now."""
    return kernel.link.attributes.number(IFLA_MTU) or 0


def _has_ipv6(kernel: Session) -> bool:
    universe = 0  # RT_SCOPE_UNIVERSE: not the link-local ones, which nobody asked for
    return any(found.head[3] == universe for found in kernel.addresses(6))


def mac(target: Target, address: str | None = None) -> str:
    """Return a TAP's MAC address, after setting it if one is given; a TUN has none: "".

    Raises:
        OSError: EOPNOTSUPP on a TUN, EADDRNOTAVAIL a multicast address or none but zeros.
        ValueError, TypeError: no MAC address.
    """
    wanted = None if address is None else addresses.mac(address)
    with session(target, "mac") as kernel:
        present = kernel.link.attributes.get(IFLA_ADDRESS, b"")
        if wanted is None or wanted == present:
            return present.hex(":") if present else ""
        kernel.set_link(rtnetlink.attribute(IFLA_ADDRESS, wanted))
        return wanted.hex(":")


def txqueuelen(target: Target, packets: int | None = None) -> int:
    """Return how many packets the kernel queues for the reader, after setting it if given.

    Raises:
        OSError: EINVAL, ERANGE.
        ValueError: 0, with which no packet would come.
        TypeError: no number.
    """
    if packets is not None:
        _check_number(packets, "a queue's length is a number of packets", "txqueuelen")
        if packets == 0:  # of other devices it means "no queue"; a tun drops everything then
            raise ValueError("a TUN/TAP device with a queue of length 0 gets no packet: give more")
    with session(target, "txqueuelen") as kernel:
        present = kernel.link.attributes.number(IFLA_TXQLEN) or 0
        if packets is None or packets == present:
            return present
        kernel.set_link(rtnetlink.u32(IFLA_TXQLEN, packets))
        return packets


def alias(target: Target, text: str | None = None) -> str:
    """Return the device's alias, a note that ``ip link`` shows, after setting it if given; "" none.

    Raises:
        ValueError, TypeError: more than 255 bytes, or no text.
    """
    if text is not None:
        if not isinstance(text, str):
            raise TypeError(f"an alias is text, not {text!r}")
        if len(text.encode("utf-8", "surrogatepass")) > _MOST_ALIAS or not text.isprintable():
            raise ValueError(f"an alias has at most {_MOST_ALIAS} bytes, and can be printed")
    with session(target, "alias") as kernel:
        present = kernel.link.attributes.text(IFLA_IFALIAS) or ""
        if text is None or text == present:
            return present
        kernel.set_link(rtnetlink.text(IFLA_IFALIAS, text))
        return text


def master(target: Target, bridge: str | None = None) -> str:
    """Return the bridge (or bond, ...) that a TAP is a port of, "" for none; set it if given.

    Args:
        target: the device.
        bridge: the name of an interface of the device's network namespace; "" takes it out.

    Raises:
        OSError: ENODEV there is no such interface; EOPNOTSUPP or EINVAL: it has no ports, or
            takes none of this kind (a bridge takes no TUN).
    """
    if bridge is not None and bridge != "":
        check_name(bridge)
    with session(target, "master") as kernel:
        present = kernel.link.attributes.number(IFLA_MASTER) or 0
        if bridge is not None:
            wanted = netlink.index_of(bridge) if bridge else 0
            if wanted != present:
                kernel.set_link(rtnetlink.u32(IFLA_MASTER, wanted))
            return bridge
        if not present:
            return ""
        return kernel.link_of(present).attributes.text(IFLA_IFNAME) or ""


def rename(target: Target, name: str) -> None:
    """Give the device another name. Linux before 6.2 wants it to be down.

    Raises:
        OSError: EEXIST another interface has the name, EBUSY the device is up, EINVAL no name.
    """
    check_name(name)
    with session(target, "rename") as kernel:
        if not name or "%" in name:
            raise OSError(
                errno.EINVAL, "a new name is complete: not empty, and no pattern", kernel.name
            )
        if name != kernel.name:
            kernel.set_link(rtnetlink.text(IFLA_IFNAME, name))


def move(target: Target, namespace: Namespace) -> None:
    """Move the device to another network namespace; it arrives down, without addresses and routes.

    Args:
        target: the device.
        namespace: where to: a name, a path, or the pid of a process in it.

    Raises:
        OSError: ENOENT, ESRCH there is no such namespace; EEXIST it has an interface of this
            name; EPERM.
    """
    where = netns.opened(namespace)
    try:
        with session(target, "move") as kernel:
            if netns.inode(where) != netns.inode():
                kernel.set_link(rtnetlink.u32(IFLA_NET_NS_FD, where))
    finally:
        os.close(where)


def ifindex(target: Target) -> int:
    """Return the kernel's number of the device, in its network namespace.

    Raises:
        OSError: ENODEV.
    """
    return netlink.place(target)[1]


def delete(target: Target) -> None:
    """Delete the device (RTM_DELLINK), whoever holds descriptors of it and though it be persistent.

    Raises:
        OSError: ENODEV, EPERM.
    """
    with session(target, "delete") as kernel:
        kernel.delete()


def statistics(target: Target) -> dict[str, int]:
    """Return the kernel's counters of the device, from the kernel's side.

    ``tx_packets`` and ``tx_bytes`` were read from the device; ``tx_dropped`` found its queue
    full, no reader, or were refused by a filter. ``rx_packets`` and ``rx_bytes`` were written to
    it; ``rx_dropped`` and ``rx_errors`` the kernel would not have.
    """
    with session(target, "ask for statistics") as kernel:
        packed = kernel.link.told(IFLA_STATS64)
    counters = struct.unpack_from(f"={len(_COUNTERS)}Q", packed)
    return {name: counters[at] for name, at in _COUNTERS.items()}


def _check_number(value: Any, what: str, operation: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{what}, not {value!r}")
    if not 0 <= value < 1 << 32:
        raise explain(errno.EINVAL, operation)
