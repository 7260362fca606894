"""gVisor, a kernel in a sandbox, has a TUN of its own that knows little: the rest is told."""

import shutil
import subprocess
import sys

import pytest
from processes import ROOT
from users import only_one_user

SANDBOX = ("runsc", "--network=none", "--ignore-cgroups", "do")

PREPARE = f"""
import errno, os, select, socket, sys
sys.path.insert(0, {str(ROOT)!r})
from tuncer import Flag, tunctl

def number(act):
    try:
        act()
    except OSError as error:
        return error.errno
"""

DEVICE = """
fd = tunctl.create("lab0", Flag.{kind} | Flag.NO_PI)
assert (tunctl.devname(fd), tunctl.check(fd)) == ("lab0", Flag.{kind} | Flag.NO_PI)
tunctl.up(fd, "10.9.0.1/24")
assert [str(one.interface) for one in tunctl.list_addresses(fd)] == ["10.9.0.1/24"]
assert tunctl.is_up(fd) and tunctl.mtu(fd) == 1500
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"hello", ("10.9.0.2", 9))
assert select.select([fd], [], [], 10)[0]
packet = os.read(fd, 2000)
assert packet.endswith({ends!r}), packet
for unknown in (tunctl.owner, tunctl.queues, tunctl.statistics, tunctl.carrier):
    assert number(lambda: unknown(fd)) == errno.EOPNOTSUPP, unknown
for unknown in (tunctl.sndbuf, tunctl.persist, lambda fd: tunctl.offload(fd, 0)):
    assert number(lambda: unknown(fd)) == errno.ENOTTY, unknown
assert number(tunctl.features) == errno.ENOTTY
tunctl.remove_address(fd, "10.9.0.1")
assert tunctl.list_addresses(fd) == []
tunctl.delete(fd)
"""

ACTOR = """
from supervisor import GenServer
assert number(GenServer.start_link) == errno.ENOSYS
"""

pytestmark = pytest.mark.skipif(
    not shutil.which("runsc") or only_one_user(), reason="needs runsc, and root who may run it"
)


def in_sandbox(code: str) -> None:
    """Run a program in a sandbox; some versions of runsc end as they start, without a word."""
    command = [*SANDBOX, sys.executable, "-c", PREPARE + code]
    for _ in range(10):
        done = subprocess.run(
            command, umask=0o022, capture_output=True, text=True, timeout=50, check=False
        )
        if done.returncode == 0 or done.stderr:
            break
    else:
        pytest.skip(f"this runsc does not start: exit status {done.returncode}, and no word")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("kind", "ends"), [("TUN", b"hello"), ("TAP", bytes((10, 9, 0, 2)))], ids=["tun", "tap"]
)
def test_a_device_with_an_address_gives_packets(kind: str, ends: bytes) -> None:
    """What the TAP gives is the question for the other's MAC address."""
    in_sandbox(DEVICE.format(kind=kind, ends=ends))


def test_an_actor_is_told_what_it_lacks() -> None:
    """As long as it has no pidfd_open(2): it may, by and by."""
    has_it = "assert number(lambda: os.close(os.pidfd_open(os.getpid()))) is None"
    try:
        in_sandbox(has_it)
    except AssertionError:
        in_sandbox(ACTOR)
