"""Devices of several queues: a worker each, and the kernel's flows among them."""

import asyncio
import contextlib
import errno
import json
import os
import signal
from collections import Counter
from typing import Any

import msgpack
import pytest
import zmq
from devices import TUN, queues
from hypothesis import given
from hypothesis import strategies as st
from processes import PATIENCE, Run, eventually, gone, kill, stop, wait_for_end
from traffic import FLOWS, flow_of, send_flows, take

import tuncer
from supervisor import Supervisor
from tuncer import Device, DeviceError, DeviceEvent, Flag, Packet, tunctl
from tuncer.worker.packet_reader import demand


def kill_worker_of(dev: Device, queue: int) -> None:
    """Kill the worker of a queue, while it serves."""
    while True:
        with contextlib.suppress(ProcessLookupError):  # it was killed before, and is just ending
            os.kill(dev.pids[queue], signal.SIGKILL)
            return


def await_queues(run: Run, wanted: tuple[int, int]) -> None:
    eventually(lambda: queues(run) == wanted)


def test_each_queue_has_a_worker_and_flows_keep_to_one(three_queues: Device, run: Run) -> None:
    assert three_queues.queues == len(set(three_queues.pids)) == 3
    assert three_queues.pid == three_queues.pids[0]
    assert three_queues.flags() == TUN | Flag.MULTI_QUEUE
    with three_queues.subscribe() as subscription:
        assert queues(run) == (3, 0)
        send_flows(each=4)
        packets = take(subscription, 4 * FLOWS)
        by_flow: dict[int, list[Packet]] = {}
        for packet in packets:
            by_flow.setdefault(flow_of(packet)[0], []).append(packet)
        assert {p.queue for p in packets} == {0, 1, 2}
        for flow, found in by_flow.items():
            assert [flow_of(p) for p in found] == [(flow, n) for n in range(4)]
            assert len({p.queue for p in found}) == 1
        counts = Counter(p.queue for p in packets)
        for queue in range(3):
            numbers = [p.seq for p in packets if p.queue == queue]
            assert numbers == list(range(counts[queue]))
        assert subscription.stats() == {"delivered": 4 * FLOWS, "lost": 0}
        found = three_queues.statistics()
        assert (found["packets_read"], found["dropped"]) == (4 * FLOWS, 0)
        assert [q["packets_read"] for q in found["queues"]] == [counts[q] for q in range(3)]
    assert tuncer.devices() == [three_queues]
    assert tuncer.attach("lab0").queues == 3


def test_a_queue_that_nobody_reads_is_detached(three_queues: Device, run: Run) -> None:
    assert queues(run) == (0, 3)
    with three_queues.subscribe(queue=1) as second:
        assert queues(run) == (1, 2)
        send_flows(500)
        assert {p.queue for p in take(second, FLOWS)} == {1}  # the kernel gives it all flows
        with three_queues.subscribe() as all_of_them:
            assert queues(run) == (3, 0)
            send_flows()
            assert len(take(all_of_them, FLOWS)) == FLOWS
        await_queues(run, (1, 2))
        pid = three_queues.pids[1]
        os.kill(pid, signal.SIGKILL)
        assert wait_for_end(pid)
        assert queues(run) == (1, 2)
        assert {p.queue for p in take(second, 3)} == {1}
        assert [s["attached"] for s in three_queues.statistics()["queues"]] == [False, True, False]
    await_queues(run, (0, 3))
    send_flows(100)
    assert three_queues.statistics()["dropped"] == FLOWS
    three_queues.setopt(active=True)
    assert queues(run) == (3, 0)
    three_queues.setopt(active=False)
    assert queues(run) == (0, 3)
    assert three_queues.send(b"\x45" + bytes(39)) == 1  # a detached one still takes what is written


@pytest.mark.parametrize("transport", ["ring", "zmq"])
def test_queues_are_attached_when_a_subscription_is_in_force(
    three_queues: Device, run: Run, transport: str
) -> None:
    for _ in range(5):
        with three_queues.subscribe(transport=transport) as subscription:
            send_flows()
            assert len(take(subscription, FLOWS)) == FLOWS
        await_queues(run, (0, 3))


def test_recv_of_a_queue_attaches_it_and_it_stays(three_queues: Device, run: Run) -> None:
    with pytest.raises(TimeoutError):
        three_queues.recv(0.01, queue=2)
    assert queues(run) == (1, 2)
    send_flows()
    found = []
    for queue in (0, 2):
        while True:
            try:
                found.append(three_queues.recv(0.05, queue=queue))
            except TimeoutError:
                break
    assert len(found) == FLOWS

    async def once() -> None:
        with pytest.raises(TimeoutError):
            await three_queues.arecv(0.01, queue=2)

    asyncio.run(once())


def test_workers_are_killed_under_load_and_nothing_is_lost(three_queues: Device, run: Run) -> None:
    before = json.loads(run("ip", "-j", "link", "show", "dev", "lab0"))[0]["ifindex"]
    with three_queues.subscribe() as subscription:
        for turn in range(9):
            send_flows(turn * FLOWS)
            kill_worker_of(three_queues, turn % 3)
        found = sorted(flow_of(p)[0] for p in take(subscription, 9 * FLOWS))
        assert found == list(range(9 * FLOWS))
        assert subscription.stats()["lost"] == 0
    counts = three_queues.statistics()
    assert counts["restarts"] >= 3
    assert counts["dropped"] == 0
    assert json.loads(run("ip", "-j", "link", "show", "dev", "lab0"))[0]["ifindex"] == before


def test_the_supervisor_of_the_queues_is_killed(three_queues: Device, run: Run) -> None:
    above = three_queues._call("belongs")[1].pid
    with three_queues.subscribe() as subscription:
        send_flows()
        kill(above)
        send_flows(FLOWS)
        found = sorted(flow_of(p)[0] for p in take(subscription, 2 * FLOWS))
        assert found == list(range(2 * FLOWS))
    assert three_queues._call("belongs")[1].pid != above


def test_the_end_of_a_device_is_the_end_of_all(run: Run) -> None:
    dev = tuncer.create("", TUN, queues=2)
    assert dev.name == "tun0"
    dev.up("10.9.0.1/24")
    root, above = dev._call("belongs")
    pids = [*dev.pids, above.pid]
    subscriptions = [dev.subscribe(), dev.subscribe(transport="zmq")]
    dev.destroy()
    for subscription in subscriptions:
        assert all(isinstance(item, Packet) for item in subscription)  # it just ends
        subscription.close()
    assert all(wait_for_end(pid) for pid in pids)
    assert not gone(root.pid)
    assert "tun0" not in run("ip", "-br", "link")
    dev.destroy()
    with pytest.raises(DeviceError, match="no such device"):
        dev.subscribe()


def test_a_device_that_others_delete_ends_with_an_error(three_queues: Device, run: Run) -> None:
    pids = [*three_queues.pids, three_queues._call("belongs")[1].pid]
    with three_queues.subscribe(events=True) as subscription:
        run("ip", "link", "del", "lab0")
        kinds = []
        with pytest.raises(DeviceError, match="was deleted"):
            while True:
                item = subscription.recv(PATIENCE)
                kinds += [item.kind] if isinstance(item, DeviceEvent) else []
        assert kinds.count("deleted") == 1
    assert all(wait_for_end(pid) for pid in pids)


def test_a_device_deleted_while_no_worker_ran(three_queues: Device, run: Run) -> None:
    above = three_queues._call("belongs")[1].pid
    pids = three_queues.pids
    with three_queues.subscribe(events=True) as subscription:
        stop(above)  # so that nobody takes them up
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            assert wait_for_end(pid)
        run("ip", "link", "del", "lab0")
        os.kill(above, signal.SIGCONT)
        assert subscription.recv(PATIENCE) == DeviceEvent("deleted", "lab0")
        with pytest.raises(DeviceError, match="was deleted"):
            subscription.recv(PATIENCE)
    assert wait_for_end(above)


def test_events_are_told_once_and_passive_of_each_queue(three_queues: Device) -> None:
    with three_queues.subscribe(events=True) as subscription:
        three_queues.setopt(active=1)
        send_flows()
        found = take(subscription, 6)
        passive = [e for e in found if isinstance(e, DeviceEvent)]
        assert {e.kind for e in passive} == {"passive"}
        assert sorted(e.queue for e in passive) == [0, 1, 2]
        three_queues.mtu(1400)
        assert subscription.recv(PATIENCE) == DeviceEvent("mtu", "lab0", 1400)
        with pytest.raises(TimeoutError):
            subscription.recv(0.05)


@pytest.mark.parametrize(
    "expression", ["udp src port 20007", "ip6 protochain 17 or src port 20007"]
)
def test_a_filter_is_of_all_queues(three_queues: Device, expression: str) -> None:
    with three_queues.subscribe() as subscription:
        place = three_queues.filter(expression)
        assert place == ("worker" if "chain" in expression else "kernel")
        send_flows()
        assert flow_of(subscription.recv(PATIENCE)) == (7, 0)
        for pid in three_queues.pids:
            os.kill(pid, signal.SIGKILL)
            assert wait_for_end(pid)
        send_flows()
        assert flow_of(subscription.recv(PATIENCE)) == (7, 0)
        assert {q["filter_runs"] for q in three_queues.statistics()["queues"]} == {place}
        three_queues.filter(None)
        send_flows()
        assert len(take(subscription, FLOWS)) == FLOWS


def test_each_queue_has_an_endpoint_of_messages(three_queues: Device) -> None:
    context = zmq.Context()
    found: dict[int, int] = {}
    with three_queues.subscribe(transport="zmq") as ours:
        sockets = []
        for endpoint in three_queues.endpoints:
            plain = context.socket(zmq.SUB)
            plain.setsockopt(zmq.RCVTIMEO, int(PATIENCE * 1000))
            plain.subscribe(b"lab0")
            plain.connect(endpoint)
            sockets.append(plain)
        eventually(lambda: three_queues.statistics()["subscribers"] >= 2)
        for plain in sockets[1:]:  # a message a second says where the log ends
            msgpack.unpackb(plain.recv_multipart()[1])
        send_flows()
        assert len(take(ours, FLOWS)) == FLOWS
        for number, plain in enumerate(sockets):
            while True:
                _, head, payload = plain.recv_multipart()
                told = msgpack.unpackb(head)
                assert told["queue"] == number
                found[number] = found.get(number, 0) + len(msgpack.unpackb(payload))
                if told["n"] == 0 and told["seq"]:
                    break
    assert sum(found.values()) == FLOWS
    context.destroy(0)


def test_it_is_handed_on_as_one(run: Run) -> None:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(reader, 1)
        os._exit(0)
    dev = tuncer.create("lab0", TUN, queues=2)
    dev.controlling_process(pid)
    pids = dev.pids
    os.write(writer, b"x")
    assert all(wait_for_end(p) for p in (pid, *pids))
    assert "lab0" not in run("ip", "-br", "link")
    os.close(reader)
    os.close(writer)


def test_below_a_supervisor_of_ones_own(run: Run) -> None:
    spec = tuncer.child_spec("net", "lab0", TUN, queues=2)
    above = Supervisor.start_link([spec])
    dev = tuncer.attach("lab0")
    assert dev.queues == 2
    dev.up("10.9.0.1/24")
    above.stop()
    assert "lab0" not in run("ip", "-br", "link")
    with pytest.raises(ValueError, match="give one"):
        tuncer.child_spec("net", "lab%d", TUN, queues=2)


def test_a_device_that_another_process_is_attached_to_is_not_shared_unasked(run: Run) -> None:
    fd = tunctl.create("lab0", TUN | Flag.MULTI_QUEUE)
    with pytest.raises(OSError, match="another process is attached") as caught:
        tuncer.create("lab0", TUN, queues=2)
    assert caught.value.errno == errno.EBUSY
    assert queues(run) == (1, 0)
    os.close(fd)


@pytest.mark.parametrize(
    ("count", "error"), [(0, ValueError), (257, ValueError), ("2", TypeError), (True, TypeError)]
)
def test_a_wrong_number_of_queues(run: Run, count: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="queues"):
        tuncer.create("lab0", TUN, queues=count)
    assert "lab0" not in run("ip", "-br", "link")


@pytest.mark.parametrize(
    ("use", "error"),
    [
        (lambda d: d.subscribe(queue=3), ValueError),
        (lambda d: d.subscribe(queue=-1), ValueError),
        (lambda d: d.subscribe(queue="0"), TypeError),
        (lambda d: d.recv(0, queue=3), ValueError),
        (lambda d: d.getfd(queue=3), ValueError),
    ],
)
def test_a_queue_that_is_none(three_queues: Device, use: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="queue"):
        use(three_queues)


def test_persistent_and_taken_up_again(run: Run) -> None:
    with tuncer.create("lab0", TUN, queues=2, persist=True) as dev:
        dev.up("10.9.0.1/24")
        index = dev.ifindex()
        root = dev._call("belongs")[0].pid
        pids = dev.pids
        os.kill(root, signal.SIGKILL)
        assert all(wait_for_end(pid) for pid in pids)
        assert "lab0" in run("ip", "-br", "link")
        with tuncer.create("lab0", TUN, queues=2) as again:
            assert again.ifindex() == index
            again.persist(False)
            with again.subscribe() as subscription:
                send_flows()
                assert len({p.queue for p in take(subscription, FLOWS) if p.data[0] >> 4 == 4}) == 2
    assert "lab0" not in run("ip", "-br", "link")


@given(st.booleans(), st.sampled_from([0, 1, 64]), st.booleans(), st.booleans(), st.booleans())
def test_what_is_demanded_of_a_queue(
    receivers: bool, room: int, active: bool, was_active: bool, settled: bool
) -> None:
    wanted = demand(
        receivers=receivers, room=room, active=active, was_active=was_active, settled=settled
    )
    assert wanted.polled == (receivers or room > 0)
    if active or receivers:
        assert wanted.attached is True  # whoever reads it gets its packets
    elif was_active:
        assert wanted.attached is False  # the last subscriber has gone, and nobody wants them
    else:  # a passive queue keeps its packets between recv calls; a new one was asked for by nobody
        assert wanted.attached is (None if settled else False)
