"""Addresses, MACs and networks, however they are written."""

import contextlib
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuncer.tunctl import Address
from tuncer.tunctl import address as addresses
from tuncer.tunctl.address import interface
from tuncer.tunctl.linux import addresses as ip_addresses

MAC = st.lists(st.integers(0, 255), min_size=6, max_size=6)


@given(MAC, st.sampled_from([":", "-"]), st.booleans())
def test_a_mac_is_read_however_it_is_written(octets: list[int], mark: str, upper: bool) -> None:
    text = mark.join(f"{octet:02x}" for octet in octets)
    assert addresses.mac(text.upper() if upper else text) == bytes(octets)


@given(st.text(max_size=24))
def test_what_is_no_mac_is_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert len(addresses.mac(text)) == 6


@given(st.ip_addresses(), st.integers(0, 128), st.booleans())
def test_a_network_is_read_or_refused(
    base: ipaddress.IPv4Address | ipaddress.IPv6Address, prefix: int, strict: bool
) -> None:
    prefix %= base.max_prefixlen + 1
    expected = ipaddress.ip_network(f"{base}/{prefix}", strict=False)
    assert addresses.network(str(expected)) == addresses.network(expected) == expected
    if base != expected.network_address:
        with pytest.raises(ValueError, match="no IP network"):
            addresses.network(f"{base}/{prefix}")


@given(st.ip_addresses(v=4), st.integers(0, 32), st.booleans())
def test_an_address_gets_the_broadcast_of_its_network(
    base: ipaddress.IPv4Address, prefix: int, with_peer: bool
) -> None:
    made = ip_addresses._wanted(base, prefix, peer="10.9.9.9" if with_peer else None)
    assert made.interface == ipaddress.ip_interface(f"{base}/{prefix}")
    network = made.interface.network
    expected = None if with_peer or prefix >= 31 else network.broadcast_address
    assert (made.broadcast, made.scope) == (None, "global")
    assert ip_addresses._with_broadcast(made) == made._replace(broadcast=expected)
    assert ip_addresses._is_as_wanted(ip_addresses._with_broadcast(made), made)
    assert isinstance(made, Address)


@given(st.ip_addresses(), st.integers(0, 128))
def test_an_address_is_read_the_same_however_it_is_written(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, prefix: int
) -> None:
    prefix %= address.max_prefixlen + 1
    expected = ipaddress.ip_interface(f"{address}/{prefix}")
    assert interface(str(address), prefix) == expected
    assert interface(f"{address}/{prefix}") == expected
    assert interface(address, prefix) == expected
    assert interface(expected) == expected
