"""Settings of a device that outlive a descriptor: who may attach, carrier, link type, addresses.

Source: ``linux/if_tun.h``, and ``drivers/net/tun.c``.
"""

from __future__ import annotations

import grp
import pwd
from collections.abc import Callable, Iterable

from tuncer.tunctl import address as addresses
from tuncer.tunctl.errors import check_bool
from tuncer.tunctl.linux import ioctls, netlink
from tuncer.tunctl.linux.device import IFLA_TUN_GROUP, IFLA_TUN_OWNER, attached, tun_data
from tuncer.tunctl.linux.filter import set_receive_filter
from tuncer.tunctl.linux.link import IFLA_CARRIER
from tuncer.tunctl.linux.netlink import Target

_NO_ID = 0xFFFFFFFF  # (uid_t) -1, which means no user
_MOST_ADDRESSES = 1000  # of a receive filter; the kernel takes 8 exactly, then a hash


def persist(target: Target, on: bool = True) -> None:
    """Let the device stay, or no longer stay, when its last descriptor is closed.

    ``flags`` tells whether it does.

    Raises:
        OSError: EBUSY if it is given by name while another process is attached.
        TypeError: neither True nor False.
    """
    check_bool(on, "persist")
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
    number = user_id(user)
    if number is not None:
        with attached(target) as fd:
            ioctls.call(fd, ioctls.TUNSETOWNER, _argument(number), "owner")
    return _told(target, IFLA_TUN_OWNER)


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
    number = group_id(group)
    if number is not None:
        with attached(target) as fd:
            ioctls.call(fd, ioctls.TUNSETGROUP, _argument(number), "group")
    return _told(target, IFLA_TUN_GROUP)


def _told(target: Target, attribute: int) -> int | None:
    with netlink.session(target, "ask who may attach") as kernel:
        return tun_data(kernel, target).number(attribute)


def user_id(user: int | str | None) -> int | None:
    """Return the number of a user, who is told by it or by a login name; None for None.

    Raises:
        KeyError: no user of that name.
        ValueError, TypeError: no user id.
    """
    return _identity(user, "user", lambda name: pwd.getpwnam(name).pw_uid)


def group_id(group: int | str | None) -> int | None:
    """Return the number of a group, which is told by it or by its name; None for None.

    Raises:
        KeyError: no group of that name.
        ValueError, TypeError: no group id.
    """
    return _identity(group, "group", lambda name: grp.getgrnam(name).gr_gid)


def _identity(wanted: int | str | None, kind: str, find: Callable[[str], int]) -> int | None:
    if wanted is None:
        return None
    if isinstance(wanted, bool) or not isinstance(wanted, (int, str)):
        raise TypeError(f"a {kind} is a name or a number, not {wanted!r}")
    try:
        number = find(wanted) if isinstance(wanted, str) else wanted
    except (KeyError, ValueError):
        raise KeyError(f"there is no {kind} {wanted!r} on this host") from None
    if not 0 <= number < _NO_ID:
        raise ValueError(f"{number} is no user or group id")
    return number


def _argument(number: int) -> int:
    """Return what ``fcntl.ioctl`` takes, a C int."""
    return number - (1 << 32) if number >= 1 << 31 else number


def carrier(target: Target, on: bool | None = None) -> bool:
    """Return whether the link has a carrier, after setting it if a state is given.

    Source: TUNSETCARRIER, Linux 5.0. A device without carrier passes nothing on to its reader;
    ``ip`` shows NO-CARRIER.

    Raises:
        OSError: EBUSY if it is set by name while another process is attached.
        TypeError: neither True nor False.
    """
    if on is not None:
        check_bool(on, "carrier")
        with attached(target) as fd:
            ioctls.call(fd, ioctls.TUNSETCARRIER, ioctls.INT.pack(on), "carrier")
    with netlink.session(target, "ask for the carrier") as kernel:
        return kernel.link.told(IFLA_CARRIER) != b"\0"


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
        return kernel.link.type


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
    if isinstance(macs, (str, bytes)) or not isinstance(macs, Iterable):
        raise TypeError(f"a receive filter takes a list of MAC addresses, not {macs!r}")
    check_bool(all_multicast, "all_multicast")
    packed = [addresses.mac(one) for one in macs]
    if len(packed) > _MOST_ADDRESSES:
        raise ValueError(f"a receive filter has at most {_MOST_ADDRESSES} addresses")
    with attached(target) as fd:
        set_receive_filter(fd, packed, all_multicast)
