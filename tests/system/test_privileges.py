"""Without privileges, and with one capability: what works, and what `tuncer doctor` says of it."""

import subprocess
import sys
from pathlib import Path

from processes import run
from users import run_as_user, several_users

from tuncer import tunctl

_SEND_AND_RECEIVE = """
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"hello", ("10.0.0.2", 9))
        while (packet := dev.recv(10.0))[0] >> 4 != 4:
            pass
        print(len(packet))
"""


_AS_OWNER = (
    """
import socket
import tuncer
from tuncer import Flag
if __name__ == "__main__":
    with tuncer.create("p0", Flag.TUN | Flag.NO_PI, persist=True) as dev:
        dev.up("10.0.0.1/24")
        dev.up()
        dev.add_route("10.0.0.0/24")
        print(dev.mtu(1400), dev.txqueuelen(500), dev.flags().name, flush=True)
        try:
            dev.mtu(1500)
        except PermissionError as error:
            print(error.filename, "CAP_NET_ADMIN" in str(error))
"""
    + _SEND_AND_RECEIVE
)


_WITH_CAPABILITY = (
    """
import os, signal, socket
import tuncer
from tuncer import Flag
if __name__ == "__main__":
    with tuncer.create("p0", Flag.TUN | Flag.NO_PI) as dev:
        dev.up("10.0.0.1/24", link_local=False)
        os.kill(dev.pid, signal.SIGKILL)
        print(os.getuid(), dev.mtu(1400), dev.statistics()["restarts"])
"""
    + _SEND_AND_RECEIVE
)


@several_users
def test_an_unprivileged_owner_has_its_device_supervised(tmp_path: Path) -> None:
    run("ip", "tuntap", "add", "p0", "mode", "tun", "user", "54321")
    run("ip", "addr", "add", "10.0.0.1/24", "brd", "+", "dev", "p0")
    run("ip", "link", "set", "p0", "up", "mtu", "1400")
    done = run_as_user(_AS_OWNER, tmp_path)
    assert done.stdout.splitlines() == ["1400 500 TUN|PERSIST|NO_PI", "p0 True", "33"], done.stderr
    assert "p0" in run("ip", "-br", "link")
    tunctl.delete("p0")


@several_users
def test_an_ambient_capability_is_enough(tmp_path: Path) -> None:
    done = run_as_user(
        _WITH_CAPABILITY, tmp_path, "--inh-caps=+net_admin", "--ambient-caps=+net_admin"
    )
    assert done.stdout.splitlines() == ["54321 1400 1", "33"], done.stderr
    assert "p0" not in run("ip", "-br", "link")


@several_users
def test_a_file_capability_is_enough(tmp_path: Path) -> None:
    # cap_net_admin+ep, as of setcap(8): struct vfs_cap_data of linux/capability.h, revision 2.
    data = (0x02000001).to_bytes(4, "little") + (1 << 12).to_bytes(4, "little") + bytes(12)
    give = (
        f'LD_LIBRARY_PATH={sys.base_prefix}/lib $python -c "import os, shutil;'
        " shutil.copy('$python', '/mnt/able'); os.setxattr('/mnt/able', 'security.capability',"
        f" bytes.fromhex('{data.hex()}'))\" && python=/mnt/able"
    )
    done = run_as_user(_WITH_CAPABILITY, tmp_path, prepare=give)
    assert done.stdout.splitlines() == ["54321 1400 1", "33"], done.stderr


def test_in_a_user_namespace_of_ones_own() -> None:
    command = ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-c"]
    code = _WITH_CAPABILITY.replace("os.getuid()", "54321")
    done = subprocess.run([*command, code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["54321 1400 1", "33"], done.stderr


# -- doctor ----------------------------------------------------------------------------------------


DROPS = """
import os
import tuncer
device = tuncer.create("d0", tuncer.Flag.TUN | tuncer.Flag.NO_PI)
kept = device.subscribe()
device.mtu()
os.setgroups([]), os.setgid(65534), os.setuid(65534)
print("mtu", device.mtu())
try:
    device.subscribe()
except OSError as error:
    print(error, flush=True)
os._exit(0)
"""


def test_privileges_that_were_given_up_are_told() -> None:
    found = subprocess.run(
        [sys.executable, "-c", DROPS], capture_output=True, text=True, check=False
    )
    assert "mtu 1500" in found.stdout, found.stderr
    assert "a program that changes its user must call subscribe()" in found.stdout
