"""Routes through a device. Source: rtnetlink(7), ip-route(8)."""

from __future__ import annotations

import errno
import ipaddress
from typing import NamedTuple

from tuncer.tunctl import address as addresses
from tuncer.tunctl.address import AddressLike, NetworkLike
from tuncer.tunctl.errors import explain
from tuncer.tunctl.linux import netlink, rtnetlink
from tuncer.tunctl.linux.netlink import FAMILY, Session, Target, session
from tuncer.tunctl.linux.rtnetlink import Message, NetlinkError

_DESTINATION, _GATEWAY, _PRIORITY, _SOURCE, _TABLE = 1, 5, 6, 7, 15  # RTA_*
_UNIVERSE = 0  # RT_SCOPE_UNIVERSE
_LINK = 253  # RT_SCOPE_LINK: whoever has the address is reached directly
_FEW_TABLES = 256  # the structure has 8 bits for their number
_STATIC = 4  # RTPROT_STATIC
_SCOPE, _NOWHERE = 6, 255  # where it stands in the structure, and RT_SCOPE_NOWHERE: any
_ANY = 0  # of a route to delete: whatever its protocol or type
_MAIN = 254  # RT_TABLE_MAIN
_UNICAST = 1  # RTN_UNICAST: not what the kernel itself keeps for local, broadcast, multicast
BY_KERNEL = 2
"""RTPROT_KERNEL: routes that come and go with their addresses."""
_IPV6_METRIC = 1024  # of a route for which none was given


class Route(NamedTuple):
    """A route through a device."""

    destination: addresses.Network
    """0.0.0.0/0 or ::/0 is the default route."""
    gateway: addresses.Address | None = None
    source: addresses.Address | None = None
    """The address that packets of this host get (``ip route ... src``)."""
    metric: int = 0
    table: int = _MAIN
    protocol: int = 0
    """Who made it: 2 the kernel, 3 at boot, 4 statically (``RTPROT_*``)."""


def add_route(
    target: Target,
    destination: NetworkLike,
    gateway: AddressLike | None = None,
    *,
    source: AddressLike | None = None,
    metric: int | None = None,
    table: int | None = None,
) -> None:
    """Send what goes to a network through the device. It must be up; it is no error if it is so.

    Args:
        target: the device.
        destination: ``"10.1.0.0/16"``, ``"fd01::/48"``, an object of ``ipaddress``, or
            ``"default"`` (of IPv4, if the gateway does not say otherwise; ``"::/0"`` for IPv6).
        gateway: who passes it on; by default whoever has the address is reached directly.
        source: the address that packets of this host get.
        metric: among routes to the same network the lowest counts.
        table: a routing table's number; by default the main one.

    Raises:
        OSError: ENETDOWN the device is down, ENETUNREACH the gateway is not reached through it,
            EEXIST there is another route to this network, EINVAL.
        ValueError, TypeError: no network or address.
    """
    wanted = _route(destination, gateway, source, metric, table)
    with session(target, "route") as kernel:
        head, attributes = _packed(wanted, kernel.index, _STATIC, _UNICAST)
        try:
            kernel.socket.change(rtnetlink.NEWROUTE, head, attributes, new=True)
        except NetlinkError as error:
            # Only then all routes are looked at: for each of thousands that would take minutes. Who
            # may change nothing may find the route there.
            may_be_there = error.code in {errno.EEXIST, errno.EPERM}
            if not (may_be_there and any(_is(found, wanted) for found in present(kernel))):
                raise


def remove_route(
    target: Target,
    destination: NetworkLike,
    gateway: AddressLike | None = None,
    *,
    metric: int | None = None,
    table: int | None = None,
) -> None:
    """Remove a route through the device.

    Raises:
        OSError: ESRCH there is none like that.
        ValueError, TypeError: no network or address.
    """
    wanted = _route(destination, gateway, None, metric, table)
    with session(target, "route") as kernel:
        if metric == 0 and not any(_covers(found, wanted, 0) for found in present(kernel)):
            raise explain(errno.ESRCH, "route", kernel.name)  # to the kernel 0 is any metric
        # What is not given may be anything: the kernel takes the first route that matches.
        head, attributes = _packed(wanted, kernel.index, _ANY, _ANY)
        anywhere = head[:_SCOPE] + bytes([_NOWHERE]) + head[_SCOPE + 1 :]
        kernel.socket.change(rtnetlink.DELROUTE, anywhere, attributes)


def list_routes(target: Target) -> list[Route]:
    """Return the routes through the device, of all tables but the kernel's ``local`` one.

    Raises:
        OSError: ENODEV.
    """
    with session(target, "route") as kernel:
        return present(kernel)


def _route(
    destination: NetworkLike,
    gateway: AddressLike | None,
    source: AddressLike | None,
    metric: int | None,
    table: int | None,
) -> Route:
    """Make a ``Route`` of what a user asks for; 0 where nothing is asked. Pure."""
    through = None if gateway is None else addresses.host(gateway)
    network = addresses.network(destination, 4 if through is None else through.version)
    if through is not None and through.version != network.version:
        raise ValueError(f"{through} is no gateway for {network}: the IP versions differ")
    own = None if source is None else addresses.host(source, network.version)
    for number in (metric, table):
        if number is not None and (isinstance(number, bool) or not isinstance(number, int)):
            raise TypeError(f"a metric or table is a number, not {number!r}")
        if number is not None and not 0 <= number < 1 << 32:
            raise ValueError(f"a metric or table is a number of 32 bits, not {number}")
    return Route(network, through, own, metric or 0, table or _MAIN)


def _covers(found: Route, wanted: Route, metric: int | None = None) -> bool:
    """Tell whether a route is the one that is meant: what was not said may be anything. Pure."""
    return (
        found.destination == wanted.destination
        and wanted.gateway in {None, found.gateway}
        and wanted.source in {None, found.source}
        and metric in {None, found.metric}
        and wanted.table == found.table
    )


def _is(found: Route, wanted: Route) -> bool:
    """Tell whether a route is what is asked for, and not only like it. Pure."""
    usual = 0 if wanted.destination.version == 4 else _IPV6_METRIC
    return (
        _covers(found, wanted)
        and found.gateway == wanted.gateway
        and found.metric == (wanted.metric or usual)
    )


def _packed(route: Route, index: int, protocol: int, kind: int) -> tuple[bytes, bytes]:
    """Return a route as the kernel wants it: structure, attributes. Pure."""
    network = route.destination
    direct = route.gateway is None and network.version == 4
    table = route.table if route.table < _FEW_TABLES else 0
    numbers = FAMILY[network.version], network.prefixlen, 0, 0, table, protocol
    head = rtnetlink.ROUTE.pack(*numbers, _LINK if direct else _UNIVERSE, kind, 0)
    wanted = rtnetlink.u32(netlink.RTA_OIF, index) + rtnetlink.u32(_TABLE, route.table)
    if network.prefixlen:
        wanted += rtnetlink.attribute(_DESTINATION, network.network_address.packed)
    if route.gateway is not None:
        wanted += rtnetlink.attribute(_GATEWAY, route.gateway.packed)
    if route.source is not None:
        wanted += rtnetlink.attribute(_SOURCE, route.source.packed)
    if route.metric:
        wanted += rtnetlink.u32(_PRIORITY, route.metric)
    return head, wanted


def present(kernel: Session) -> list[Route]:
    """Return the routes through a device, now."""
    return [
        _parsed_route(message)
        for version in FAMILY
        for message in kernel.routes(version)
        if message.head[7] == _UNICAST
    ]


def _parsed_route(message: Message) -> Route:
    """Make a ``Route`` of what the kernel tells. Pure."""
    family, prefix, _, _, table, protocol, *_ = message.head
    attributes = message.attributes
    everything = bytes(4 if family == FAMILY[4] else 16)
    addressed = [attributes.get(kind) for kind in (_GATEWAY, _SOURCE)]
    gateway, source = (None if a is None else ipaddress.ip_address(a) for a in addressed)
    return Route(
        ipaddress.ip_network((attributes.get(_DESTINATION, everything), prefix)),
        gateway,
        source,
        attributes.number(_PRIORITY) or 0,
        attributes.number(_TABLE) or table,
        protocol,
    )
