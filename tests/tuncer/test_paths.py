"""Where a device is found, though it is moved or renamed."""

import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from devices import TUN, kill_worker
from processes import PATIENCE, Run, another_namespace, kill, program, wait_for_end
from users import several_users

import tuncer
from tuncer import Device, DeviceError, DeviceEvent, Flag
from tuncer.protocol import paths


def test_a_moved_device_is_never_taken_for_another(dev: Device, elsewhere: int, run: Run) -> None:
    run("ip", "link", "set", "lab0", "netns", str(elsewhere))
    run("ip", "link", "add", "lab0", "type", "veth", "peer", "name", "else0")  # not ours
    inside = ["nsenter", "-t", str(elsewhere), "-n", "ip"]
    dev.up("10.66.0.1/24")
    assert dev.mtu(1400) == 1400
    kill_worker(dev)
    assert dev.statistics()["restarts"] == 1
    assert dev.mtu() == 1400
    assert "10.66.0.1/24" in run(*inside, "addr", "show", "dev", "lab0")
    dev.destroy()
    assert "10.66" not in run("ip", "addr", "show", "dev", "lab0")
    assert "mtu 1500" in run("ip", "link", "show", "dev", "lab0")
    assert "lab0" not in run(*inside, "-br", "link")


def test_a_renamed_device_and_another_of_its_old_name(dev: Device, run: Run) -> None:
    run("ip", "link", "set", "lab0", "down")
    run("ip", "link", "set", "lab0", "name", "lab1")
    with tuncer.create("lab0", TUN) as other:
        assert dev != other
        assert (dev.devname(), other.devname()) == ("lab1", "lab0")
        assert tuncer.attach("lab1") == dev
        assert len(tuncer.devices()) == 2
    assert "lab0" not in run("ip", "-br", "link")
    assert dev.devname() == "lab1"


def test_a_runtime_directory_that_vanished_is_made_again(dev: Device, runtime_dir: Path) -> None:
    pid = dev.pid
    shutil.rmtree(runtime_dir)
    os.kill(pid, signal.SIGKILL)
    assert wait_for_end(pid)
    deadline = time.monotonic() + PATIENCE
    while not (runtime_dir / "devices").is_dir() or not tuncer.devices():
        assert time.monotonic() < deadline
    assert dev.statistics()["restarts"] == 1


def test_paths_of_control_sockets_are_swept(dev: Device) -> None:
    stale = paths.directory() / "1-1"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
        dead.bind(str(stale))
    paths.sweep()
    assert not stale.exists()
    assert tuncer.devices() == [dev]


def test_devices_that_were_moved_are_found_where_they_are(run: Run) -> None:
    with another_namespace() as one, another_namespace() as two:
        for name, there in (("lab0", one), ("other0", two)):  # made there, they have one number
            inside = ("nsenter", "--net", "--target", str(there))
            run(*inside, "ip", "tuntap", "add", name, "mode", "tun")
        with (
            tuncer.create("lab0", TUN, namespace=one) as a,
            tuncer.create("other0", TUN, namespace=two) as b,
        ):
            assert a.ifindex() == b.ifindex()
            a.move(two)
            b.move(one)
            assert tuncer.attach("other0", one) == b
            assert tuncer.attach("lab0", two) == a
            with pytest.raises(DeviceError, match="no such device"):
                tuncer.attach("lab0", one)


def test_an_interface_of_somebody_else_is_not_attached_to(run: Run) -> None:
    run("ip", "tuntap", "add", "theirs", "mode", "tun")
    with pytest.raises(DeviceError, match="no worker of this user serves") as caught:
        tuncer.attach("theirs")
    assert caught.value.errno == errno.ENODEV


def test_a_name_that_is_no_text(dev: Device) -> None:
    with dev.subscribe(events=True) as subscription:
        subprocess.run([b"ip", b"link", b"set", b"lab0", b"name", b"\xff\xfe"], check=True)
        assert subscription.recv(PATIENCE) == DeviceEvent("name", "lab0", "\\xff\\xfe")
        assert dev.devname() == "\\xff\\xfe"
        kill(dev.pid)
        assert dev.mtu(1400) == 1400
        dev.rename("lab0")
        assert dev.statistics()["restarts"] == 1


LISTENS = """
import os, socket, sys
listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
listener.bind(sys.argv[1])
os.chmod(sys.argv[1], 0o666)
os.setresuid(54321, 54321, 54321)
listener.listen()
print("listening", flush=True)
sys.stdin.read()
"""


@several_users
def test_another_user_at_a_control_sockets_path_is_no_worker() -> None:
    with tuncer.create("d0", Flag.TUN | Flag.NO_PI) as device:
        path = device._path
        away = path.with_name("away")
        path.rename(away)
        with program(sys.executable, "-c", LISTENS, str(path)) as other:
            other.expect("listening")
            with pytest.raises(tuncer.DeviceError, match="user 54321 listens in place of"):
                device.getfd()
        away.rename(path)
        os.close(device.getfd())
