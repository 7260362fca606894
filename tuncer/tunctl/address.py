"""Addresses as users write them, made into what the kernel takes. Pure."""

import ipaddress
import re
from typing import TypeAlias

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Interface: TypeAlias = ipaddress.IPv4Interface | ipaddress.IPv6Interface
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
AddressLike: TypeAlias = str | Address | Interface
NetworkLike: TypeAlias = str | Network | Address

_MAC_BYTES = 6
_OCTET = re.compile("[0-9A-Fa-f]{1,2}", re.ASCII)

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


def network(destination: NetworkLike, version: int = 4) -> Network:
    """Make a network, the destination of a route.

    Args:
        destination: text, or an object of ``ipaddress``; a bare address is a network of its own.
        version: of IP, that ``"default"`` is meant of.

    Raises:
        ValueError: no network, or bits set beyond its prefix.
        TypeError: neither text nor an object of ``ipaddress``.
    """
    if isinstance(destination, (bytes, int)) or destination is None:
        raise TypeError(f"a network is text or an ipaddress object, not {destination!r}")
    text = str(destination)
    if text == "default":
        return ipaddress.ip_network("0.0.0.0/0" if version == 4 else "::/0")
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is no IP network: {error}") from error


def mac(address: str) -> bytes:
    """Make the 6 bytes of a MAC address such as ``"02:00:00:00:00:01"``.

    Raises:
        ValueError: no MAC address.
        TypeError: no text.
    """
    if not isinstance(address, str):
        raise TypeError(f"a MAC address is text, not {address!r}")
    parts = address.replace("-", ":").split(":")
    if len(parts) != _MAC_BYTES or not all(_OCTET.fullmatch(part) for part in parts):
        raise ValueError(f"{address!r} is no MAC address: six octets such as 02:00:00:00:00:01")
    return bytes(int(part, 16) for part in parts)
