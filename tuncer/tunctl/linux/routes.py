"""Routes through a device. Source: rtnetlink(7), ip-route(8)."""

from __future__ import annotations

import errno
import ipaddress
from typing import Any, NamedTuple

from tuncer.tunctl import address as addresses
from tuncer.tunctl.address import AddressLike, NetworkLike
from tuncer.tunctl.errors import explain
from tuncer.tunctl.linux.netlink import FAMILY, Session, Target, session

_LINK = 253  # RT_SCOPE_LINK: whoever has the address is reached directly
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
        if any(_is(found, wanted) for found in present(kernel)):
            return
        kernel.ip.route("add", oif=kernel.index, **_route_attributes(wanted))


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
        for found in present(kernel):
            if _covers(found, wanted, metric):
                kernel.ip.route("del", oif=kernel.index, **_route_attributes(found))
                return
        raise explain(errno.ESRCH, "route", kernel.name)


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
    usual = 0 if wanted.destination.version == 4 else _IPV6_METRIC  # noqa: PLR2004
    return (
        _covers(found, wanted)
        and found.gateway == wanted.gateway
        and found.metric == (wanted.metric or usual)
    )


def _route_attributes(route: Route) -> dict[str, Any]:
    """Return a route as pyroute2 wants it. Pure."""
    wanted: dict[str, Any] = {
        "family": FAMILY[route.destination.version],
        "dst": str(route.destination),
        "table": route.table,
    }
    if route.gateway is None and route.destination.version == 4:  # noqa: PLR2004
        wanted["scope"] = _LINK
    if route.gateway is not None:
        wanted["gateway"] = str(route.gateway)
    if route.source is not None:
        wanted["prefsrc"] = str(route.source)
    if route.metric:
        wanted["priority"] = route.metric
    return wanted


def present(kernel: Session) -> list[Route]:
    """Return the routes through a device, now."""
    return [
        _parsed_route(message)
        for family in FAMILY.values()
        for message in kernel.ip.get_routes(family=family, oif=kernel.index)
        if message["type"] == _UNICAST
    ]


def _parsed_route(message: Any) -> Route:
    """Make a ``Route`` of what the kernel tells. Pure."""
    version = 4 if message["family"] == FAMILY[4] else 6
    everything = "0.0.0.0" if version == 4 else "::"  # noqa: PLR2004, S104
    base = message.get_attr("RTA_DST") or everything
    addressed = [message.get_attr(name) for name in ("RTA_GATEWAY", "RTA_PREFSRC")]
    gateway, source = (None if a is None else ipaddress.ip_address(a) for a in addressed)
    return Route(
        ipaddress.ip_network(f"{base}/{message['dst_len']}"),
        gateway,
        source,
        message.get_attr("RTA_PRIORITY") or 0,
        message.get_attr("RTA_TABLE") or message["table"],
        message["proto"],
    )
