"""Addresses of a device. Source: rtnetlink(7), ip-address(8)."""

from __future__ import annotations

import errno
import ipaddress
from typing import Any, NamedTuple

from tuncer.tunctl import address as addresses
from tuncer.tunctl.address import AddressLike
from tuncer.tunctl.errors import check_bool, explain
from tuncer.tunctl.linux import link, routes, rtnetlink
from tuncer.tunctl.linux.netlink import FAMILY, Session, Target, session
from tuncer.tunctl.linux.rtnetlink import Message, NetlinkError

_SCOPES = {"global": 0, "site": 200, "link": 253, "host": 254, "nowhere": 255}
_SCOPE_NAMES = {number: name for name, number in _SCOPES.items()}
_FLAGS = {  # IFA_F_* of linux/if_addr.h
    0x01: "secondary",
    0x02: "nodad",
    0x04: "optimistic",
    0x08: "dadfailed",
    0x20: "deprecated",
    0x40: "tentative",
    0x80: "permanent",
    0x200: "noprefixroute",
}
_NODAD = 0x02
_PEER, _LOCAL, _BROADCAST, _ALL_FLAGS = 1, 2, 4, 8  # IFA_ADDRESS, _LOCAL, _BROADCAST, _FLAGS


class Address(NamedTuple):
    """An address of a device."""

    interface: addresses.Interface
    """Address and prefix; with a peer, the prefix is the peer's."""
    peer: addresses.Address | None = None
    """The other end of a point-to-point link."""
    broadcast: ipaddress.IPv4Address | None = None
    scope: str = "global"
    """"global", "site", "link", "host", or the number."""
    flags: frozenset[str] = frozenset()
    """Such as "permanent", "nodad", "tentative", "dadfailed", "secondary"."""


def up(
    target: Target,
    address: AddressLike | None = None,
    prefix: int | str | None = None,
    *,
    peer: AddressLike | None = None,
    broadcast: AddressLike | None = None,
    scope: str | int | None = None,
    nodad: bool = False,
    link_local: bool | None = None,
) -> None:
    """Bring the device up, with an address if one is given.

    Args:
        target: the device.
        address: ``"10.0.0.1"``, ``"10.0.0.1/24"``, ``"fd00::1/64"`` or an object of ``ipaddress``.
        prefix: its prefix length in bits, or a netmask, if the address carries none; without
            either 24 (IPv4) or 64 (IPv6).
        peer: as for ``add_address``.
        broadcast: as for ``add_address``.
        scope: as for ``add_address``.
        nodad: as for ``add_address``.
        link_local: False: the device gets no IPv6 link-local address by itself; True: it does.

    Raises:
        OSError: ENODEV, EPERM, EACCES (IPv6 disabled), EINVAL (MTU under 1280 for IPv6), ...
        ValueError, TypeError: no address.
    """
    check_bool(nodad, "nodad")
    if address is None and (nodad or any(x is not None for x in (prefix, peer, broadcast, scope))):
        raise TypeError("prefix, peer, broadcast, scope and nodad are an address's: give one")
    wanted = None
    if address is not None:
        wanted = _wanted(address, prefix, peer=peer, broadcast=broadcast, scope=scope, nodad=nodad)
    if link_local is not None:
        check_bool(link_local, "link_local")
    with session(target, "add an address") as kernel:
        if wanted is not None:
            _add(kernel, wanted)
        if link_local is not None:
            link.link_local(target, link_local)
        link.set_up(kernel)


def add_address(
    target: Target,
    address: AddressLike,
    prefix: int | str | None = None,
    *,
    peer: AddressLike | None = None,
    broadcast: AddressLike | None = None,
    scope: str | int | None = None,
    nodad: bool = False,
) -> None:
    """Add an address to the device; one that it has is changed to what is asked.

    An IPv4 address with another prefix or peer is another address. Changing one takes it away for
    a moment; the others, and the routes, stay.

    Args:
        target: the device.
        address: as for ``up``.
        prefix: as for ``up``; with a peer it is the peer's, and by default covers it alone.
        peer: the other end's address of a point-to-point link.
        broadcast: of IPv4; by default the network's, and none with a peer, /31 and /32.
        scope: of IPv4: "global", "site", "link", "host" or a number: where the address is valid;
            by default global. Of an IPv6 address the kernel finds it out itself.
        nodad: do not look whether somebody else has it (IPv6's duplicate address detection):
            without, it cannot be used in the first seconds.

    Raises:
        OSError: ENODEV, EPERM, EACCES (IPv6 disabled), EINVAL (MTU under 1280 for IPv6), ...
        ValueError, TypeError: what is wrong with the address.
    """
    wanted = _wanted(address, prefix, peer=peer, broadcast=broadcast, scope=scope, nodad=nodad)
    with session(target, "add an address") as kernel:
        _add(kernel, wanted)


def remove_address(target: Target, address: AddressLike, prefix: int | str | None = None) -> None:
    """Remove an address from the device.

    Args:
        target: the device.
        address: as for ``up``.
        prefix: its prefix. Without any, the address is removed whatever its prefix is.

    Raises:
        OSError: EADDRNOTAVAIL the device has no such address.
        ValueError, TypeError: no address.
    """
    exact = prefix is not None or "/" in str(address)
    wanted = addresses.interface(address, prefix)
    with session(target, "address") as kernel:
        for found in present(kernel):
            if found.interface == wanted or (not exact and found.interface.ip == wanted.ip):
                others = [one for one in present(kernel) if not _equals_but_for_flags(one, found)]
                _promote_others(kernel, found, others)
                _remove(kernel, found)
                return
        raise explain(errno.EADDRNOTAVAIL, "address", kernel.name)


def list_addresses(target: Target) -> list[Address]:
    """Return the device's addresses, IPv4 first, each family in the kernel's order.

    Raises:
        OSError: ENODEV.
    """
    with session(target, "address") as kernel:
        return present(kernel)


def dstaddr(target: Target, peer: AddressLike) -> None:
    """Set the other end's address of a point-to-point link, beside the device's first own one.

    Raises:
        OSError: EADDRNOTAVAIL if the device has no address of that family; EBUSY, of
            ``change_address``.
        ValueError, TypeError: no address.
    """
    other = addresses.host(peer)
    with session(target, "add an address") as kernel:
        old = first_address(present(kernel), other.version, kernel.name)
        _change(kernel, old, with_peer(old, other))


def broadcast(target: Target, address: AddressLike) -> None:
    """Set the broadcast address of the device's first IPv4 address.

    Raises:
        OSError: EADDRNOTAVAIL if the device has no IPv4 address; EBUSY, of ``change_address``.
        ValueError, TypeError: no IPv4 address.
    """
    wanted = ipaddress.IPv4Address(str(addresses.host(address, version=4)))
    with session(target, "add an address") as kernel:
        old = first_address(present(kernel), 4, kernel.name)
        _change(kernel, old, old._replace(broadcast=wanted))


def first_address(found: list[Address], version: int, device: str) -> Address:
    """Return the first address of an IP version that is valid everywhere.

    Raises:
        OSError: EADDRNOTAVAIL, there is none.
    """
    for address in found:
        if address.interface.version == version and address.scope == "global":
            return address
    problem = f"the device has no IPv{version} address yet: give it one by up()"
    raise OSError(errno.EADDRNOTAVAIL, problem, device)


def with_peer(address: Address, peer: addresses.Address) -> Address:
    """Return an address with another end. Pure."""
    interface = ipaddress.ip_interface(f"{address.interface.ip}/{peer.max_prefixlen}")
    return address._replace(interface=interface, peer=peer, broadcast=None)


def _wanted(
    address: AddressLike,
    prefix: int | str | None,
    *,
    peer: AddressLike | None = None,
    broadcast: AddressLike | None = None,
    scope: str | int | None = None,
    nodad: bool = False,
) -> Address:
    """Make an ``Address`` of what a user asks for. Pure."""
    if peer is not None and prefix is None and "/" not in str(address):
        prefix = addresses.host(address).max_prefixlen
    interface = addresses.interface(address, prefix)
    other = None if peer is None else addresses.host(peer, interface.version)
    if interface.version == 6 and broadcast is not None:
        raise ValueError(f"IPv6 has no broadcast: {broadcast}")
    if interface.version == 6 and scope is not None:
        raise ValueError(f"the kernel finds out the scope of an IPv6 address: {interface}")
    limit: Any = None if broadcast is None else addresses.host(broadcast, version=4)
    check_bool(nodad, "nodad")
    flags = frozenset({"nodad"} if nodad else ())
    return Address(interface, other, limit, _scope_name(scope), flags)


def _with_broadcast(wanted: Address) -> Address:
    """Return an address with its network's broadcast address, if it has one. Pure."""
    network = wanted.interface.network
    if (
        network.version == 6 or wanted.peer or wanted.broadcast or network.prefixlen > 30
    ):  # RFC 3021
        return wanted
    return wanted._replace(broadcast=ipaddress.IPv4Address(str(network.broadcast_address)))


def _is_as_wanted(found: Address, wanted: Address) -> bool:
    """Tell whether an address is as somebody wants it, who need not have said all. Pure."""
    return (
        (found.interface, found.peer) == (wanted.interface, wanted.peer)
        and wanted.broadcast in {None, found.broadcast}
        and (found.interface.version == 6 or wanted.scope == found.scope)
    )


def _scope_name(scope: str | int | None) -> str:
    if scope is None:
        return "global"
    number = _SCOPES.get(scope) if isinstance(scope, str) else scope
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= 255:
        raise ValueError(f"a scope is one of {', '.join(_SCOPES)}, or a number, not {scope!r}")
    return _SCOPE_NAMES.get(number, str(number))


def _packed(address: Address, index: int) -> tuple[bytes, bytes]:
    """Return an address of an interface as the kernel wants it: structure, attributes. Pure."""
    interface = address.interface
    scope = _SCOPES.get(address.scope)
    head = rtnetlink.ADDRESS.pack(
        FAMILY[interface.version],
        interface.network.prefixlen,
        _NODAD if "nodad" in address.flags else 0,
        int(address.scope) if scope is None else scope,
        index,
    )
    wanted = rtnetlink.attribute(_LOCAL, interface.ip.packed)
    wanted += rtnetlink.attribute(_PEER, (address.peer or interface.ip).packed)
    if address.broadcast is not None:
        wanted += rtnetlink.attribute(_BROADCAST, address.broadcast.packed)
    return head, wanted


def _put(kernel: Session, address: Address) -> None:
    kernel.socket.change(rtnetlink.NEWADDR, *_packed(address, kernel.index), new=True)


def _remove(kernel: Session, address: Address) -> None:
    kernel.socket.change(rtnetlink.DELADDR, *_packed(address, kernel.index))


def present(kernel: Session) -> list[Address]:
    """Return the addresses of a device, now."""
    return [_parsed(message) for version in FAMILY for message in kernel.addresses(version)]


def _parsed(message: Message) -> Address:
    """Make an ``Address`` of what the kernel tells. Pure."""
    _, prefix, flags, scope, _ = message.head
    attributes = message.attributes
    given = attributes.get(_PEER) or attributes[_LOCAL]
    local = attributes.get(_LOCAL) or given
    limit = attributes.get(_BROADCAST)
    bits = attributes.number(_ALL_FLAGS) or flags
    return Address(
        ipaddress.ip_interface((local, prefix)),
        None if given == local else ipaddress.ip_address(given),
        None if limit is None else ipaddress.IPv4Address(limit),
        _SCOPE_NAMES.get(scope, str(scope)),
        frozenset(name for bit, name in _FLAGS.items() if bits & bit),
    )


def _add(kernel: Session, wanted: Address) -> None:
    """Add an address unless it is there, just so: who may not change a device may use it."""
    for found in present(kernel):
        if _is_as_wanted(found, wanted):
            return
        if found.interface.ip == wanted.interface.ip and _is_changed_by(found, wanted):
            # The kernel would change nothing but lifetimes ("replace"), or have it twice.
            _change(kernel, found, _with_broadcast(wanted))
            return
    _check_ipv6(kernel, wanted.interface)
    whole = _with_broadcast(wanted)
    try:
        _put(kernel, whole)
    except NetlinkError as error:
        # gVisor's kernel knows no broadcast address. It says so when it has added the address.
        is_default = whole.broadcast is not None and wanted.broadcast is None
        added = error.code == errno.EOPNOTSUPP and any(
            found.interface == wanted.interface for found in present(kernel)
        )
        if not (is_default and added):
            raise


def _equals_but_for_flags(one: Address, other: Address) -> bool:
    """Tell whether two looks were at one address: its flags change as the kernel goes on (DAD)."""
    return one._replace(flags=frozenset()) == other._replace(flags=frozenset())


def _is_changed_by(found: Address, wanted: Address) -> bool:
    """Tell whether one is the other with changes: a device has an IPv6 address only once."""
    same_network = found.interface.network == wanted.interface.network
    return wanted.interface.version == 6 or (same_network and found.peer == wanted.peer)


def change_address(target: Target, old: Address, new: Address) -> None:
    """Put one address in the place of another. It is no error if it is so already.

    The kernel cannot change an address, so the old one is removed first. This function refuses if
    the kernel would delete routes with the old address.

    Args:
        target: the device.
        old: which goes, if it is there.
        new: which comes.

    Raises:
        OSError: EBUSY, routes rely on the old one; EINVAL, the kernel refuses the new one.
    """
    with session(target, "add an address") as kernel:
        _change(kernel, old, new)


def _change(kernel: Session, old: Address, new: Address) -> None:
    there = present(kernel)
    others = [one for one in there if not _equals_but_for_flags(one, old)]
    if len(others) < len(there):
        _check_scope(kernel, new, others)
        _check_routes(kernel, old, others)
        _promote_others(kernel, old, others)
        _remove(kernel, old)
    elif any(_is_as_wanted(found, new) for found in there):
        return
    try:
        _put(kernel, new)
    except BaseException:
        _put(kernel, old)
        raise


def _check_scope(kernel: Session, new: Address, others: list[Address]) -> None:
    network = new.interface.network
    for other in others if network.version == 4 else []:
        if other.interface.network == network and other.scope != new.scope:
            problem = f"all addresses of a network have one scope: {other.interface} is of scope"
            raise OSError(errno.EINVAL, f"{problem} {other.scope!r}", kernel.name)


def _check_routes(kernel: Session, old: Address, others: list[Address]) -> None:
    """Raise EBUSY if a removal of the address would delete routes that the kernel did not make.

    The kernel deletes the routes of which it is the source address; with the last IPv4 address,
    all IPv4 routes of the device.
    """
    version = old.interface.version
    last = version == 4 and not any(one.interface.version == 4 for one in others)
    for route in routes.present(kernel):
        if route.protocol == routes.BY_KERNEL or route.destination.version != version:
            continue
        if last or route.source == old.interface.ip:
            problem = f"the kernel cannot change {old.interface}, only take it away, and with it"
            mend = "remove the route first, or give peer and broadcast to up() before routes"
            raise OSError(
                errno.EBUSY, f"{problem} the route to {route.destination}: {mend}", kernel.name
            )


def _promote_others(kernel: Session, old: Address, others: list[Address]) -> None:
    """Have the further IPv4 addresses of a network stay when its first one goes.

    Otherwise the kernel deletes them too. Source: ``promote_secondaries`` of the kernel's
    ``Documentation/networking/ip-sysctl.rst``; systemd switches it on for all interfaces.
    """
    network = old.interface.network
    if network.version == 6 or "secondary" in old.flags:
        return
    rest = [one for one in others if one.interface.network == network]
    if not rest:
        return
    try:
        path = f"/proc/sys/net/ipv4/conf/{kernel.name}/promote_secondaries"
        with open(path, "w", encoding="ascii") as file:
            file.write("1")
    except OSError as error:
        problem = f"with {old.interface} the kernel would delete {rest[0].interface} too"
        mend = f"remove that first, or 'sysctl net.ipv4.conf.{kernel.name}.promote_secondaries=1'"
        raise OSError(errno.EBUSY, f"{problem}: {mend}", kernel.name) from error


def _check_ipv6(kernel: Session, interface: addresses.Interface) -> None:
    """Say beforehand what the kernel would refuse by a bare EACCES or EINVAL."""
    if interface.version != 6:
        return
    size = link.present_mtu(kernel)
    if size < link.IPV6_MIN_MTU:
        raise OSError(
            errno.EINVAL,
            f"IPv6 needs an MTU of {link.IPV6_MIN_MTU} or more (RFC 8200), and the device's is"
            f" {size}: raise it with mtu()",
            kernel.name,
        )
    try:
        with open(f"/proc/sys/net/ipv6/conf/{kernel.name}/disable_ipv6", encoding="ascii") as file:
            disabled = file.read().strip() == "1"
    except FileNotFoundError:
        return
    if disabled:
        raise explain(errno.EACCES, "add an address", kernel.name)
