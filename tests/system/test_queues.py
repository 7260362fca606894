"""Devices of several queues: a worker each, and the kernel's flows among them."""

import json
import os
import signal
from collections import Counter
from typing import Any

import pytest
from devices import TUN, kill_at_once, make, queues
from processes import PATIENCE, Run, eventually, gone, kill, stop, wait_for_end
from traffic import FLOWS, flow_of, send_flows, take

import tuncer
from supervisor import Supervisor
from tuncer import Device, DeviceError, DeviceEvent, Flag, Packet


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


def test_workers_are_killed_under_load_and_nothing_is_lost(three_queues: Device, run: Run) -> None:
    before = json.loads(run("ip", "-j", "link", "show", "dev", "lab0"))[0]["ifindex"]
    with three_queues.subscribe() as subscription:
        for turn in range(9):
            send_flows(turn * FLOWS)
            kill_at_once(three_queues, turn % 3)
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


def test_each_queues_worker_runs_on_the_processor_that_is_asked_for() -> None:
    there = sorted(os.sched_getaffinity(0))
    with make(queues=3, cpus=there[:2]) as dev:
        expected = [{there[number % len(there[:2])]} for number in range(3)]
        assert [os.sched_getaffinity(pid) for pid in dev.pids] == expected
        kill_at_once(dev, 1)
        eventually(lambda: [os.sched_getaffinity(pid) for pid in dev.pids], expected)
    with make(cpus=there[-1:]) as dev:
        assert os.sched_getaffinity(dev.pid) == {there[-1]}
    with make() as dev:
        assert os.sched_getaffinity(dev.pid) == set(there)


@pytest.mark.parametrize(
    ("cpus", "error"),
    [([], TypeError), ("0", TypeError), ([True], TypeError), ([4096], ValueError)],
)
def test_what_is_no_processor(cpus: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="processor"):
        make(cpus=cpus)
