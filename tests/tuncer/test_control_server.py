"""Strangers, sleepers, kills at the worst moment: the worker and its supervisor live on."""

import array
import asyncio
import contextlib
import dataclasses
import errno
import itertools
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgpack
import pytest
from actors import Counter, Later
from devices import OTHER, TUN, kill_worker, root_of
from processes import PATIENCE, Run, eventually, program, stop, wait_for_end
from strangers import say, stranger
from traffic import send_one
from trees import times

import tuncer
from supervisor import ChildSpec, NotFound, ProcessDown, Ref, Supervisor, SupervisorRef, linux
from supervisor.protocol import codec, message_kinds
from tuncer import Device, Flag
from tuncer.client.ring_subscription import RingSubscription
from tuncer.protocol import paths


def control_path_of(dev: Device) -> socket.socket:
    visitor = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    visitor.connect(str(dev._path))
    return visitor


def reference(*fields: Any) -> msgpack.ExtType:
    return msgpack.ExtType(16, msgpack.packb(fields))


SHAPES = [
    [message_kinds.LINK, 0, reference([1, 1], None)],
    [message_kinds.LINK, 0, reference(None, None)],
    [message_kinds.LINK, 0, reference(None, 5)],
    [message_kinds.LINK, 0, reference(["x", "y"], None)],
    [message_kinds.LINK, 0, reference([2**40, 1], None)],
    [message_kinds.UNLINK, 0, reference(None, None)],
    [message_kinds.LINK, 0, "a name"],
    [message_kinds.ANSWER, 0, [b"x", 1, [], None]],
    [message_kinds.ANSWER, 0, [2**63, 2**63, 0, None]],
    [message_kinds.OWN, 1, 2**40],
    [message_kinds.OWN, 1, -1],
    [message_kinds.SUBSCRIBE, 1, []],
    [message_kinds.SEEN, 1, {}],
    [message_kinds.SEEN, 1, -5],
    [message_kinds.FORGET, 1, {}],
    [message_kinds.SYSTEM, 1, ["replace_state", {"": 1}]],
    [message_kinds.LEAVE, 1, {}],
    [0, 1, ["which_children"], [-1, -(2**62)]],
    [0, 1, 5],
    [0, 1, []],
    [0, 1, [[1]]],
    [0, 1, {}],
    [0, 1, None],
    [1, 0, "a cast"],
    [2, 0, "a message"],
    [5, 1, "no pid"],
    [6, 1, "no owner"],
    [99, 1, 0],
    [0, 1, ["start_child", {}, None]],
    [0, 1, ["start_child", {"id": "x"}, [1, 2]]],
    [0, 1, ["give_child", "x"]],
    [0, 1, ["send", 5]],
    [0, 1, ["up", 5, 6, 7]],
]


def test_messages_of_any_shape_end_neither_worker_nor_root(dev: Device, capfd: Any) -> None:
    nested = msgpack.packb(1)
    for _ in range(3000):
        nested = msgpack.packb(msgpack.ExtType(1, nested))
    raw = [
        msgpack.packb([0, 1, msgpack.ExtType(7, msgpack.packb([]))]),
        nested,
        b"\xc7\x0c\xff" + b"\xff" * 12,
    ]
    pids = dev.pid, root_of(dev)
    for pid in pids:
        for message in [*map(msgpack.packb, SHAPES), *raw]:
            with stranger(pid) as other:
                say(other, message)
    for pid in pids:
        ref = Ref(linux.process(pid))
        with pytest.raises(ValueError, match="does not know"):
            ref.call(["hello"])
    assert (dev.pid, root_of(dev)) == pids
    capfd.readouterr()


def test_nothing_from_a_mailbox_is_unpickled() -> None:
    sup: SupervisorRef = Supervisor.start_link([])
    plan = ChildSpec("c", Counter).plan()
    assert plan.pickled
    with pytest.raises(TypeError, match="pickled"):
        sup.call(["start_child", plan, None])
    forged = codec.pack(dataclasses.replace(plan, pickled=False)).replace(
        b"pickled\xc2", b"pickled\xc3"
    )
    with pytest.raises(ValueError, match="unpickled"):
        codec.unpack(forged)
    with pytest.raises(TypeError, match="takes a ChildSpec"):
        sup.call(["start_child", vars(plan), None])


def test_a_reason_of_any_size_and_shape_is_borne(capfd: Any) -> None:
    child = ChildSpec("c", Later, restart="transient")
    sup: SupervisorRef = Supervisor.start_link([child, ChildSpec("d", Counter)], intensity=9)
    for reason in ("x" * 70_000, ["unhashable"], {"a": 1}, "\N{SNOWMAN}" * 30_000):
        ref = sup.child("c")
        with contextlib.suppress(ProcessDown):  # of a reason that cannot be told
            ref.stop(reason, timeout=PATIENCE)
        if sup.which_children()[0][3] == "undefined":
            sup.restart_child("c")
    assert sup.child("d").call("get") == 0
    capfd.readouterr()


def test_junk_at_the_door_leaks_nothing(dev: Device) -> None:
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
            with control_path_of(dev) as visitor:
                fds = array.array("i", [0, 1, 2]).tobytes()
                visitor.sendmsg([junk], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
    while len(os.listdir(f"/proc/{pid}/fd")) > before + 1:
        dev.statistics()
    assert dev.pid == pid


def test_a_visitor_that_does_not_read_is_shown_out(dev: Device) -> None:
    with control_path_of(dev) as visitor:
        visitor.settimeout(PATIENCE)
        with pytest.raises(OSError, match=r"Broken pipe|reset"):
            while True:
                visitor.send(msgpack.packb(["worker"]))
        assert dev.mtu() == 1500


def test_a_subscriber_that_does_not_read_holds_up_nobody(dev: Device, run: Run) -> None:
    with dev.subscribe(events=True) as sleeper, dev.subscribe(), dev.subscribe(transport="zmq"):
        for _ in range(300):
            run("ip", "link", "set", "lab0", "down")
            run("ip", "link", "set", "lab0", "up")
        assert dev.mtu() == 1500
        assert isinstance(sleeper.recv(PATIENCE), tuncer.DeviceEvent)
        assert dev.statistics()["restarts"] == 0


def test_a_worker_killed_while_its_root_has_an_order_of_it(dev: Device) -> None:
    root, pid = root_of(dev), dev.pid
    with ThreadPoolExecutor(1) as pool:
        stop(root)
        subscribing = pool.submit(dev.subscribe)
        os.kill(pid, signal.SIGKILL)
        assert wait_for_end(pid)
        os.kill(root, signal.SIGCONT)
        with subscribing.result(PATIENCE) as subscription:
            send_one(OTHER, b"after")
            while subscription.recv(PATIENCE).data[28:] != b"after":  # type: ignore[union-attr]
                pass
    assert root_of(dev) == root


def test_subscribers_come_and_go_while_workers_are_killed(dev: Device, capfd: Any) -> None:
    stop = threading.Event()

    def come_and_go() -> int:
        rounds = 0
        while not stop.is_set():
            with dev.subscribe(), dev.subscribe(transport="zmq"):
                rounds += 1
        return rounds

    root = root_of(dev)
    with ThreadPoolExecutor(2) as pool:
        visitors = [pool.submit(come_and_go) for _ in range(2)]
        for _ in range(60):
            kill_worker(dev)
            dev.statistics()
        stop.set()
        assert all(visitor.result(PATIENCE) > 0 for visitor in visitors)
    assert root_of(dev) == root
    eventually(lambda: not (dev.statistics()["subscribers"]))
    capfd.readouterr()


def test_a_hundred_knocks_while_the_worker_is_stopped(dev: Device) -> None:
    pid = dev.pid
    stop(pid)
    with ThreadPoolExecutor(100) as pool:
        asked = [pool.submit(dev.getfd) for _ in range(100)]
        os.kill(pid, signal.SIGCONT)
        fds = [done.result(PATIENCE) for done in asked]
    assert len(set(fds)) == 100
    for fd in fds:
        os.close(fd)


@pytest.mark.parametrize("timeout", [3e6, 1e12, float("inf")])
def test_long_timeouts(dev: Device, timeout: float) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(dev.recv, timeout)
        while not waiting.done():
            send_one(OTHER)
        assert waiting.result()[28:] == b"hello"
    assert dev.statistics()["restarts"] == 0


def test_a_packet_for_a_caller_that_was_killed_goes_to_the_next(dev: Device) -> None:
    command = (
        "import tuncer; d = tuncer.attach('lab0'); d.statistics()\n"
        "print('now', flush=True); d.recv()\n"
    )
    with program(sys.executable, "-c", command) as caller:
        caller.expect("now")
        eventually(lambda: "poll" in Path(f"/proc/{caller.process.pid}/wchan").read_text())
        caller.process.kill()
        caller.process.wait(PATIENCE)
        for number in range(3):
            send_one(OTHER, b"%d" % number)
        assert [dev.recv(PATIENCE)[28:] for _ in range(3)] == [b"0", b"1", b"2"]


def test_recv_while_the_link_is_deleted(dev: Device, run: Run) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(dev.recv, PATIENCE)
        eventually(lambda: dev.statistics()["restarts"] is not None)
        run("ip", "link", "del", "lab0")
        with pytest.raises(OSError, match=r"was deleted|no such device"):
            waiting.result(PATIENCE)


def test_hundreds_of_monitors_do_not_use_up_the_calls() -> None:
    ref = Counter.start_link(3)
    monitors = [ref.monitor() for _ in range(600)]
    assert ref.call("get") == 3
    ref.stop()
    assert {monitor.wait(PATIENCE).reason for monitor in monitors} == {"normal"}


def test_a_moved_device_is_never_taken_for_another(dev: Device, run: Run) -> None:
    with program("unshare", "--net", "sh", "-c", "echo up; exec sleep 1000") as holder:
        holder.expect("up")
        run("ip", "link", "set", "lab0", "netns", str(holder.process.pid))
        run("ip", "link", "add", "lab0", "type", "veth", "peer", "name", "else0")  # not ours
        inside = ["nsenter", "-t", str(holder.process.pid), "-n", "ip"]
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


def test_a_second_worker_for_one_device_is_refused(run: Run) -> None:
    flags = TUN | Flag.MULTI_QUEUE
    with tuncer.create("mq0", flags) as dev:
        with pytest.raises(OSError, match="another process is attached") as caught:
            tuncer.create("mq0", flags)
        assert caught.value.errno == errno.EBUSY
        assert tuncer.attach("mq0").devname() == dev.devname() == "mq0"


def test_handed_on_it_outlives_an_owner_that_exits_normally(run: Run) -> None:
    guest = subprocess.Popen(["sleep", "1000"])
    command = (
        "import tuncer\n"
        "keep = tuncer.create('keep0', tuncer.Flag.TUN)\n"
        "gone = tuncer.create('gone0', tuncer.Flag.TUN)\n"
        f"keep.controlling_process({guest.pid}); print(keep.pid, flush=True)\n"
    )
    with program(sys.executable, "-W", "error", "-c", command) as owner:
        worker = int(owner.expect("\n"))
        assert owner.process.wait(PATIENCE) == 0
    links = run("ip", "-br", "link")
    assert "keep0" in links
    assert "gone0" not in links  # it went before its owner did
    assert tuncer.attach("keep0").pid == worker
    guest.kill()
    guest.wait()
    assert wait_for_end(worker)


def test_counts_of_a_slow_message_subscriber_add_up(dev: Device) -> None:
    with dev.subscribe(transport="zmq") as slow:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.connect((OTHER, 9))
            while dev.statistics()["packets_read"] < 150_000:  # more than all queues hold
                for _ in range(5_000):
                    sender.send(b"x" * 100)
        packets: list[Any] = []
        while not packets or packets[-1].data[28:] != b"last":
            try:
                packets.append(slow.recv(0.1))
            except TimeoutError:
                send_one(OTHER, b"last")  # tells of a gap at the end, too
        told = sum(packet.lost for packet in packets)
        assert slow.stats() == {"delivered": len(packets), "lost": told}
        assert told > 0
        assert [p.seq + 1 + n.lost == n.seq for p, n in itertools.pairwise(packets)].count(
            False
        ) == 0


@pytest.mark.parametrize("transport", ["ring", "zmq"])
def test_a_closed_subscription_is_at_its_end(dev: Device, transport: str) -> None:
    subscription = dev.subscribe(transport=transport)
    subscription.close()
    reader, writer = os.pipe()  # takes over the numbers of its descriptors
    os.write(writer, b"not yours")
    assert list(subscription) == []
    with pytest.raises(EOFError, match="closed"):
        subscription.recv()
    subscription.close()
    assert os.read(reader, 20) == b"not yours"
    os.close(reader)
    os.close(writer)


GUARDLESS = """
from supervisor import GenServer
class Mine(GenServer):
    def handle_call(self, request, sender):
        return request
ref = Mine.start_link()
print("echo", ref.call(5))
"""

GUARDED = """
from supervisor import ChildSpec, GenServer, Supervisor
class Mine(GenServer):
    def handle_call(self, request, sender):
        return request
if __name__ == "__main__":
    ref = Mine.start_link()
    sup = Supervisor.start_link([])
    child = sup.start_child(ChildSpec("mine", Mine))
    print("echo", ref.call(5), child.call(6))
"""


def test_a_missing_guard_is_named(runtime_dir: Path) -> None:
    script = runtime_dir / "script.py"
    script.write_text(GUARDLESS)
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert done.returncode == 1
    assert "put the start below" in done.stderr
    assert '__name__ == "__main__"' in done.stderr


def test_classes_of_the_main_module(runtime_dir: Path) -> None:
    script = runtime_dir / "script.py"
    script.write_text(GUARDED)
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert (done.stdout, done.stderr) == ("echo 5 6\n", "")


def test_an_owner_without_standard_input_output_and_error(run: Run) -> None:
    command = (
        "import os; os.closerange(0, 3)\n"
        "import tuncer\n"
        "with tuncer.create('lab0', tuncer.Flag.TUN) as dev:\n"
        "    os._exit(7 if dev.devname() == 'lab0' else 1)\n"
    )
    done = subprocess.run([sys.executable, "-c", command], check=False, timeout=PATIENCE)
    assert done.returncode == 7


def test_an_error_output_that_nobody_reads_stops_nothing() -> None:
    command = (
        "import os, select, tuncer\n"
        "dev = tuncer.create('lab0', tuncer.Flag.TUN)\n"
        "while select.select([], [2], [], 0)[1]: os.write(2, b'x' * 1000)\n"
        "for _ in range(50):\n"
        "    fd = os.pidfd_open(dev.pid); os.kill(dev.pid, 9)\n"
        "    select.select([fd], [], []); os.close(fd)\n"
        "print(dev.statistics()['restarts'], flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "50\n"
        assert owner.wait(PATIENCE) == 0


def test_counts_add_up_at_the_devices_end(run: Run) -> None:
    with tuncer.create("lab0", TUN) as dev:
        run("ip", "link", "set", "lab0", "addrgenmode", "none")
        dev.up("10.9.0.1/24")
        slow = dev.subscribe(transport="zmq")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.connect((OTHER, 9))
            while dev.statistics()["packets_read"] < 150_000:
                for _ in range(5_000):
                    sender.send(b"x" * 100)
        witness = dev.subscribe()
    # The log outlives the device in the witness's memory, and says how long it became at last.
    assert isinstance(witness, RingSubscription)
    assert witness._ring is not None
    read = witness._ring.control.head
    witness.close()
    packets = list(slow)
    assert slow.stats()["delivered"] == len(packets)
    assert slow.stats()["delivered"] + slow.stats()["lost"] == read
    slow.close()


def test_a_cancelled_anext_loses_nothing(dev: Device) -> None:
    async def take(count: int) -> list[int]:
        found: list[int] = []
        with dev.subscribe() as subscription:
            for number in range(count):
                send_one(OTHER, b"%d" % number)
            while len(found) < count:
                try:
                    packet = await asyncio.wait_for(anext(subscription), 0.0004)
                except TimeoutError:
                    continue
                found.append(int(packet.data[28:]))  # type: ignore[union-attr]
            assert subscription.stats() == {"delivered": count, "lost": 0}
        return found

    assert asyncio.run(take(1000)) == list(range(1000))


def test_a_new_message_subscriber_gets_nothing_from_before(dev: Device) -> None:
    with dev.subscribe(transport="zmq") as former:
        for number in range(500):
            send_one(OTHER, b"%d" % number)
        eventually(lambda: dev.statistics()["packets_read"] >= 500)
        kill_worker(dev)
        with dev.subscribe(transport="zmq") as newcomer:
            send_one(OTHER, b"new")
            assert newcomer.recv(PATIENCE).data[28:] == b"new"  # type: ignore[union-attr]
        assert former.recv(PATIENCE).data[28:] == b"0"  # type: ignore[union-attr]


@pytest.mark.parametrize("timeout", [3e6, float("inf")])
def test_long_timeouts_of_a_subscription(dev: Device, timeout: float) -> None:
    with dev.subscribe() as subscription, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(subscription.recv, timeout)
        send_one(OTHER)
        assert waiting.result(PATIENCE)


def test_a_root_goes_with_the_last_device_that_was_handed_on(run: Run) -> None:
    guest = subprocess.Popen(["sleep", "1000"])
    command = (
        "import tuncer\n"
        "dev = tuncer.create('lab0', tuncer.Flag.TUN); pid = dev.pid\n"
        f"dev.controlling_process({guest.pid}); dev.destroy()\n"
    )
    run(sys.executable, "-c", command)  # returns, as nothing holds its output any more
    guest.kill()
    guest.wait()


def test_a_runtime_directory_that_vanished_is_made_again(dev: Device, runtime_dir: Path) -> None:
    pid = dev.pid
    shutil.rmtree(runtime_dir)
    os.kill(pid, signal.SIGKILL)
    assert wait_for_end(pid)
    deadline = time.monotonic() + PATIENCE
    while not (runtime_dir / "devices").is_dir() or not tuncer.devices():
        assert time.monotonic() < deadline
    assert dev.statistics()["restarts"] == 1


def test_a_stopped_root_does_not_hold_up_those_who_leave(dev: Device) -> None:
    root = root_of(dev)
    with dev.subscribe() as stays:
        leaves = dev.subscribe()
        stop(root)
        leaves.close()
        send_one(OTHER)
        assert stays.recv(PATIENCE)
        os.kill(root, signal.SIGCONT)


def test_a_crash_loop_ends(capfd: Any) -> None:
    """A child that cannot live is given up, within its limit; its root and siblings stay."""
    with tuncer.create("lab0", TUN) as dev:
        root = SupervisorRef(linux.process(root_of(dev)))
        root.start_child(ChildSpec("loop", Counter, intensity=20, period=60.0), owner=os.getpid())
        with pytest.raises(NotFound):
            while True:
                pid = root.child("loop").pid
                os.kill(pid, signal.SIGKILL)
                assert wait_for_end(pid)
        err = capfd.readouterr().err
        assert times(err, "restarting it") == 21
        assert "is given up: more than 20 restarts within 60 s; it ended: killed" in err
        assert dev.devname() == "lab0"


def test_supervisors_have_room_for_descriptors() -> None:
    with tuncer.create("lab0", TUN) as dev:
        soft, hard = resource.prlimit(root_of(dev), resource.RLIMIT_NOFILE)
        assert soft == hard


def test_door_paths_are_swept(dev: Device) -> None:
    stale = paths.directory() / "1-1"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
        dead.bind(str(stale))
    paths.sweep()
    assert not stale.exists()
    assert tuncer.devices() == [dev]
