"""Addresses of a device: what is asked for is what ip(8) shows."""

import errno
import ipaddress
import json
import os
from collections.abc import Callable
from typing import Any

import pytest
from devices import TUN
from ip_links import device, routes_shown, shown
from processes import Run

from tuncer import tunctl
from tuncer.tunctl.linux.monitor import Monitor


def addresses_shown(run: Run, name: str = "t0") -> list[Any]:
    return [a for a in shown(run, name)["addr_info"] if a["scope"] != "link"]


def test_several_addresses_of_both_families(tun: int, run: Run) -> None:
    for text in ("10.0.0.1/24", "10.0.0.2/24", "10.1.0.1/16", "fd00::1/64", "fd01::1/48"):
        tunctl.add_address(tun, text)
    found = {f"{a['local']}/{a['prefixlen']}" for a in addresses_shown(run)}
    assert found == {"10.0.0.1/24", "10.0.0.2/24", "10.1.0.1/16", "fd00::1/64", "fd01::1/48"}
    assert {str(a.interface) for a in tunctl.list_addresses(tun)} == found
    assert [a.interface.version for a in tunctl.list_addresses(tun)] == [4, 4, 4, 6, 6]
    tunctl.remove_address(tun, "10.0.0.2")  # whatever its prefix
    tunctl.remove_address(tun, "fd01::1/48")
    assert {str(a.interface) for a in tunctl.list_addresses(tun)} == {
        "10.0.0.1/24",
        "10.1.0.1/16",
        "fd00::1/64",
    }
    with pytest.raises(OSError, match="no such address") as caught:
        tunctl.remove_address(tun, "10.1.0.1/24")  # another prefix
    assert (caught.value.errno, caught.value.filename) == (errno.EADDRNOTAVAIL, "t0")


def test_a_peer_of_both_families(tun: int, run: Run) -> None:
    tunctl.up(tun, "10.0.0.1", peer="10.0.0.2")
    tunctl.up(tun, "fd00::1", peer="fd00::2")
    shown_now = {
        a["local"]: (a["address"], a["prefixlen"], "broadcast" in a) for a in addresses_shown(run)
    }
    assert shown_now == {
        "10.0.0.1": ("10.0.0.2", 32, False),
        "fd00::1": ("fd00::2", 128, False),
    }
    four, six = tunctl.list_addresses(tun)[:2]
    assert (four.peer, six.peer) == (
        ipaddress.ip_address("10.0.0.2"),
        ipaddress.ip_address("fd00::2"),
    )
    assert {r["dst"] for r in routes_shown(run)} == {"10.0.0.2"}
    assert "fd00::2" in {r["dst"] for r in routes_shown(run, "-6")}


def test_a_peer_with_a_prefix_of_its_network(tun: int, run: Run) -> None:
    tunctl.up(tun, "10.0.0.1/24", peer="10.7.0.2")
    (found,) = addresses_shown(run)
    assert (found["local"], found["address"], found["prefixlen"]) == ("10.0.0.1", "10.7.0.2", 24)
    (listed,) = [a for a in tunctl.list_addresses(tun) if a.interface.version == 4]
    tunctl.remove_address(tun, listed.interface)
    assert addresses_shown(run) == []


def test_scope_broadcast_and_nodad(tap: int, run: Run) -> None:
    tunctl.add_address(tap, "10.0.0.1/24", broadcast="10.0.0.9", scope="link")
    tunctl.add_address(tap, "10.0.1.1/24", scope=123)
    tunctl.up(tap, "fd00::1/64", nodad=True)
    found = {a["local"]: a for a in shown(run, "e0")["addr_info"]}
    assert (found["10.0.0.1"]["broadcast"], found["10.0.0.1"]["scope"]) == ("10.0.0.9", "link")
    assert found["10.0.1.1"]["scope"] in {"123", 123}
    assert found["fd00::1"]["nodad"]
    assert "tentative" not in found["fd00::1"]
    listed = {str(a.interface.ip): a for a in tunctl.list_addresses(tap)}
    assert (listed["10.0.0.1"].scope, listed["10.0.1.1"].scope) == ("link", "123")
    assert "nodad" in listed["fd00::1"].flags
    assert "permanent" in listed["10.0.0.1"].flags


def test_an_address_is_changed_to_what_is_asked(tun: int, run: Run) -> None:
    tunctl.up(tun, "10.0.0.1/24")
    tunctl.up(tun, "10.0.0.1/24", broadcast="10.0.0.7")
    tunctl.up(tun, "fd00::1/64")
    tunctl.up(tun, "fd00::1/48")
    assert {(a["local"], a["prefixlen"], a.get("broadcast")) for a in addresses_shown(run)} == {
        ("10.0.0.1", 24, "10.0.0.7"),
        ("fd00::1", 48, None),
    }


@pytest.mark.parametrize(
    "change",
    [
        lambda t: tunctl.broadcast(t, "10.9.0.254"),
        lambda t: tunctl.add_address(t, "10.8.0.1/24", scope="link"),
        lambda t: tunctl.up(t, "10.9.0.1/24", broadcast="10.9.0.3"),
        lambda t: tunctl.dstaddr(t, "10.9.0.77"),
        lambda t: tunctl.remove_address(t, "10.9.0.1"),
    ],
)
@pytest.mark.parametrize("promote", [0, 1])
def test_a_change_of_one_address_leaves_the_others_and_the_routes(
    tun: int, run: Run, change: Callable[[int], None], promote: int
) -> None:
    run("sysctl", "-q", "-w", f"net.ipv4.conf.t0.promote_secondaries={promote}")
    for number in (1, 5, 6):
        tunctl.up(tun, f"10.9.0.{number}/24", link_local=False)
    tunctl.up(tun, "10.8.0.1/24")
    tunctl.add_route(tun, "10.77.0.0/16", "10.9.0.9")
    tunctl.add_route(tun, "10.78.0.0/16", "10.8.0.9", metric=3)
    routes = {r for r in tunctl.list_routes(tun) if r.protocol != 2}
    change(tun)
    left = {str(a.interface) for a in tunctl.list_addresses(tun)}
    assert {"10.9.0.5/24", "10.9.0.6/24", "10.8.0.1/24"} <= left
    if "10.9.0.1/24" in left:  # it was not removed, and is not another one's any more
        assert {r for r in tunctl.list_routes(tun) if r.protocol != 2} == routes


@pytest.mark.parametrize(
    "change",
    [
        lambda t: tunctl.broadcast(t, "10.9.0.254"),
        lambda t: tunctl.dstaddr(t, "10.9.0.77"),
        lambda t: tunctl.add_address(t, "10.9.0.1/24", broadcast="10.9.0.3"),
    ],
)
@pytest.mark.parametrize(
    "route", [("10.50.0.0/16", "via", "10.9.0.7", "onlink"), ("10.60.0.0/16", "mtu", "1000")]
)
def test_a_change_that_would_cost_routes_is_refused(
    tun: int, run: Run, change: Callable[[int], None], route: tuple[str, ...]
) -> None:
    tunctl.up(tun, "10.9.0.1/24", link_local=False)
    run("ip", "route", "add", *route[:1], "dev", "t0", *route[1:])
    before = routes_shown(run), addresses_shown(run)
    with pytest.raises(OSError, match="the route to") as caught:
        change(tun)
    assert (caught.value.errno, caught.value.filename) == (errno.EBUSY, "t0")
    assert (routes_shown(run), addresses_shown(run)) == before


def test_a_change_of_an_address_can_be_done_twice(tun: int) -> None:
    tunctl.up(tun, "10.9.0.1/24", link_local=False)
    (old,) = tunctl.list_addresses(tun)
    new = old._replace(broadcast=ipaddress.IPv4Address("10.9.0.9"))
    for _ in range(2):
        tunctl.change_address(tun, old, new)
    tunctl.remove_address(tun, "10.9.0.1")  # as if killed between the two steps
    tunctl.change_address(tun, old, new)
    assert tunctl.list_addresses(tun) == [new]


def test_the_addresses_of_a_network_have_one_scope(tun: int, run: Run) -> None:
    for number in (1, 2):
        tunctl.up(tun, f"10.9.0.{number}/24")
    before = addresses_shown(run)
    with pytest.raises(OSError, match="have one scope") as caught:
        tunctl.add_address(tun, "10.9.0.1/24", scope="link")
    assert (caught.value.errno, caught.value.filename) == (errno.EINVAL, "t0")
    assert addresses_shown(run) == before


def test_what_was_not_said_may_be_anything(tun: int, run: Run) -> None:
    run("ip", "addr", "add", "10.9.0.1/24", "dev", "t0")  # without a broadcast address
    run("ip", "addr", "add", "fd09::1/64", "dev", "t0")
    watching = Monitor(tun)
    tunctl.up(tun, "10.9.0.1/24", link_local=False)
    tunctl.up(tun, "fd09::1/64")
    tunctl.add_address(tun, "10.9.0.99/24")  # to see that something is told
    assert [str(c.value) for c in watching.changes() if c.kind.startswith("address")] == [
        "10.9.0.99/24"
    ]
    watching.close()
    with pytest.raises(ValueError, match="scope of an IPv6"):
        tunctl.up(tun, "fd09::1/64", scope="link")


def test_no_link_local_address_and_no_noise_on_request(run: Run) -> None:
    with device("t0", TUN) as quiet, device("t1", TUN) as noisy:
        tunctl.up(quiet, "10.0.0.1/24", link_local=False)
        tunctl.up(noisy, "10.1.0.1/24")
        assert not tunctl.link_local(quiet)
        assert tunctl.link_local(noisy)
        assert [a for a in shown(run, "t0")["addr_info"] if a["family"] == "inet6"] == []
        assert [a for a in shown(run, "t1")["addr_info"] if a["family"] == "inet6"] != []
        (link,) = json.loads(run("ip", "-j", "-d", "link", "show", "dev", "t0"))
        assert link["inet6_addr_gen_mode"] == "none"
        with pytest.raises(BlockingIOError):
            os.read(quiet, 65535)
        assert tunctl.link_local(quiet, True)


def test_dstaddr_and_broadcast_keep_the_rest(tun: int, run: Run) -> None:
    tunctl.up(tun, "10.0.0.1/24", scope="global")
    tunctl.add_address(tun, "fd00::1/64", nodad=True)
    tunctl.dstaddr(tun, "fd00::2")
    (found,) = [a for a in addresses_shown(run) if a["family"] == "inet6"]
    assert (found["address"], found.get("nodad")) == ("fd00::2", True)


@pytest.mark.parametrize(
    ("arguments", "family", "local", "prefix", "broadcast"),
    [
        (("10.0.0.1",), "inet", "10.0.0.1", 24, "10.0.0.255"),
        (("10.0.0.1/8",), "inet", "10.0.0.1", 8, "10.255.255.255"),
        (("10.0.0.1", 30), "inet", "10.0.0.1", 30, "10.0.0.3"),
        (("10.0.0.1", "255.255.0.0"), "inet", "10.0.0.1", 16, "10.0.255.255"),
        (("10.0.0.1/31",), "inet", "10.0.0.1", 31, None),
        ((ipaddress.ip_address("10.0.0.1"),), "inet", "10.0.0.1", 24, "10.0.0.255"),
        ((ipaddress.ip_interface("10.0.0.1/25"),), "inet", "10.0.0.1", 25, "10.0.0.127"),
        (("fd00::1/48",), "inet6", "fd00::1", 48, None),
        (("fd00::1",), "inet6", "fd00::1", 64, None),
        ((ipaddress.ip_address("fd00::1"), 126), "inet6", "fd00::1", 126, None),
    ],
)
def test_up_sets_the_address_that_ip_shows(
    tun: int,
    run: Run,
    arguments: tuple[Any, ...],
    family: str,
    local: str,
    prefix: int,
    broadcast: str | None,
) -> None:
    tunctl.up(tun, *arguments)
    link = shown(run)
    assert "UP" in link["flags"]
    (address,) = [a for a in link["addr_info"] if a["family"] == family and a["scope"] == "global"]
    assert (address["local"], address["prefixlen"], address.get("broadcast")) == (
        local,
        prefix,
        broadcast,
    )


def test_up_again_with_the_same_address_and_by_name(tun: int, run: Run) -> None:
    tunctl.up(tun, "10.0.0.1")
    tunctl.up("t0", "10.0.0.1")
    tunctl.up("t0")
    assert len([a for a in shown(run)["addr_info"] if a["family"] == "inet"]) == 1


@pytest.mark.parametrize(
    "address", ["10.0.0", "10.0.0.1/33", "hello", "", "fd00::1/129", "10.0.0.1 24", "a/b/c"]
)
def test_what_is_no_address_is_refused(tun: int, run: Run, address: str) -> None:
    with pytest.raises(ValueError, match="is no IP address"):
        tunctl.up(tun, address)
    assert "UP" not in shown(run)["flags"]


def test_an_address_of_another_type_is_refused(tun: int) -> None:
    for wrong in (b"10.0.0.1", 167772161):
        with pytest.raises(TypeError, match="ipaddress"):
            tunctl.up(tun, wrong)  # type: ignore[arg-type]


def test_two_prefixes_are_one_too_many(tun: int) -> None:
    with pytest.raises(ValueError, match="prefix already"):
        tunctl.up(tun, "10.0.0.1/24", 16)


def test_down_keeps_the_ipv4_address(tun: int, run: Run) -> None:
    tunctl.up(tun, "10.0.0.1/24")
    tunctl.up(tun, "fd00::1/64")
    tunctl.down(tun)
    link = shown(run)
    assert "UP" not in link["flags"]
    assert [a["local"] for a in link["addr_info"]] == ["10.0.0.1"]


def test_dstaddr_and_broadcast(tun: int, run: Run) -> None:
    tunctl.up(tun, "10.0.0.1/24")
    tunctl.broadcast(tun, "10.0.0.127")
    (before,) = [a for a in shown(run)["addr_info"] if a["family"] == "inet"]
    assert before["broadcast"] == "10.0.0.127"
    tunctl.dstaddr(tun, "10.0.0.2")
    (after,) = [a for a in shown(run)["addr_info"] if a["family"] == "inet"]
    assert (after["local"], after["address"], after["prefixlen"]) == ("10.0.0.1", "10.0.0.2", 32)


def test_dstaddr_of_ipv6(tun: int, run: Run) -> None:
    tunctl.up(tun, "fd00::1/64")
    tunctl.dstaddr(tun, "fd00::2")
    (address,) = [
        a for a in shown(run)["addr_info"] if a["family"] == "inet6" and a["scope"] == "global"
    ]
    assert (address["local"], address["address"]) == ("fd00::1", "fd00::2")


def test_an_address_is_the_same_although_its_flags_have_changed_since(tun: int, run: Run) -> None:
    tunctl.up(tun, "fd00::1/64")
    (old,) = [a for a in tunctl.list_addresses(tun) if a.scope == "global"]
    seen_before = old._replace(flags=old.flags ^ {"tentative"})
    tunctl.change_address(tun, seen_before, old._replace(peer=ipaddress.ip_address("fd00::2")))
    (new,) = [a for a in tunctl.list_addresses(tun) if a.scope == "global"]
    assert (str(new.interface.ip), str(new.peer)) == ("fd00::1", "fd00::2")


def test_dstaddr_without_an_address_of_the_device(tun: int) -> None:
    with pytest.raises(OSError, match="no IPv4 address yet") as caught:
        tunctl.dstaddr(tun, "10.0.0.2")
    assert caught.value.errno == errno.EADDRNOTAVAIL


def test_ipv6_needs_an_mtu_of_1280(tun: int) -> None:
    tunctl.mtu(tun, 1279)
    with pytest.raises(OSError, match="1280"):
        tunctl.up(tun, "fd00::1")
    tunctl.mtu(tun, 1280)
    tunctl.up(tun, "fd00::1")
    with pytest.raises(OSError, match="1280"):
        tunctl.mtu(tun, 1279)


def test_ipv6_disabled_is_said(tun: int, run: Run) -> None:
    run("sysctl", "-q", "-w", "net.ipv6.conf.t0.disable_ipv6=1")
    with pytest.raises(PermissionError, match="IPv6 is disabled"):
        tunctl.up(tun, "fd00::1")
