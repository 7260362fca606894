"""Wrong arguments: a clear error, and nothing changes."""

import errno
import json
import os
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from devices import TUN
from ip_links import routes_shown
from processes import Run

from tuncer import tunctl


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


def test_a_name_that_is_no_text(tun: int, run: Run) -> None:
    subprocess.run([b"ip", b"link", b"set", b"t0", b"name", b"\xff\xfe"], check=True)
    assert tunctl.devname(tun) == "\\xff\\xfe"
    tunctl.up(tun, "10.0.0.1/24")
    assert tunctl.mtu(tun, 1400) == 1400
    assert tunctl.flags(tun) == TUN
    assert {str(a.interface) for a in tunctl.list_addresses(tun)} >= {"10.0.0.1/24"}
    tunctl.rename(tun, "t0")
    assert tunctl.devname(tun) == "t0"
