"""TUN/TAP interfaces by Linux's system calls.

Sources: ``linux/if_tun.h``, the kernel's ``Documentation/networking/tuntap.rst`` and
``drivers/net/tun.c`` for the ioctls; rtnetlink(7) for addresses and links.
"""

import contextlib
import errno
import fcntl
import grp
import os
import pwd
import socket
import struct
from collections.abc import Iterator
from typing import Any, TypeAlias

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from tuncer.tunctl import address as addresses
from tuncer.tunctl.errors import CLONE_DEVICE, check_name, explain
from tuncer.tunctl.flags import REPORTED, Flag, parse

Target: TypeAlias = int | str
"""A device: the descriptor attached to it, or its name."""

_TUNSETIFF = 0x400454CA
_TUNSETPERSIST = 0x400454CB
_TUNSETOWNER = 0x400454CC
_TUNSETGROUP = 0x400454CE
_TUNSETOFFLOAD = 0x400454D0
_TUNGETIFF = 0x800454D2
_TUNGETDEVNETNS = 0x54E3
_SIOCGIFFLAGS = 0x8913  # netdevice(7)

_IFREQ = struct.Struct("16sH22x")  # struct ifreq of linux/if.h: ifr_name, ifr_flags, the rest
_IFF_UP = 0x1
_INFO_DATA = {
    "IFLA_TUN_VNET_HDR": Flag.VNET_HDR,
    "IFLA_TUN_PERSIST": Flag.PERSIST,
    "IFLA_TUN_MULTI_QUEUE": Flag.MULTI_QUEUE,
}
_IPV6_MIN_MTU = 1280  # RFC 8200, section 5
_NO_ID = 0xFFFFFFFF  # (uid_t) -1, which means no user


def create(name: str = "", flags: int = Flag.TAP | Flag.NO_PI) -> int:
    """Create a TUN/TAP interface, or attach to one that exists.

    The device goes when the descriptor and its duplicates are closed, unless it is persistent.

    Args:
        name: at most 15 bytes; empty: the kernel chooses ``tap0``, ``tun0``, ...; one ``%d``
            becomes the first free number.
        flags: of ``Flag``, with exactly one of TUN and TAP.

    Returns:
        A descriptor, non-blocking and close-on-exec: a read gives one packet, a write sends one.

    Raises:
        OSError: with errno, a sentence on how to mend it, and the name.
        ValueError: flags that are none, or not exactly one of TUN and TAP.
    """
    wanted = parse(flags)
    check_name(name)
    try:
        fd = os.open(CLONE_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise explain(error.errno or 0, "open", name or CLONE_DEVICE) from error
    try:
        _attach(fd, name, wanted)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _attach(fd: int, name: str, wanted: Flag) -> None:
    try:
        fcntl.ioctl(fd, _TUNSETIFF, _IFREQ.pack(name.encode(), wanted))
    except OSError as error:
        raise explain(error.errno or 0, "attach", name) from error
    granted = _tungetiff(fd)[1]
    if (granted ^ wanted) & REPORTED:
        # An existing device keeps flags of its own, and packets are framed by those.
        odd = Flag((granted ^ wanted) & REPORTED)
        raise OSError(
            errno.EINVAL,
            f"asked for {wanted!r} the kernel gave {granted!r}, which differs in {odd!r}:"
            " ask for what the device has, or delete it first",
            name,
        )
    # Offload that an earlier user switched on stays with a persistent device, and would hand
    # super-packets of 64 KiB to somebody who expects packets of the MTU's size.
    fcntl.ioctl(fd, _TUNSETOFFLOAD, 0)


def devname(fd: int) -> str:
    """Return the name of the device that a descriptor is attached to, as it is now.

    Raises:
        OSError: EBADFD when the device was deleted.
    """
    return _tungetiff(fd)[0]


def flags(target: Target) -> Flag:
    """Return what the kernel says of the device.

    TUNGETIFF sets the bit of NO_PI also when no filter is attached (``IFF_NOFILTER`` has the same
    value), so packet information is asked of rtnetlink.

    Raises:
        OSError: EBADFD when the device was deleted, ENODEV when no TUN/TAP device has the name.
    """
    if isinstance(target, str):
        return _flags_by_name(target)
    name, bits = _tungetiff(target)
    if not _is_here(target):
        return bits  # nobody here can tell NO_PI apart
    return (bits & ~Flag.NO_PI) | (_flags_by_name(name) & Flag.NO_PI)


def _flags_by_name(name: str) -> Flag:
    check_name(name)
    with _rtnetlink() as ip, _explained("ask for flags", name):
        link = ip.get_links(_index(name))[0]
        if link.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") != "tun":
            raise OSError(errno.ENODEV, "this is no TUN/TAP device", name)
        data = link.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA")
    found = Flag(data.get_attr("IFLA_TUN_TYPE"))
    if not data.get_attr("IFLA_TUN_PI"):
        found |= Flag.NO_PI
    for attribute, flag in _INFO_DATA.items():
        if data.get_attr(attribute):
            found |= flag
    return found


def _tungetiff(fd: int) -> tuple[str, Flag]:
    try:
        raw, bits = _IFREQ.unpack(fcntl.ioctl(fd, _TUNGETIFF, bytes(_IFREQ.size)))
    except OSError as error:
        raise explain(error.errno or 0, "ask for the device's name") from error
    return raw.rstrip(b"\0").decode(), Flag(bits & sum(Flag))


def persist(target: Target, on: bool = True) -> None:
    """Let the device stay, or no longer stay, when its last descriptor is closed.

    Raises:
        OSError: EBUSY if it is given by name while another process is attached.
    """
    _ioctl(target, _TUNSETPERSIST, int(bool(on)), "persist")


def owner(target: Target, user: int | str) -> None:
    """Let a user attach to the device without CAP_NET_ADMIN: a number or a login name.

    Raises:
        KeyError: no user of that name.
        OSError: EPERM without CAP_NET_ADMIN.
    """
    uid = pwd.getpwnam(user).pw_uid if isinstance(user, str) else user
    _ioctl(target, _TUNSETOWNER, _identity(uid), "owner")


def group(target: Target, group: int | str) -> None:
    """Let a group attach to the device without CAP_NET_ADMIN: a number or a name.

    Raises:
        KeyError: no group of that name.
        OSError: EPERM without CAP_NET_ADMIN.
    """
    gid = grp.getgrnam(group).gr_gid if isinstance(group, str) else group
    _ioctl(target, _TUNSETGROUP, _identity(gid), "group")


def _identity(number: int) -> int:
    if not 0 <= number < _NO_ID:
        raise ValueError(f"{number} is no user or group id")
    return number - (1 << 32) if number >= 1 << 31 else number  # fcntl.ioctl takes a C int


def _ioctl(target: Target, request: int, argument: int, operation: str) -> None:
    with attached(target) as fd:
        try:
            fcntl.ioctl(fd, request, argument)
        except OSError as error:
            raise explain(error.errno or 0, operation, _name(target)) from error


@contextlib.contextmanager
def attached(target: Target) -> Iterator[int]:
    """Give a descriptor of a device: the one that was given, or for a name one of its own."""
    if isinstance(target, int):
        yield target
        return
    fd = create(target, flags(target) & REPORTED)
    try:
        yield fd
    finally:
        os.close(fd)


def up(
    target: Target,
    address: addresses.AddressLike | None = None,
    prefix: int | str | None = None,
) -> None:
    """Bring the device up, with an address if one is given.

    Args:
        target: the device.
        address: ``"10.0.0.1"``, ``"10.0.0.1/24"``, ``"fd00::1/64"`` or an object of ``ipaddress``.
        prefix: its prefix length in bits, if the address carries none; without either 24 (IPv4)
            or 64 (IPv6).

    Raises:
        OSError: ENODEV, EPERM, EACCES (IPv6 disabled), EINVAL (MTU under 1280 for IPv6), ...
        ValueError, TypeError: no address.
    """
    interface = None if address is None else addresses.interface(address, prefix)
    name = _name(target)
    with _rtnetlink() as ip, _explained("address", name):
        index = _index(name)
        if interface is not None:
            _check_ipv6(ip, index, name, interface)
            _set_address(ip, index, interface)
        ip.link("set", index=index, state="up")


def down(target: Target) -> None:
    """Take the device down: it keeps its IPv4 addresses, and loses its IPv6 ones and its routes.

    Raises:
        OSError: ENODEV, EPERM.
    """
    _set_link(target, "down", state="down")


def dstaddr(target: Target, peer: addresses.AddressLike) -> None:
    """Set the other end's address of a point-to-point link, beside the device's first own one.

    Raises:
        OSError: EADDRNOTAVAIL if the device has no address of that family.
        ValueError, TypeError: no address.
    """
    other = addresses.host(peer)
    _readdress(target, other.version, address=str(other), prefixlen=other.max_prefixlen)


def broadcast(target: Target, address: addresses.AddressLike) -> None:
    """Set the broadcast address of the device's first IPv4 address.

    Raises:
        OSError: EADDRNOTAVAIL if the device has no IPv4 address.
        ValueError, TypeError: no IPv4 address.
    """
    _readdress(target, 4, broadcast=str(addresses.host(address, version=4)))


def mtu(target: Target, size: int | None = None) -> int:
    """Return the device's MTU in bytes, after setting it if a size is given.

    Raises:
        OSError: EINVAL if the size is out of range; also under 1280 on a device with IPv6
            addresses, which the kernel would silently take away.
    """
    if size is not None and (isinstance(size, bool) or not isinstance(size, int)):
        raise TypeError(f"an MTU is a number of bytes, not {size!r}")
    name = _name(target)
    with _rtnetlink() as ip, _explained("mtu", name):
        index = _index(name)
        if size is not None:
            if size < _IPV6_MIN_MTU and list(_global_ipv6(ip, index)):
                raise OSError(
                    errno.EINVAL,
                    f"IPv6 needs an MTU of {_IPV6_MIN_MTU} or more (RFC 8200): remove the device's"
                    " IPv6 addresses first",
                    name,
                )
            ip.link("set", index=index, mtu=size)
        return int(ip.get_links(index)[0].get_attr("IFLA_MTU"))


def txqueuelen(target: Target, packets: int) -> None:
    """Set how many packets the kernel queues for the reader.

    Raises:
        OSError: ENODEV, EPERM, ERANGE.
    """
    _set_link(target, "txqueuelen", txqlen=packets)


def delete(target: Target) -> None:
    """Delete the device (RTM_DELLINK), whoever holds descriptors of it and though it be persistent.

    Raises:
        OSError: ENODEV, EPERM.
    """
    name = _name(target)
    with _rtnetlink() as ip, _explained("delete", name):
        ip.link("del", index=_index(name))


def ifindex(target: Target) -> int:
    """Return the kernel's number of the device.

    Raises:
        OSError: ENODEV.
    """
    return _index(_name(target))


def is_up(target: Target) -> bool:
    """Tell whether the device is administratively up (IFF_UP).

    Raises:
        OSError: ENODEV, EBADFD.
    """
    name = _name(target)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as any_socket:
        try:
            found = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, _IFREQ.pack(name.encode(), 0))
        except OSError as error:
            raise explain(error.errno or 0, "ask for the state", name) from error
    return bool(_IFREQ.unpack(found)[1] & _IFF_UP)


def transmitted(target: Target) -> tuple[int, int, int]:
    """Return the kernel's counters of what was read from the device: packets, bytes, drops.

    Drops are packets that found the queue full or the device without a reader.
    """
    name = _name(target)
    with _rtnetlink() as ip, _explained("ask for statistics", name):
        counters = ip.get_links(_index(name))[0].get_attr("IFLA_STATS64")
        return counters["tx_packets"], counters["tx_bytes"], counters["tx_dropped"]


def _name(target: Target) -> str:
    if isinstance(target, str):
        if not target:
            raise OSError(errno.EINVAL, "which device? the name is empty", target)
        return check_name(target)
    name = devname(target)
    if not _is_here(target):
        # Another interface may have the name here, and would be taken for this one.
        problem = "the device was moved to another network namespace: enter that one first"
        raise OSError(errno.ENODEV, problem, name)
    return name


def _is_here(fd: int) -> bool:
    """Tell whether a device is in the calling thread's network namespace; True if nobody knows."""
    try:
        theirs = fcntl.ioctl(fd, _TUNGETDEVNETNS)
    except OSError:
        return True  # Linux before 5.2, or no CAP_NET_ADMIN there
    try:
        return os.fstat(theirs).st_ino == os.stat("/proc/thread-self/ns/net").st_ino
    finally:
        os.close(theirs)


def _rtnetlink() -> Any:
    return IPRoute()


@contextlib.contextmanager
def _explained(operation: str, device: str) -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        raise explain(error.code, operation, device) from error
    except struct.error as error:
        raise explain(errno.EINVAL, operation, device) from error


def _index(name: str) -> int:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        raise explain(errno.ENODEV, "look up", name) from None


def _set_link(target: Target, operation: str, **attributes: Any) -> None:
    name = _name(target)
    with _rtnetlink() as ip, _explained(operation, name):
        ip.link("set", index=_index(name), **attributes)


def _set_address(ip: Any, index: int, interface: addresses.Interface) -> None:
    wanted: dict[str, Any] = {
        "address": str(interface.ip),
        "prefixlen": interface.network.prefixlen,
    }
    if interface.version == 4 and interface.network.prefixlen < 31:  # noqa: PLR2004 - RFC 3021
        wanted["broadcast"] = str(interface.network.broadcast_address)
    # "replace": up() twice with the same address is no error, as with the seed's SIOCSIFADDR.
    ip.addr("replace", index=index, **wanted)


def _check_ipv6(ip: Any, index: int, name: str, interface: addresses.Interface) -> None:
    """Say beforehand what the kernel would refuse by a bare EACCES or EINVAL."""
    if interface.version != 6:  # noqa: PLR2004
        return
    try:
        with open(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6", encoding="ascii") as file:
            disabled = file.read().strip() == "1"
    except FileNotFoundError:
        disabled = False
    size = int(ip.get_links(index)[0].get_attr("IFLA_MTU"))
    if size < _IPV6_MIN_MTU:
        raise OSError(
            errno.EINVAL,
            f"IPv6 needs an MTU of {_IPV6_MIN_MTU} or more (RFC 8200), and the device's is {size}:"
            " raise it with mtu()",
            name,
        )
    if disabled:
        raise explain(errno.EACCES, "address", name)


def _global_ipv6(ip: Any, index: int) -> Iterator[Any]:
    universe = 0  # RT_SCOPE_UNIVERSE: not the link-local ones, which nobody asked for
    return (a for a in ip.get_addr(family=10, index=index) if a["scope"] == universe)


def _readdress(target: Target, version: int, **changes: Any) -> None:
    """Replace the device's first address of a family by the same with changes."""
    name = _name(target)
    family = 4 if version == 4 else 6  # noqa: PLR2004
    with _rtnetlink() as ip, _explained("address", name):
        index = _index(name)
        numbers = {4: 2, 6: 10}  # AF_INET, AF_INET6
        present = [a for a in ip.get_addr(family=numbers[family], index=index) if a["scope"] == 0]
        if not present:
            raise explain(errno.EADDRNOTAVAIL, "address", name)
        first = present[0]
        local = first.get_attr("IFA_LOCAL") or first.get_attr("IFA_ADDRESS")
        wanted = {
            "local": local,
            "address": first.get_attr("IFA_ADDRESS"),
            "prefixlen": first["prefixlen"],
        }
        if first.get_attr("IFA_BROADCAST") is not None:
            wanted["broadcast"] = first.get_attr("IFA_BROADCAST")
        wanted |= changes
        if "address" in changes:
            wanted.pop("broadcast", None)  # a point-to-point link has none
        ip.addr("del", index=index, address=local, prefixlen=first["prefixlen"])
        ip.addr("add", index=index, **wanted)


__all__ = [
    "Target",
    "attached",
    "broadcast",
    "create",
    "delete",
    "devname",
    "down",
    "dstaddr",
    "flags",
    "group",
    "ifindex",
    "is_up",
    "mtu",
    "owner",
    "persist",
    "transmitted",
    "txqueuelen",
    "up",
]
