"""Packets are written on a descriptor of the process's own: over kills, ends, forks and threads."""

import asyncio
import contextlib
import errno
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from devices import make, root_of
from processes import (
    PATIENCE,
    Run,
    another_namespace,
    eventually,
    kill,
    program,
    stop,
    wait_for_end,
)

import tuncer
from tuncer import Device, DeviceError
from tuncer.client import packet_writer
from tuncer.client.packet_writer import writer_of

PACKET = b"\x45" + bytes(39)
"""What a TUN takes for a packet; the stack drops it."""


def own_descriptors() -> int:
    """Return how many descriptors of TUN devices this process has."""
    found = 0
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found += os.readlink(f"/proc/self/fd/{fd}") == "/dev/net/tun"
    return found


def links(run: Run) -> str:
    return run("ip", "-br", "link")


def test_kills_of_the_worker_change_nothing_for_who_sends(dev: Device) -> None:
    over = threading.Event()

    def flood() -> int:
        count = 0
        while not over.is_set():
            assert dev.send(*[PACKET] * 8) == 8
            count += 8
        return count

    with ThreadPoolExecutor() as pool:
        sending = pool.submit(flood)
        for _ in range(10):
            kill(dev.pid)
            dev.statistics()
        over.set()
        count = sending.result(PATIENCE)
    statistics = dev.statistics()
    assert statistics["restarts"] == 10
    assert statistics["packets_sent"] == count > 10
    assert statistics["bytes_sent"] == count * len(PACKET)


def test_a_stopped_worker_is_not_needed(dev: Device) -> None:
    dev.send(PACKET)
    worker = dev.pid
    stop(worker)
    for _ in range(3):
        time.sleep(0.002)  # longer than the device is taken to be there
        assert dev.send(PACKET) == 1
    os.kill(worker, signal.SIGCONT)
    eventually(lambda: dev.statistics()["packets_sent"], 4)


def test_a_device_that_is_destroyed_goes_though_somebody_has_sent(run: Run) -> None:
    dev = make()
    other = pickle.loads(pickle.dumps(dev))
    assert other.send(PACKET) == dev.send(PACKET) == 1
    assert own_descriptors() == 1  # all handles share it
    dev.destroy()
    assert "lab0" not in links(run)
    assert own_descriptors() == 0
    with pytest.raises(DeviceError, match="no such device") as caught:
        other.send(PACKET)
    assert caught.value.errno == errno.ENODEV


HOLDS = """
import sys, tuncer
device = tuncer.attach("lab0")
print(device.send(b"\\x45" + bytes(39)), flush=True)
for line in sys.stdin:
    try:
        print(device.send(b"\\x45" + bytes(39)), flush=True)
    except OSError as error:
        print(error.errno, flush=True)
"""


def test_another_process_that_has_sent_learns_of_the_end(dev: Device, run: Run) -> None:
    with program(sys.executable, "-c", HOLDS) as holder:
        holder.expect("1")
        dev.destroy()
        assert "lab0" not in links(run)
        print(file=holder.process.stdin, flush=True)
        holder.expect(f"{errno.ENODEV}")


def test_a_device_whose_tree_was_killed_goes_at_the_next_use(run: Run) -> None:
    dev = make()
    with program(sys.executable, "-c", HOLDS) as holder:
        holder.expect("1")
        root, worker = root_of(dev), dev.pid
        kill(root)
        assert wait_for_end(worker)
        assert "lab0" in links(run)  # a limit that README tells
        print(file=holder.process.stdin, flush=True)
        holder.expect(f"{errno.ENODEV}")
        assert "lab0" not in links(run)


def test_it_goes_with_the_process_that_had_sent(run: Run) -> None:
    dev = make()
    with program(sys.executable, "-c", HOLDS) as holder:
        holder.expect("1")
        kill(root_of(dev))
    eventually(lambda: "lab0" not in links(run))


def test_the_owner_makes_it_again_after_a_kill_of_the_tree(run: Run) -> None:
    dev = make()
    dev.send(PACKET)
    worker = dev.pid
    kill(root_of(dev))
    assert wait_for_end(worker)
    with make() as again:
        assert again.send(PACKET) == 1
        assert own_descriptors() == 1


def test_one_that_was_deleted_is_told(dev: Device, run: Run) -> None:
    dev.send(PACKET)
    run("ip", "link", "del", "lab0")
    with pytest.raises(OSError, match=r"was deleted|no such device") as caught:
        for _ in range(1000):
            dev.send(PACKET)
    assert caught.value.filename == "lab0"
    assert caught.value.errno in {errno.EBADFD, errno.ENODEV}
    eventually(lambda: own_descriptors() == 0)


def test_it_follows_a_rename_and_a_move(dev: Device, run: Run) -> None:
    dev.send(PACKET)
    dev.rename("other0")
    dev.mtu(9000)
    assert dev.send(PACKET, bytes([0x45]) + bytes(8000)) == 2
    with another_namespace() as pid:
        dev.move(pid)
        with pytest.raises(OSError, match="is down"):
            dev.send(PACKET)
        dev.up()
        assert dev.send(PACKET) == 1


def test_a_fork_has_a_descriptor_of_its_own(dev: Device) -> None:
    dev.send(PACKET)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            before = own_descriptors()
            sent = dev.send(PACKET)
            os.write(writer, b"%d %d %d" % (before, sent, own_descriptors()))
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert os.read(reader, 20) == b"0 1 1"
    assert dev.send(PACKET) == 1
    os.close(reader)
    os.close(writer)


def test_a_number_that_is_used_again_gets_no_packets(dev: Device) -> None:
    """Threads send while the device goes, and another thread opens whatever gets its number."""
    over = threading.Event()

    def send() -> str:
        while True:
            try:
                dev.send(PACKET)
            except OSError as error:
                return type(error).__name__

    def open_others() -> bytes:
        found = b""
        while not over.is_set():
            ends = [os.pipe2(os.O_NONBLOCK) for _ in range(20)]
            for reader, writer in ends:
                with contextlib.suppress(BlockingIOError):
                    found += os.read(reader, 100)
                os.close(reader)
                os.close(writer)
        return found

    with ThreadPoolExecutor() as pool:
        opening = pool.submit(open_others)
        sending = [pool.submit(send) for _ in range(4)]
        eventually(lambda: dev.statistics()["packets_sent"] > 100)
        dev.destroy()
        assert {one.result(PATIENCE) for one in sending} <= {"DeviceError", "OSError"}
        over.set()
        assert opening.result(PATIENCE) == b""


def test_thousands_of_handles_share_a_descriptor(dev: Device) -> None:
    handles = [tuncer.attach("lab0") for _ in range(2000)]
    before = len(os.listdir("/proc/self/fd"))
    for handle in handles:
        assert handle.send(PACKET) == 1
    assert len(os.listdir("/proc/self/fd")) <= before + 2
    assert own_descriptors() == 1


def test_what_nobody_uses_any_more_is_closed(dev: Device) -> None:
    handle = tuncer.attach("lab0")
    handle.send(PACKET)
    assert own_descriptors() == 1
    del handle
    assert own_descriptors() == 0


def test_asyncio(dev: Device) -> None:
    async def main() -> list[int]:
        return await asyncio.gather(*(dev.asend(PACKET, PACKET) for _ in range(50)))

    assert asyncio.run(main()) == [2] * 50
    assert dev.statistics()["packets_sent"] == 100


def test_the_packets_before_a_wrong_one_were_written(dev: Device) -> None:
    wrong: list[tuple[Any, type[Exception]]] = [
        (b"", ValueError),
        (bytes(70_000), ValueError),
        ("text", TypeError),
        (7, TypeError),
        (bytes(40), OSError),
    ]
    for number, (packet, error) in enumerate(wrong):
        with pytest.raises(error):
            dev.send(PACKET, packet, PACKET)
        assert dev.statistics()["packets_sent"] == number + 1


def test_a_full_send_buffer_is_waited_for(dev: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    write, full = os.write, [True, False, True, True, False]

    def refuse_some(fd: int, data: bytes) -> int:
        if data == PACKET and full and full.pop(0):
            raise BlockingIOError(errno.EAGAIN, "full")
        return write(fd, data)

    monkeypatch.setattr(os, "write", refuse_some)
    assert dev.send(PACKET, PACKET, PACKET) == 3
    full += [True, True]
    assert asyncio.run(dev.asend(PACKET, PACKET)) == 2
    monkeypatch.undo()
    assert dev.statistics()["packets_sent"] == 5


def test_one_that_stays_full_is_told(dev: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    dev.send(PACKET)
    writer = writer_of(dev._path, dev.name)
    ours, theirs = socket.socketpair()
    with contextlib.suppress(BlockingIOError):
        ours.setblocking(False)
        while True:
            ours.send(bytes(1 << 20))
    assert writer._there is not None
    os.dup2(ours.fileno(), writer._there.fd)  # what never has room
    monkeypatch.setattr(packet_writer, "PATIENCE", 0.05)
    with pytest.raises(BlockingIOError, match="send buffer has been full for"):
        dev.send(PACKET)
    ours.close()
    theirs.close()


def test_who_has_sent_before_it_dropped_its_privileges_goes_on(tmp_path: Path) -> None:
    code = (
        "import os, time, tuncer\n"
        "dev = tuncer.create('d0', tuncer.Flag.TUN | tuncer.Flag.NO_PI)\n"
        "dev.up()\n"
        "packet = b'\\x45' + bytes(39)\n"
        "dev.send(packet)\n"
        "os.setgroups([]), os.setgid(65534), os.setuid(65534)\n"
        "for _ in range(3): time.sleep(0.002); print(dev.send(packet), flush=True)\n"
        "os._exit(0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "1\n1\n1\n", done.stderr


def test_a_worker_that_hangs_is_killed_and_its_device_deleted(run: Run) -> None:
    dev = make()
    with program(sys.executable, "-c", HOLDS) as holder:
        holder.expect("1")
        stop(dev.pid)
        dev.destroy()
        assert "lab0" not in links(run)


DROPS = """
import os, signal, tuncer
dev = tuncer.create("d0", tuncer.Flag.TUN | tuncer.Flag.NO_PI)
dev.up()
packet, worker = b"\\x45" + bytes(39), dev.pid
dev.send(packet)
{before}
os.kill(worker, signal.SIGKILL)
while os.path.exists(f"/proc/{{worker}}"): pass
for _ in range(1000): dev.send(packet)
print("sent", flush=True)
os._exit(0)
"""


@pytest.mark.parametrize(
    "before",
    [
        "if os.fork(): os.wait(), os._exit(0)\ndev.send(packet)\nos.setuid(65534)",
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))",
    ],
    ids=["another user", "no descriptor free"],
)
def test_a_sender_that_cannot_look_goes_on_after_a_kill(before: str) -> None:
    code = DROPS.format(before=before)
    if "setuid" in before:  # who kills the worker stays root
        code = code.replace("os.kill(worker, signal.SIGKILL)\n", "").replace(
            "if os.fork(): os.wait()",
            "if os.fork(): os.kill(worker, signal.SIGKILL), os.wait()",
        )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert done.stdout == "sent\n", done.stderr


def test_forks_beside_threads_that_open_and_close_inherit_nothing(dev: Device) -> None:
    over = threading.Event()

    def send() -> None:
        while not over.is_set():
            tuncer.attach("lab0").send(PACKET)

    with ThreadPoolExecutor() as pool:
        sending = pool.submit(send)
        found = []
        for _ in range(200):
            pid = os.fork()
            if pid == 0:
                os._exit(own_descriptors())
            found.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        over.set()
        sending.result(PATIENCE)
    assert sum(found) == 0


def test_a_fork_in_a_signals_handler_sends_to_nobody(dev: Device, tmp_path: Path) -> None:
    path = tmp_path / "others"

    def fork(number: int, frame: object) -> None:
        if os.fork() == 0:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for _ in range(20):  # one of them would get the number
                os.open(path, os.O_WRONLY | os.O_CREAT)

    parent = os.getpid()
    before = signal.signal(signal.SIGALRM, fork)
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    try:
        dev.send(*[PACKET] * 100_000)
    except OSError:
        assert os.getpid() != parent
    finally:
        if os.getpid() != parent:
            os._exit(0)
        signal.signal(signal.SIGALRM, before)
    os.wait()
    assert path.stat().st_size == 0


def test_with_several_queues_the_packets_before_a_wrong_one_are_written_too(
    two_queues: Device,
) -> None:
    wrong: list[Any] = [7, None, "text", b"", [1]]
    for number, packet in enumerate(wrong):
        with pytest.raises((TypeError, ValueError)):
            two_queues.send(PACKET, packet)
        assert two_queues.statistics()["packets_sent"] == number + 1
    views = [memoryview(PACKET).cast("B", (4, 10)), memoryview(PACKET).cast("I")]
    views.append(memoryview(PACKET * 2)[::2])
    assert two_queues.send(*views) == 3


def test_a_queue_of_its_own(two_queues: Device) -> None:
    assert two_queues.send(PACKET, queue=1) == two_queues.send(PACKET, queue=0) == 1
    assert asyncio.run(two_queues.asend(PACKET, queue=1)) == 1
    assert two_queues.statistics()["packets_sent"] == 3
    for queue, error in ((2, ValueError), (-1, ValueError), (True, TypeError), ("0", TypeError)):
        with pytest.raises(error, match="queue"):
            two_queues.send(PACKET, queue=queue)  # type: ignore[arg-type]
