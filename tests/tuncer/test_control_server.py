"""The control socket: junk, clients that do not read, many of them, strangers."""

import array
import errno
import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import killed_workers
import msgpack
import pytest
from devices import TUN
from directories import remove
from processes import PATIENCE, Run, stop

import tuncer
from supervisor import Supervisor
from tuncer import Device, Flag
from tuncer.protocol import control_socket, paths
from tuncer.protocol.fd_store_keys import CONTROL, StoreKey
from tuncer.worker.fd_store import FdStore
from tuncer.worker.server import Worker


def connect_to(dev: Device) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    client.connect(str(dev._path))
    return client


def test_junk_at_the_control_socket_leaks_nothing(dev: Device) -> None:
    pid = dev.pid
    before = len(os.listdir(f"/proc/{pid}/fd"))
    for junk in (
        b"\xc1",
        b"\x05",
        b"\x81\xa1a\x01",
        b"\xc3",
        b"\x90",
        b"\x91\x05",
        b"\x91\xa3abc",
        b"x" * 5000,
    ):
        for _ in range(20):
            with connect_to(dev) as client:
                fds = array.array("i", [0, 1, 2]).tobytes()
                client.sendmsg([junk], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
    while len(os.listdir(f"/proc/{pid}/fd")) > before + 1:
        dev.statistics()
    assert dev.pid == pid


def test_a_client_that_does_not_read_is_disconnected(dev: Device) -> None:
    with connect_to(dev) as client:
        client.settimeout(PATIENCE)
        with pytest.raises(OSError, match=r"Broken pipe|reset"):
            while True:
                client.send(msgpack.packb(["worker"]))
        assert dev.mtu() == 1500


def test_a_hundred_connections_while_the_worker_is_stopped(dev: Device) -> None:
    pid = dev.pid
    stop(pid)
    with ThreadPoolExecutor(100) as pool:
        asked = [pool.submit(dev.getfd) for _ in range(100)]
        os.kill(pid, signal.SIGCONT)
        fds = [done.result(PATIENCE) for done in asked]
    assert len(set(fds)) == 100
    for fd in fds:
        os.close(fd)


def test_a_second_worker_for_one_device_is_refused(run: Run) -> None:
    flags = TUN | Flag.MULTI_QUEUE
    with tuncer.create("mq0", flags) as dev:
        with pytest.raises(OSError, match="another process is attached") as caught:
            tuncer.create("mq0", flags)
        assert caught.value.errno == errno.EBUSY
        assert tuncer.attach("mq0").devname() == dev.devname() == "mq0"


def test_strangers_at_the_control_socket_and_the_mailbox_harm_nobody(dev: Device) -> None:
    path = paths.control_path(socket.if_nametoindex("lab0"))
    for junk in (b"\xc1", b"x" * 5000, b"\x90", b"\x91\x01", b"\x91\xa9subscribe"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
            stranger.connect(str(path))
            stranger.send(junk)
    worker = dev._first.find()
    for nonsense in (["nonsense", [], {}], ["mtu"], "mtu", ["_mtu", [], {}], [[], [], {}], None):
        with pytest.raises((ValueError, TypeError)):
            worker.call(nonsense)
    with pytest.raises(TypeError):
        dev._call("mtu", 1, 2, 3)
    assert dev.statistics()["restarts"] == 0


class IsRefusedOnce(Worker):
    """The second time it stores its control socket, the fd store has no room."""

    def init(self, *arguments: Any, **options: Any) -> Any:
        stored, original = 0, FdStore.put

        def put(store: FdStore, key: StoreKey, fd: int) -> None:
            nonlocal stored
            stored += key == CONTROL
            if stored == 2:
                raise OSError(errno.ENOSPC, "the fd store is full")
            original(store, key, fd)

        FdStore.put = put  # type: ignore[method-assign]
        return super().init(*arguments, **options)


def test_a_control_socket_that_cannot_be_stored_again_is_served(runtime_dir: Path) -> None:
    root = Supervisor.start_link([killed_workers.spec(IsRefusedOnce)])
    dev = tuncer.attach("lab0")
    remove(runtime_dir)
    assert tuncer.attach("lab0").pid == dev.pid
    root.stop()


@pytest.mark.parametrize(
    "message",
    [
        *([[]], [{}], [None], [[], []], ["subscribe"], ["subscribe", 1, 2, 3]),
        *(["subscribe", True, True, -1], ["subscribe", True, True, "x"], ["subscribe_zmq", 5]),
        *(["worker", 1], ["getfd", []], [{"publish": 1}, True]),
    ],
)
def test_a_request_of_any_shape_is_refused_and_ends_nothing(dev: Device, message: Any) -> None:
    pid = dev.pid
    with pytest.raises((ValueError, TypeError)):
        control_socket.request(dev._path, "lab0", *message, timeout=PATIENCE)
    assert dev.pid == pid
    assert dev.statistics()["restarts"] == 0
