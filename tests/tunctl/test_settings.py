"""Settings by ioctls: persistence, owner, sizes, offload."""

import errno
import os
from pathlib import Path

import pytest
from devices import TAP, TUN
from ip_links import device, shown
from processes import Run
from users import only_one_user, run_as_user

from tuncer import tunctl
from tuncer.tunctl import Flag


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


def test_persist_owner_and_group_by_descriptor_and_by_name(run: Run) -> None:
    fd = tunctl.create("t0", Flag.TUN | Flag.NO_PI)
    tunctl.persist(fd)
    mapped = Path("/proc/self/uid_map").read_text().split()[2] != "1"
    user, team = (54321, 54322) if mapped else (0, 0)
    tunctl.owner(fd, user)
    tunctl.group(fd, team)
    assert Flag.PERSIST in tunctl.flags(fd)
    with pytest.raises(OSError, match="in use"):
        tunctl.persist("t0", False)
    os.close(fd)
    data = shown(run)["linkinfo"]["info_data"]
    named = {"root": 0}
    assert [named.get(data[k], data[k]) for k in ("user", "group")] == [user, team]
    tunctl.owner("t0", "root")
    tunctl.group("t0", 0)
    assert str(shown(run)["linkinfo"]["info_data"]["user"]) in {"0", "root"}
    tunctl.persist("t0", False)
    assert "t0" not in run("ip", "-br", "link")


def test_owner_that_is_no_user(tun: int) -> None:
    with pytest.raises(KeyError, match="nobody-of-that-name"):
        tunctl.owner(tun, "nobody-of-that-name")
    with pytest.raises(ValueError, match="user or group id"):
        tunctl.owner(tun, -5)
