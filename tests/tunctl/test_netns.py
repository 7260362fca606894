"""Devices in other network namespaces, configured from here."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from devices import TUN
from processes import Run

from tuncer import tunctl


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
