"""Routes through a device."""

import contextlib
import errno
import ipaddress

import pytest
from devices import TUN
from hypothesis import given
from hypothesis import strategies as st
from ip_links import routes_shown
from processes import Run

import tuncer
from tuncer import tunctl
from tuncer.tunctl import Route
from tuncer.tunctl.linux import routes


def test_a_metric_of_0_is_a_metric(tun: int) -> None:
    tunctl.up(tun, "10.9.0.1/24", link_local=False)
    tunctl.add_route(tun, "10.60.0.0/16", metric=100)
    with pytest.raises(OSError, match="no such route"):
        tunctl.remove_route(tun, "10.60.0.0/16", metric=0)
    tunctl.remove_route(tun, "10.60.0.0/16")


def test_routes_are_what_ip_shows(tun: int, run: Run) -> None:
    tunctl.up(tun, "10.0.0.1/24", link_local=False)
    tunctl.up(tun, "fd00::1/64")
    tunctl.add_route(tun, "10.1.0.0/16", metric=7)
    tunctl.add_route(tun, "default", "10.0.0.2")
    tunctl.add_route(tun, "10.2.0.1", source="10.0.0.1")
    tunctl.add_route(tun, "fd01::/48", "fd00::2")
    tunctl.add_route(tun, "::/0", table=100)
    four = {r["dst"]: r for r in routes_shown(run)}
    six = {r["dst"]: r for r in routes_shown(run, "-6")}
    assert four["10.1.0.0/16"]["metric"] == 7
    assert four["default"]["gateway"] == "10.0.0.2"
    assert four["10.2.0.1"]["prefsrc"] == "10.0.0.1"
    assert six["fd01::/48"]["gateway"] == "fd00::2"
    assert six["default"]["table"] == "100"
    listed = {str(r.destination): r for r in tunctl.list_routes(tun)}
    assert listed["0.0.0.0/0"].gateway == ipaddress.ip_address("10.0.0.2")
    assert listed["10.2.0.1/32"].source == ipaddress.ip_address("10.0.0.1")
    assert (listed["10.1.0.0/16"].metric, listed["::/0"].table) == (7, 100)
    assert listed["10.0.0.0/24"].protocol == 2
    tunctl.add_route(tun, "10.1.0.0/16", metric=7)  # it is so already
    tunctl.add_route(tun, "fd01::/48", "fd00::2")
    tunctl.add_route(tun, "::/0", table=100)
    tunctl.add_route(tun, "10.0.0.0/24")  # the kernel's own
    assert len(tunctl.list_routes(tun)) == len(four) + len(six)
    tunctl.add_route(tun, "10.1.0.0/16")  # another one
    assert len(tunctl.list_routes(tun)) == len(four) + len(six) + 1
    tunctl.remove_route(tun, "10.1.0.0/16")
    tunctl.remove_route(tun, "default")
    tunctl.remove_route(tun, "::/0", table=100)
    with contextlib.suppress(OSError):
        tunctl.remove_route(tun, "10.1.0.0/16")
    tunctl.remove_route(tun, "fd01::/48", "fd00::2")
    assert {str(r.destination) for r in tunctl.list_routes(tun)} == {
        "10.0.0.0/24",
        "10.2.0.1/32",
        "fd00::/64",
    }


def test_a_route_through_a_device_that_is_down(tun: int) -> None:
    with pytest.raises(OSError, match="bring it up first") as caught:
        tunctl.add_route(tun, "10.1.0.0/16")
    assert caught.value.errno == errno.ENETDOWN


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_a_route_covers_itself_and_less_said_covers_more(metric: int, table: int) -> None:
    full = routes._route("10.0.0.0/8", "10.0.0.1", "10.0.0.2", metric, table)
    less = routes._route("10.0.0.0/8", None, None, None, table)
    assert isinstance(full, Route)
    assert routes._covers(full, full)
    assert routes._covers(full, less)
    assert not routes._covers(less, full)


@pytest.mark.slow
def test_thousands_of_routes_take_no_time_of_the_packets(run: Run) -> None:
    with tuncer.create("d0", TUN) as device:
        device.up("10.9.0.1/16", link_local=False)
        for number in range(2000):
            device.add_route(f"10.100.{number // 256}.{number % 256}/32")
        device.add_route("10.100.0.0/32")  # it is there
        with pytest.raises(OSError, match="another route"):
            device.add_route("10.100.0.0/32", "10.9.0.5")
        assert len(device.list_routes()) == 2001
        for number in range(2000):
            device.remove_route(f"10.100.{number // 256}.{number % 256}/32")
        assert len(device.list_routes()) == 1
