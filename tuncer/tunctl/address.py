"""Addresses as users write them, made into what the kernel takes. Pure."""

import ipaddress
from typing import TypeAlias

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Interface: TypeAlias = ipaddress.IPv4Interface | ipaddress.IPv6Interface
AddressLike: TypeAlias = str | Address | Interface

DEFAULT_PREFIX = {4: 24, 6: 64}
"""Prefix length of an address given without one, by IP version."""


def interface(address: AddressLike, prefix: int | str | None = None) -> Interface:
    """Make an interface address of ``"10.0.0.1"``, ``"10.0.0.1/24"``, ``("fd00::1", 64)``, ...

    Args:
        address: text, or an object of ``ipaddress``.
        prefix: prefix length in bits or an IPv4 netmask, if the address carries none.
            Without either it is 24 bits for IPv4 and 64 bits for IPv6.

    Raises:
        ValueError: no IP address, a prefix out of range, or two different prefixes.
        TypeError: neither text nor an object of ``ipaddress``.
    """
    if isinstance(address, (bytes, int)) or address is None:
        raise TypeError(f"an address is text or an ipaddress object, not {address!r}")
    text = str(address)
    try:
        if "/" not in text:
            single = ipaddress.ip_address(text)
            bits = DEFAULT_PREFIX[single.version] if prefix is None else prefix
            return ipaddress.ip_interface(f"{single}/{bits}")
        given = ipaddress.ip_interface(text)
        if prefix is None or ipaddress.ip_interface(f"{given.ip}/{prefix}") == given:
            return given
    except ValueError as error:
        written = text if prefix is None else f"{text} with prefix {prefix}"
        raise ValueError(f"{written!r} is no IP address with a prefix: {error}") from error
    raise ValueError(f"{given} has a prefix already, and {prefix} is another one")


def host(address: AddressLike, version: int | None = None) -> Address:
    """Make a single address, such as a peer's or a broadcast one.

    Raises:
        ValueError: no IP address, or not of this IP version.
        TypeError: neither text nor an object of ``ipaddress``.
    """
    if isinstance(address, (bytes, int)) or address is None:
        raise TypeError(f"an address is text or an ipaddress object, not {address!r}")
    try:
        single = ipaddress.ip_address(str(address))
    except ValueError as error:
        raise ValueError(f"{str(address)!r} is no IP address: {error}") from error
    if version is not None and single.version != version:
        raise ValueError(f"{single} is not an IPv{version} address")
    return single
