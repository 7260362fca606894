"""Settings of a link by rtnetlink: what is asked for is what ip(8) shows."""

import errno
import os

import pytest
from devices import TUN
from ip_links import device, shown
from processes import Run

from tuncer import tunctl
from tuncer.tunctl import Flag


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


def test_mtu(tun: int, run: Run) -> None:
    assert tunctl.mtu(tun) == 1500
    assert tunctl.mtu(tun, 9000) == 9000
    assert shown(run)["mtu"] == 9000
    for wrong in (10, 70000):
        with pytest.raises(OSError, match="68 to 65535") as caught:
            tunctl.mtu(tun, wrong)
        assert caught.value.errno == errno.EINVAL
