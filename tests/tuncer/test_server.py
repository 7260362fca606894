"""A worker's life: what crashes it, what it leaves, what does not reach it."""

import os
import resource
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import killed_workers
import msgpack
import pytest
from actors import Counter
from devices import OTHER, TAP, TUN, root_of
from processes import PATIENCE, Run, descriptors, eventually, stop, wait_for_end
from strangers import say, stranger
from traffic import send_one
from trees import times

import tuncer
from supervisor import ChildSpec, NotFound, Ref, Supervisor, SupervisorRef, linux
from supervisor.protocol import message_kinds
from tuncer import Device, Flag, Offload


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


@pytest.mark.parametrize("timeout", [3e6, 1e12, float("inf")])
def test_long_timeouts(dev: Device, timeout: float) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(dev.recv, timeout)
        while not waiting.done():
            send_one(OTHER)
        assert waiting.result()[28:] == b"hello"
    assert dev.statistics()["restarts"] == 0


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


def test_fewer_super_packets_are_queued() -> None:
    with tuncer.create("e0", TUN | Flag.VNET_HDR) as dev:
        dev.offload(Offload.CSUM | Offload.TSO4)
        assert dev.txqueuelen() == 1000
        dev.offload(0)
        assert dev.txqueuelen() == 10_000
        dev.txqueuelen(77)
        dev.offload(Offload.CSUM)
        assert dev.txqueuelen() == 77


@pytest.mark.slow
def test_devices_that_come_and_go_leave_no_descriptor_anywhere() -> None:
    with tuncer.create("first", TUN) as first:
        root = first._call("belongs")[0].pid
        at_root = len(descriptors(root))
        tuncer.create("e0", TUN).destroy()
        here, at_worker = len(descriptors(os.getpid())), len(descriptors(first.pid))
        for number in range(200):
            if number % 5 == 4:
                with pytest.raises(OSError, match="another sort"):
                    tuncer.create("lo", TUN)
            elif number % 5 == 3:
                with pytest.raises(OSError, match="without TAP and with TUN"):
                    tuncer.create("first", TAP)
            elif number % 5 == 2:
                with pytest.raises(OSError, match="32 bits"):
                    tuncer.create("e0", TUN, txqueuelen=-1)
            else:
                with tuncer.create("e0", TUN) as dev, dev.subscribe():
                    os.close(dev.getfd())
        assert len(descriptors(os.getpid())) == here
        # They close them when they have heard of the end. One more at the root is the pidfd of
        # their owner.
        limits = {first.pid: at_worker, root: at_root + 1}
        deadline = time.monotonic() + PATIENCE
        while any(len(descriptors(pid)) > most for pid, most in limits.items()):
            assert time.monotonic() < deadline, [descriptors(pid) for pid in limits]


def test_every_descriptor_is_closed_on_exec() -> None:
    before = set(descriptors(os.getpid()))
    with (
        tuncer.create("e0", TAP, queues=2) as dev,
        dev.subscribe(events=True),
        dev.subscribe(transport="zmq"),
    ):
        dev.filter("udp")
        held = dev.getfd()
        root, above = (ref.pid for ref in dev._call("belongs"))
        found = {os.getpid(): set(descriptors(os.getpid())) - before}
        found |= {pid: set(descriptors(pid)) - {"0", "1", "2"} for pid in (*dev.pids, root, above)}
        assert len(found[os.getpid()]) > 10
        for pid, numbers in found.items():
            for number in numbers:
                info = Path(f"/proc/{pid}/fdinfo/{number}").read_text()
                flags = int(info.split("flags:")[1].split()[0], 8)
                assert flags & os.O_CLOEXEC, (pid, number, descriptors(pid).get(number))
        os.close(held)


def test_a_kill_while_a_deleted_device_is_forgotten(run: Run) -> None:
    described: Any = {"restart": "permanent", "mtu": 1400, "addresses": ["10.9.0.1/24"]}
    root: SupervisorRef = Supervisor.start_link(
        [killed_workers.spec(killed_workers.AsItDropsItsDevice, **described)]
    )
    former = tuncer.attach("lab0")
    with former.subscribe():
        pid = former.pid
        run("ip", "link", "del", "lab0")
        assert wait_for_end(pid)
        new = eventually(lambda: next(iter(tuncer.devices()), None))
        assert new.mtu() == 1400
        assert "10.9.0.1" in str(new.list_addresses())
        assert new.statistics()["subscribers"] == 0
    root.stop()
