"""Addresses and routes as terms that travel in messages: worker and caller both register them."""

from __future__ import annotations

import functools
from typing import Any, cast

from supervisor.lowlevel import FIRST_CODE, extend_codec
from tuncer.tunctl import Address, Route
from tuncer.tunctl import address as addresses

_ADDRESS, _ROUTE, PIPELINE_REF = range(FIRST_CODE, FIRST_CODE + 3)


def _pack_address(found: Address) -> list[Any]:
    texts = (None if value is None else str(value) for value in found[:4])
    return [*texts, sorted(found.flags)]


def _address(fields: list[Any]) -> Address:
    interface, peer, limit, scope, flags = fields
    return Address(
        addresses.interface(interface),
        None if peer is None else addresses.host(peer),
        None if limit is None else cast("Any", addresses.host(limit)),
        scope,
        frozenset(flags),
    )


def _pack_route(found: Route) -> list[Any]:
    return [*(None if value is None else str(value) for value in found[:3]), *found[3:]]


def _route(fields: list[Any]) -> Route:
    destination, gateway, source, metric, table, protocol = fields
    return Route(
        addresses.network(destination),
        None if gateway is None else addresses.host(gateway),
        None if source is None else addresses.host(source),
        metric,
        table,
        protocol,
    )


@functools.cache
def register() -> None:
    """Let addresses and routes travel in this process's messages."""
    extend_codec(_ADDRESS, Address, _pack_address, _address)
    extend_codec(_ROUTE, Route, _pack_route, _route)
