"""What tunctl sets of a link, addresses and routes, `ip` shows; wrong arguments change nothing."""

import contextlib
import errno
import ipaddress
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from devices import TAP, TUN
from hypothesis import given
from hypothesis import strategies as st
from processes import PATIENCE, Run, program
from users import only_one_user, run_as_user

from tuncer import tunctl
from tuncer.tunctl import Address, Flag, Route
from tuncer.tunctl import address as addresses
from tuncer.tunctl.linux import addresses as ip_addresses
from tuncer.tunctl.linux import routes
from tuncer.tunctl.linux.monitor import Monitor


@contextlib.contextmanager
def device(name: str, flags: int) -> Iterator[int]:
    fd = tunctl.create(name, flags)
    try:
        yield fd
    finally:
        os.close(fd)


@pytest.fixture(name="tun")
def make_tun() -> Iterator[int]:
    with device("t0", TUN) as fd:
        yield fd


@pytest.fixture(name="tap")
def make_tap() -> Iterator[int]:
    with device("e0", TAP) as fd:
        yield fd


def shown(run: Run, name: str = "t0", *where: str) -> Any:
    return json.loads(run("ip", *where, "-s", "-j", "-d", "addr", "show", "dev", name))[0]


def addresses_shown(run: Run, name: str = "t0") -> list[Any]:
    return [a for a in shown(run, name)["addr_info"] if a["scope"] != "link"]


def routes_shown(run: Run, family: str = "-4", name: str = "t0") -> list[Any]:
    found = json.loads(run("ip", family, "-j", "route", "show", "dev", name, "table", "all"))
    return [r for r in found if r.get("table") != "local" and r["dst"] != "fe80::/64"]


# -- addresses -------------------------------------------------------------------------------------


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


def test_a_metric_of_0_is_a_metric(tun: int) -> None:
    tunctl.up(tun, "10.9.0.1/24", link_local=False)
    tunctl.add_route(tun, "10.60.0.0/16", metric=100)
    with pytest.raises(OSError, match="no such route"):
        tunctl.remove_route(tun, "10.60.0.0/16", metric=0)
    tunctl.remove_route(tun, "10.60.0.0/16")


def test_a_device_that_is_renamed_all_the_time_is_found(tun: int) -> None:
    over = threading.Event()

    def rename() -> None:
        other = os.dup(tun)
        turn = 0
        while not over.is_set():
            turn += 1
            tunctl.rename(other, f"t{turn % 2}x")
        os.close(other)

    with ThreadPoolExecutor(1) as threads:
        renaming = threads.submit(rename)
        for _ in range(300):
            assert tunctl.mtu(tun) == 1500
        over.set()
        renaming.result()


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
    ("use", "error"),
    [
        (lambda t: tunctl.add_address(t, "10.0.0.1/24", broadcast="fd00::1"), ValueError),
        (lambda t: tunctl.add_address(t, "fd00::1/64", broadcast="10.0.0.1"), ValueError),
        (lambda t: tunctl.add_address(t, "10.0.0.1/24", peer="fd00::1"), ValueError),
        (lambda t: tunctl.add_address(t, "10.0.0.1/24", scope="galaxy"), ValueError),
        (lambda t: tunctl.add_address(t, "10.0.0.1/24", scope=256), ValueError),
        (lambda t: tunctl.add_address(t, "10.0.0.1/24", scope=True), ValueError),
        (lambda t: tunctl.add_address(t, "10.0.0.1/33"), ValueError),
        (lambda t: tunctl.add_address(t, None), TypeError),
        (lambda t: tunctl.add_address(t, "255.255.255.255/24", colour=1), TypeError),
        (lambda t: tunctl.up(t, peer="10.0.0.1"), TypeError),
        (lambda t: tunctl.up(t, prefix=24), TypeError),
        (lambda t: tunctl.remove_address(t, "10.0.0.1"), OSError),
        (lambda t: tunctl.remove_address(t, 7), TypeError),
        (lambda t: tunctl.dstaddr(t, "10.0.0.2"), OSError),
        (lambda t: tunctl.broadcast(t, "10.0.0.2"), OSError),
        (lambda t: tunctl.mtu(t, "1500"), TypeError),
        (lambda t: tunctl.mtu(t, True), TypeError),
        (lambda t: tunctl.mtu(t, -1), OSError),
        (lambda t: tunctl.mtu(t, 1 << 40), OSError),
        (lambda t: tunctl.mac(t, "02:00:00:00:00:01"), OSError),  # a TUN has none
        (lambda t: tunctl.mac(t, "02:00:00:00:00"), ValueError),
        (lambda t: tunctl.mac(t, b"\2\0\0\0\0\1"), TypeError),
        (lambda t: tunctl.txqueuelen(t, -1), OSError),
        (lambda t: tunctl.txqueuelen(t, 1.5), TypeError),
        (lambda t: tunctl.alias(t, "x" * 256), ValueError),
        (lambda t: tunctl.alias(t, "a\0b"), ValueError),
        (lambda t: tunctl.alias(t, b"a"), TypeError),
        (lambda t: tunctl.carrier(t, 1), TypeError),
        (lambda t: tunctl.link_type(t, -1), ValueError),
        (lambda t: tunctl.link_type(t, "ether"), TypeError),
        (lambda t: tunctl.master(t, "nothere"), OSError),
        (lambda t: tunctl.master(t, "lo"), OSError),
        (lambda t: tunctl.rename(t, ""), OSError),
        (lambda t: tunctl.rename(t, "x%d"), OSError),
        (lambda t: tunctl.rename(t, "a/b"), OSError),
        (lambda t: tunctl.rename(t, "lo"), OSError),
        (lambda t: tunctl.move(t, "nothere"), OSError),
        (lambda t: tunctl.move(t, "/etc/passwd"), OSError),
        (lambda t: tunctl.move(t, 2**22 + 5), OSError),
        (lambda t: tunctl.move(t, ""), OSError),
        (lambda t: tunctl.move(t, "a\0/b"), OSError),
        (lambda t: tunctl.move(t, 1.5), TypeError),
        (lambda t: tunctl.move(t, True), TypeError),
        (lambda t: tunctl.owner(t, 1.5), TypeError),
        (lambda t: tunctl.owner(t, True), TypeError),
        (lambda t: tunctl.group(t, -1), ValueError),
        (lambda t: tunctl.group(t, "no-group-of-that-name"), KeyError),
        (lambda t: tunctl.add_route(t, "10.1.0.1/16"), ValueError),  # bits beyond the prefix
        (lambda t: tunctl.add_route(t, "somewhere"), ValueError),
        (lambda t: tunctl.add_route(t, None), TypeError),
        (lambda t: tunctl.add_route(t, "10.1.0.0/16", "fd00::1"), ValueError),
        (lambda t: tunctl.add_route(t, "10.1.0.0/16", source="fd00::1"), ValueError),
        (lambda t: tunctl.add_route(t, "10.1.0.0/16", source="10.99.0.1"), OSError),
        (lambda t: tunctl.add_route(t, "10.1.0.0/16", "10.99.0.1"), OSError),
        (lambda t: tunctl.add_route(t, "10.1.0.0/16", metric=-1), ValueError),
        (lambda t: tunctl.add_route(t, "10.1.0.0/16", metric="low"), TypeError),
        (lambda t: tunctl.remove_route(t, "10.1.0.0/16"), OSError),
        (lambda t: tunctl.receive_filter(t, ["02:00:00:00:00:01"]), OSError),  # TAP only
        (lambda t: tunctl.receive_filter(t, "02:00:00:00:00:01"), TypeError),
        (lambda t: tunctl.receive_filter(t, ["02:00"]), ValueError),
        (lambda t: tunctl.receive_filter(t, ["02:00:00:00:00:01"] * 1001), ValueError),
        (lambda t: tunctl.vnet_hdr_size(t, 9), OSError),
        (lambda t: tunctl.vnet_hdr_size(t, "10"), TypeError),
        (lambda t: tunctl.vnet_hdr_size(t, 1 << 40), ValueError),
        (lambda t: tunctl.vnet_hdr_size(t, 12), OSError),  # without VNET_HDR
        (lambda t: tunctl.offload(t, tunctl.Offload.CSUM), OSError),  # without VNET_HDR
        (lambda t: tunctl.sndbuf(t, 1 << 40), ValueError),
        (lambda t: tunctl.persist(t, "no"), TypeError),
        (lambda t: tunctl.link_local(t, "no"), TypeError),
        (lambda t: tunctl.add_address(t, "::1/128"), OSError),
        (lambda t: tunctl.add_address(t, "fd00::1/64", scope="link"), ValueError),
        (lambda t: tunctl.rename(t, "all"), OSError),
        (lambda t: tunctl.sndbuf(t, 0), OSError),
        (lambda t: tunctl.sndbuf(t, "many"), TypeError),
        (lambda t: tunctl.offload(t, 1 << 20), ValueError),
        (lambda t: tunctl.offload(t, tunctl.Offload.TSO4), OSError),
        (lambda t: tunctl.offload(t, "csum"), TypeError),
        (tunctl.attach_queue, OSError),
        (tunctl.detach_queue, OSError),
    ],
)
def test_a_wrong_argument_is_a_clear_error_and_changes_nothing(
    tun: int, run: Run, use: Callable[[int], Any], error: type[Exception]
) -> None:
    tunctl.up(tun, link_local=False)
    before, descriptors = json.loads(run("ip", "-j", "-d", "addr")), os.listdir("/proc/self/fd")
    with pytest.raises(error) as caught:
        use(tun)
    assert type(caught.value) is not OSError or len(str(caught.value)) > 30
    assert json.loads(run("ip", "-j", "-d", "addr")) == before
    assert routes_shown(run) == []
    assert len(os.listdir("/proc/self/fd")) == len(descriptors)
    assert tunctl.flags(tun) == TUN


@pytest.mark.parametrize("target", [None, 1.5, True, b"t0", ["t0"]])
def test_what_is_no_device_is_a_type_error(target: Any) -> None:
    for function in (tunctl.up, tunctl.down, tunctl.mtu, tunctl.flags, tunctl.persist):
        with pytest.raises(TypeError, match="descriptor or a name"):
            function(target)


def test_a_descriptor_of_something_else_is_told_apart() -> None:
    with open("/dev/null", "rb") as other:
        for function in (tunctl.up, tunctl.devname, tunctl.flags, tunctl.check):
            with pytest.raises(OSError, match="no TUN/TAP device") as caught:
                function(other.fileno())
            assert caught.value.errno == errno.ENOTTY
    unattached = os.open("/dev/net/tun", os.O_RDWR)
    with pytest.raises(OSError, match="never attached") as caught:
        tunctl.check(unattached)
    assert caught.value.errno == errno.EBADFD
    os.close(unattached)


# -- the link --------------------------------------------------------------------------------------


def test_settings_of_a_link_are_what_ip_shows(tap: int, run: Run) -> None:
    assert tunctl.mac(tap, "02:00:00:00:00:0A") == tunctl.mac(tap) == "02:00:00:00:00:0a"
    assert tunctl.txqueuelen(tap, 77) == tunctl.txqueuelen(tap) == 77
    assert tunctl.alias(tap, "the lab's") == tunctl.alias(tap) == "the lab's"
    found = shown(run, "e0")
    assert (found["address"], found["txqlen"], found["ifalias"]) == (
        "02:00:00:00:00:0a",
        77,
        "the lab's",
    )
    assert tunctl.alias(tap, "") == tunctl.alias(tap) == ""
    assert "ifalias" not in shown(run, "e0")


def test_carrier(tun: int, run: Run) -> None:
    tunctl.up(tun)
    assert tunctl.carrier(tun)
    assert tunctl.carrier(tun, False) is False
    assert "NO-CARRIER" in shown(run)["flags"]
    assert tunctl.carrier(tun, True)
    assert "LOWER_UP" in shown(run)["flags"]


def test_a_device_without_carrier(run: Run) -> None:
    if Flag.NO_CARRIER not in tunctl.features():
        pytest.skip("NO_CARRIER is of Linux 6.0")
    with device("t0", TUN | Flag.NO_CARRIER) as fd:
        tunctl.up(fd)
        assert not tunctl.carrier(fd)
        assert tunctl.carrier(fd, True)


def test_link_type(tun: int, run: Run) -> None:
    assert tunctl.link_type(tun) == 65534
    assert tunctl.link_type(tun, 512) == 512
    assert shown(run)["link_type"] == "ppp"
    tunctl.up(tun)
    with pytest.raises(OSError, match="while the device is down") as caught:
        tunctl.link_type(tun, 1)
    assert caught.value.errno == errno.EBUSY


def test_rename(tun: int, run: Run) -> None:
    tunctl.rename(tun, "better")
    assert tunctl.devname(tun) == "better"
    assert shown(run, "better")["ifindex"] == tunctl.ifindex(tun)
    with pytest.raises(OSError, match="another interface has this name"):
        tunctl.rename(tun, "lo")


def test_a_tap_is_a_bridges_port_and_a_tun_is_not(tap: int, tun: int, run: Run) -> None:
    run("ip", "link", "add", "br0", "type", "bridge")
    assert tunctl.master(tap) == ""
    assert tunctl.master(tap, "br0") == tunctl.master(tap) == "br0"
    assert shown(run, "e0")["master"] == "br0"
    assert tunctl.master(tap, "") == tunctl.master(tap) == ""
    with pytest.raises(OSError, match="not a TUN"):
        tunctl.master(tun, "br0")


def test_statistics_tell_both_directions_and_drops(tun: int, run: Run) -> None:
    tunctl.up(tun, "10.0.0.1/24", link_local=False)
    tunctl.txqueuelen(tun, 3)
    run("sh", "-c", "ping -c 5 -i 0.01 -W 0.1 10.0.0.2 || true")
    os.write(tun, bytes.fromhex("4500001400000000400100000a0000020a000001"))
    counts = tunctl.statistics(tun)
    found = shown(run)["stats64"]
    assert counts["tx_dropped"] == found["tx"]["dropped"] > 0
    assert counts["rx_packets"] == found["rx"]["packets"] == 1
    assert counts["rx_bytes"] == found["rx"]["bytes"] == 20
    while True:
        try:
            os.read(tun, 65535)
        except BlockingIOError:
            break
    assert tunctl.statistics(tun)["tx_packets"] == 3


# -- routes ----------------------------------------------------------------------------------------


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


# -- flags, queues, offload ------------------------------------------------------------------------


def test_features_are_those_of_the_kernel() -> None:
    known = tunctl.features()
    assert TUN | TAP | Flag.MULTI_QUEUE | Flag.VNET_HDR | Flag.NAPI in known
    assert Flag.PERSIST not in known


@pytest.mark.parametrize(
    "flags",
    [
        TUN,
        TAP,
        Flag.TUN,
        Flag.TAP,
        TUN | Flag.ONE_QUEUE,
        TUN | Flag.VNET_HDR,
        TAP | Flag.MULTI_QUEUE,
        TUN | Flag.NAPI,
        TAP | Flag.NAPI | Flag.NAPI_FRAGS,
        TUN | Flag.TUN_EXCL,
        Flag.TAP | Flag.VNET_HDR | Flag.MULTI_QUEUE,
    ],
)
def test_the_kernel_gives_every_combination_that_is_asked_for(flags: Flag) -> None:
    wishes = Flag.ONE_QUEUE | Flag.TUN_EXCL
    with device("t0", flags) as fd:
        assert tunctl.flags(fd) & ~wishes == flags & ~wishes
        by_name = Flag.NAPI | Flag.NAPI_FRAGS  # which rtnetlink does not tell
        assert tunctl.flags("t0") == flags & ~wishes & ~by_name


def test_napi_frags_alone_is_refused_with_a_sentence() -> None:
    for wrong in (TAP | Flag.NAPI_FRAGS, TUN | Flag.NAPI | Flag.NAPI_FRAGS):
        with pytest.raises(ValueError, match="NAPI_FRAGS"):
            tunctl.create("t0", wrong)


@pytest.mark.parametrize(
    ("made", "asked", "named"),
    [
        (TUN, TAP, "without TAP and with TUN"),
        (TUN | Flag.MULTI_QUEUE, TUN, "with MULTI_QUEUE"),
        (TUN, TUN | Flag.MULTI_QUEUE, "without MULTI_QUEUE"),
    ],
)
def test_what_an_existing_device_was_created_with_is_named(
    made: Flag, asked: Flag, named: str
) -> None:
    with device("p0", made) as fd:
        tunctl.persist(fd)
    with pytest.raises(OSError, match=named) as caught:
        tunctl.create("p0", asked)
    assert (caught.value.errno, caught.value.filename) == (errno.EINVAL, "p0")
    tunctl.delete("p0")


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        (Flag.TUN | Flag.MULTI_QUEUE, "with NO_PI"),
        (TUN | Flag.MULTI_QUEUE | Flag.VNET_HDR, "without VNET_HDR"),
    ],
)
def test_a_further_queue_of_another_framing_is_refused(asked: Flag, named: str) -> None:
    multi = TUN | Flag.MULTI_QUEUE
    with device("q0", multi) as fd, device("q0", multi):
        with pytest.raises(OSError, match=named):
            tunctl.create("q0", asked)
        assert tunctl.flags(fd) == multi


def test_wishes_about_a_device_that_exists(run: Run) -> None:
    with device("p0", TUN) as fd:
        tunctl.persist(fd)
    with pytest.raises(OSError, match="exists already") as caught:
        tunctl.create("p0", TUN | Flag.TUN_EXCL)
    assert caught.value.errno == errno.EBUSY
    with device("p0", TUN | Flag.NO_CARRIER) as fd:
        tunctl.up(fd)
        assert not tunctl.carrier(fd)
        tunctl.persist(fd, False)


def test_settings_by_name_leave_filters_and_offload_and_queues_alone(run: Run) -> None:
    flags = TAP | Flag.VNET_HDR
    with device("p0", flags) as fd:
        tunctl.persist(fd)
        tunctl.offload(fd, tunctl.Offload.CSUM)
    for change in (
        lambda: tunctl.owner("p0", 0),
        lambda: tunctl.group("p0", 0),
        lambda: tunctl.carrier("p0", False),
        lambda: tunctl.link_type("p0", 1),
    ):
        change()
        checksums = run("ethtool", "-k", "p0").split("tx-checksumming:")[1].split()[0]
        assert checksums == "on"
    assert (tunctl.owner("p0"), tunctl.group("p0")) == (0, 0)
    tunctl.persist("p0", False)
    with device("q0", TUN | Flag.MULTI_QUEUE) as fd:
        assert tunctl.owner(fd) is tunctl.group("q0") is None
        with pytest.raises(OSError, match="give a descriptor") as caught:
            tunctl.owner("q0", 0)
        assert caught.value.errno == errno.EBUSY
        assert tunctl.queues(fd) == (1, 0)


def test_a_name_that_is_no_text(tun: int, run: Run) -> None:
    subprocess.run([b"ip", b"link", b"set", b"t0", b"name", b"\xff\xfe"], check=True)
    assert tunctl.devname(tun) == "\\xff\\xfe"
    tunctl.up(tun, "10.0.0.1/24")
    assert tunctl.mtu(tun, 1400) == 1400
    assert tunctl.flags(tun) == TUN
    assert {str(a.interface) for a in tunctl.list_addresses(tun)} >= {"10.0.0.1/24"}
    tunctl.rename(tun, "t0")
    assert tunctl.devname(tun) == "t0"


_TAKEN_AWAY = """
import os, sys
from tuncer import tunctl
from tuncer.tunctl import Flag
fd = tunctl.create("lab0", Flag.TUN | Flag.NO_PI)
print(os.getpid(), flush=True)
sys.stdin.readline()
other = tunctl.create("lab0", Flag.TUN | Flag.NO_PI)
for use in (tunctl.mtu, tunctl.delete, tunctl.up, tunctl.flags):
    try:
        use(fd)
    except PermissionError as error:
        print(error.filename, "another network namespace" in str(error), flush=True)
print(tunctl.mtu(other))
"""


def test_another_interface_of_its_name_is_never_taken_for_one_that_was_taken_away(run: Run) -> None:
    command = ("unshare", "--user", "--map-root-user", "--net", sys.executable, "-c", _TAKEN_AWAY)
    with program(*command) as inner:
        pid = inner.expect("\n").strip()
        here = f"/proc/{os.getpid()}/ns/net"
        run("nsenter", f"--net=/proc/{pid}/ns/net", "ip", "link", "set", "lab0", "netns", here)
        assert inner.process.stdin is not None
        inner.process.stdin.write("\n")
        inner.process.stdin.flush()
        for _ in range(4):
            assert inner.expect("lab0").split() == ["lab0", "True"]
        inner.expect("1500")
        inner.process.wait(PATIENCE)


def test_offload_that_an_earlier_user_left_is_switched_off(run: Run) -> None:
    def segmentation() -> str:
        return run("sh", "-c", "ethtool -k t0 | grep ^tcp-segmentation-offload")

    flags = TUN | Flag.VNET_HDR
    with device("t0", flags) as fd:
        tunctl.persist(fd)
        tunctl.offload(fd, tunctl.Offload.CSUM | tunctl.Offload.TSO4 | tunctl.Offload.TSO6)
        assert "on" in segmentation().split()
    with device("t0", flags) as fd:
        assert "off" in segmentation().split()
        tunctl.persist(fd, False)


def test_sizes_of_header_and_buffer(run: Run) -> None:
    with device("t0", TUN | Flag.VNET_HDR) as fd:
        assert tunctl.vnet_hdr_size(fd) == 10
        assert tunctl.vnet_hdr_size(fd, 12) == tunctl.vnet_hdr_size(fd) == 12
        assert tunctl.sndbuf(fd) == 2**31 - 1
        assert tunctl.sndbuf(fd, 4096) == tunctl.sndbuf(fd) == 4096


def test_queues_are_detached_and_attached(run: Run) -> None:
    def queues() -> tuple[int, int]:
        data = shown(run)["linkinfo"]["info_data"]
        return data["numqueues"], data["numdisabled"]

    multi = TUN | Flag.MULTI_QUEUE
    with device("t0", multi) as first, device("t0", multi) as second:
        assert queues() == (2, 0)
        tunctl.detach_queue(second)
        assert queues() == tunctl.queues("t0") == (1, 1)
        assert (tunctl.is_attached(first), tunctl.is_attached(second)) == (True, False)
        with pytest.raises(OSError, match="detached already"):
            tunctl.detach_queue(second)
        assert tunctl.devname(second) == "t0"
        tunctl.attach_queue(second)
        assert queues() == (2, 0)
        with pytest.raises(OSError, match="attached already"):
            tunctl.attach_queue(first)


def test_the_receive_filter_of_a_tap(tap: int, run: Run) -> None:
    tunctl.mac(tap, "02:00:00:00:00:01")
    tunctl.up(tap, "10.0.0.1/24", link_local=False)
    for host in (2, 3):
        mac = f"02:00:00:00:00:0{host}"
        run("ip", "neigh", "add", f"10.0.0.{host}", "lladdr", mac, "dev", "e0")

    def seen() -> set[str]:
        for host in (2, 3):
            run("sh", "-c", f"ping -c 1 -W 0.01 10.0.0.{host} || true")
        found = set()
        while True:
            try:
                found.add(os.read(tap, 65535)[:6].hex(":"))
            except BlockingIOError:
                return found

    assert seen() == {"02:00:00:00:00:02", "02:00:00:00:00:03"}
    tunctl.receive_filter(tap, ["02:00:00:00:00:03"])
    assert seen() == {"02:00:00:00:00:03"}
    multicast = "01:00:5e:00:00:09"
    tunctl.receive_filter(tap, all_multicast=True)
    run("sh", "-c", "ping -c 1 -W 0.01 -I e0 224.0.0.9 || true")
    assert multicast in seen()
    tunctl.receive_filter(tap, ["02:00:00:00:00:03"])
    run("sh", "-c", "ping -c 1 -W 0.01 -I e0 224.0.0.9 || true")
    assert multicast not in seen()
    many = [f"02:00:00:00:01:{n:02x}" for n in range(7)]  # with the next one, 8: compared exactly
    tunctl.receive_filter(tap, [*many, "02:00:00:00:00:02", multicast])
    run("sh", "-c", "ping -c 1 -W 0.01 -I e0 224.0.0.9 || true")
    assert seen() == {"02:00:00:00:00:02", multicast}
    tunctl.receive_filter(tap)
    assert seen() == {"02:00:00:00:00:02", "02:00:00:00:00:03"}


# -- namespaces ------------------------------------------------------------------------------------


def inside(pid: int, run: Run, *command: str) -> str:
    return run("nsenter", "--net", "--target", str(pid), *command)


def test_a_device_in_another_namespace_is_configured_from_here(elsewhere: int, run: Run) -> None:
    fd = tunctl.create("t0", TUN, elsewhere)
    assert "t0" not in run("ip", "-br", "link")
    tunctl.up(fd, "10.0.0.1/24")
    tunctl.up(fd, "fd00::1/64")
    tunctl.mtu(fd, 1400)
    tunctl.add_route(fd, "10.1.0.0/16")
    found = json.loads(inside(elsewhere, run, "ip", "-j", "-d", "addr", "show", "dev", "t0"))[0]
    assert {"10.0.0.1", "fd00::1"} <= {a["local"] for a in found["addr_info"]}
    assert (found["mtu"], found["ifindex"]) == (1400, tunctl.ifindex(fd))
    assert "10.1.0.0/16" in inside(elsewhere, run, "ip", "route")
    assert tunctl.flags(fd) == TUN
    assert {str(a.interface) for a in tunctl.list_addresses(fd)} >= {"10.0.0.1/24", "fd00::1/64"}
    tunctl.delete(fd)
    assert "t0" not in inside(elsewhere, run, "ip", "-br", "link")
    os.close(fd)


def test_an_existing_device_is_moved_there_and_back(elsewhere: int, tun: int, run: Run) -> None:
    home = f"/proc/{os.getpid()}/ns/net"
    tunctl.up(tun, "10.0.0.1/24")
    tunctl.move(tun, elsewhere)
    assert "t0" not in run("ip", "-br", "link")
    assert "t0" in inside(elsewhere, run, "ip", "-br", "link")
    tunctl.up(tun, "10.0.0.9/24")
    assert "10.0.0.9" in inside(elsewhere, run, "ip", "-br", "addr")
    tunctl.move(tun, elsewhere)  # it is there
    tunctl.move(tun, Path(home))
    assert "t0" in run("ip", "-br", "link")
    assert [str(a.interface) for a in tunctl.list_addresses(tun)] == []


def test_a_namespace_by_its_name(run: Run) -> None:
    run("ip", "netns", "add", f"tuncer-{os.getpid()}")
    try:
        fd = tunctl.create("t0", TUN, f"tuncer-{os.getpid()}")
        assert "t0" in run("ip", "-netns", f"tuncer-{os.getpid()}", "-br", "link")
        os.close(fd)
    finally:
        run("ip", "netns", "del", f"tuncer-{os.getpid()}")


def test_a_name_that_is_taken_there(elsewhere: int, tun: int) -> None:
    other = tunctl.create("t0", TUN, elsewhere)
    with pytest.raises(OSError, match="has an interface of this name") as caught:
        tunctl.move(tun, elsewhere)
    assert caught.value.errno == errno.EEXIST
    os.close(other)


def test_without_the_capability_entering_a_namespace_says_so(elsewhere: int) -> None:
    code = f"from tuncer import tunctl; tunctl.create('t0', namespace={elsewhere})"
    dropped = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"]
    done = subprocess.run(
        [*dropped, sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert "PermissionError" in done.stderr
    assert "CAP_SYS_ADMIN" in done.stderr or "may not look" in done.stderr


# -- unprivileged ----------------------------------------------------------------------------------

_AS_OWNER = """
import os
from tuncer import tunctl
from tuncer.tunctl import Flag
fd = tunctl.create("p0", Flag.TUN | Flag.NO_PI)
tunctl.up(fd, "10.0.0.1/24")
tunctl.up(fd)
print(tunctl.mtu(fd, 1400), tunctl.txqueuelen(fd, 500), tunctl.flags(fd).name)
tunctl.add_route(fd, "10.0.0.0/24")
try:
    tunctl.mtu(fd, 1500)
except PermissionError as error:
    print(error.filename, error.strerror)
"""


def test_an_unprivileged_owner_uses_what_was_made_ready_for_it(run: Run, tmp_path: Path) -> None:
    if only_one_user():
        pytest.skip("there is only one user in this user namespace")
    run("ip", "tuntap", "add", "p0", "mode", "tun", "user", "54321")
    run("ip", "addr", "add", "10.0.0.1/24", "dev", "p0")
    run("ip", "link", "set", "p0", "up", "mtu", "1400")
    output = run_as_user(_AS_OWNER, tmp_path).stdout
    first, second = output.splitlines()
    assert first == "1400 500 TUN|PERSIST|NO_PI"
    assert second.startswith("p0 ")
    assert "CAP_NET_ADMIN" in second
    tunctl.delete("p0")


# -- descriptors -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_no_descriptor_leaks_over_ten_thousand_devices() -> None:
    # Each takes the kernel 16 ms to delete, most of which it waits: many at a time.
    before = os.listdir("/proc/self/fd")

    held = tunctl.create("held", TUN)
    failing: list[tuple[str, int, Any]] = [
        ("lo", TUN, None),
        ("held", TUN, None),
        ("held", TAP, None),
        ("t", TUN, "no-such-namespace"),
        ("t" * 16, TUN, None),
        ("t", TUN | Flag.NAPI | Flag.NAPI_FRAGS, None),
    ]

    def cycle(number: int) -> None:
        if number % 4 == 3:  # failing ones too
            with pytest.raises((OSError, ValueError)):
                tunctl.create(*failing[number // 4 % len(failing)])
            return
        fd = tunctl.create(f"t{threading.get_ident() % 10**9}", TUN)
        assert not os.get_inheritable(fd)
        os.close(fd)

    with ThreadPoolExecutor(64) as threads:
        for _ in threads.map(cycle, range(10_000)):
            pass
    os.close(held)
    assert len(os.listdir("/proc/self/fd")) == len(before)


# -- pure ------------------------------------------------------------------------------------------

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


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_a_route_covers_itself_and_less_said_covers_more(metric: int, table: int) -> None:
    full = routes._route("10.0.0.0/8", "10.0.0.1", "10.0.0.2", metric, table)
    less = routes._route("10.0.0.0/8", None, None, None, table)
    assert isinstance(full, Route)
    assert routes._covers(full, full)
    assert routes._covers(full, less)
    assert not routes._covers(less, full)
