"""Addresses and routes travel in messages."""

import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from supervisor.protocol import codec
from tuncer.protocol import codec_types
from tuncer.tunctl import Address, Route

V4, V6 = st.ip_addresses(v=4), st.ip_addresses(v=6)
TEXT = st.text(st.characters(codec="ascii", categories=["L"]), min_size=1, max_size=8)


def interface(draw: st.DrawFn, host: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    return f"{host}/{draw(st.integers(0, host.max_prefixlen))}"


@st.composite
def addresses(draw: st.DrawFn) -> Address:
    hosts = draw(st.sampled_from([V4, V6]))
    return Address(
        ipaddress.ip_interface(interface(draw, draw(hosts))),
        draw(st.none() | hosts),
        draw(st.none() | V4),
        draw(TEXT),
        frozenset(draw(st.lists(TEXT, max_size=3))),
    )


@st.composite
def routes(draw: st.DrawFn) -> Route:
    hosts = draw(st.sampled_from([V4, V6]))
    return Route(
        ipaddress.ip_network(interface(draw, draw(hosts)), strict=False),
        draw(st.none() | hosts),
        draw(st.none() | hosts),
        draw(st.none() | st.integers(0, 2**32 - 1)),
        draw(st.integers(0, 2**32 - 1)),
        draw(st.integers(0, 255)),
    )


@given(addresses() | routes())
def test_it_arrives_as_it_was_sent(sent: Address | Route) -> None:
    codec_types.register()
    arrived = codec.unpack(codec.pack([sent]))[0]
    assert arrived == sent
    assert [type(value) for value in arrived] == [type(value) for value in sent]
