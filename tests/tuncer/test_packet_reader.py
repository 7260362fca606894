"""What a worker reads of a queue, which is attached while somebody wants its packets."""

import asyncio
import contextlib
import os
import signal
import socket

import killed_workers
import pytest
from devices import TAP, TUN, queues
from processes import PATIENCE, Run, eventually, kill, wait_for_end
from traffic import FLOWS, numbers, send_flows, send_numbers, send_one, take

import tuncer
from supervisor import Supervisor
from tuncer import Device, DeviceEvent, Packet, tunctl


def await_queues(run: Run, wanted: tuple[int, int]) -> None:
    eventually(lambda: queues(run) == wanted)


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


def drained(dev: Device, queue: int) -> int:
    count = 0
    with contextlib.suppress(TimeoutError):
        while True:
            dev.recv(0.1, queue=queue)
            count += 1
    return count


def test_a_queue_whose_state_was_changed_behind_its_worker(two_queues: Device) -> None:
    held = two_queues.getfd(queue=1)
    with two_queues.subscribe():
        tunctl.detach_queue(held)  # as its worker does, and is killed before it takes note
        kill(two_queues.pids[1])
    assert len(two_queues.pids) == 2
    tunctl.attach_queue(held)
    with two_queues.subscribe() as subscription:
        send_flows()
        found = [subscription.recv(PATIENCE) for _ in range(FLOWS)]
        assert {p.queue for p in found if isinstance(p, Packet)} == {0, 1}
    os.close(held)
    assert two_queues.statistics()["restarts"] == 1


def test_what_a_queue_holds_outlives_its_worker(two_queues: Device) -> None:
    with pytest.raises(TimeoutError):
        two_queues.recv(0.01, queue=1)
    send_flows()
    kill(two_queues.pids[1])
    assert drained(two_queues, 0) + drained(two_queues, 1) == FLOWS


def test_a_kill_before_counted_packets_are_handed_over_gives_none_twice() -> None:
    root = Supervisor.start_link([killed_workers.spec(killed_workers.BeforeItHandsOver)])
    dev = tuncer.attach("lab0")
    dev.up("10.9.0.1/24", link_local=False)
    with dev.subscribe(events=True) as subscription:
        dev.setopt(active=3)
        send_numbers(0, 4)
        assert numbers(subscription, 4) == [0, 1, 2, DeviceEvent("passive", "lab0")]
        assert dev.statistics()["restarts"] == 1
        assert int(dev.recv(PATIENCE)[28:]) == 3
    root.stop()


def test_a_descriptor_that_is_made_blocking_does_not_stop_the_worker() -> None:
    with tuncer.create("d0", TUN) as device:
        device.up("10.9.0.1/24", link_local=False)
        fd = device.getfd()
        os.set_blocking(fd, True)
        with device.subscribe() as subscription:
            for _ in range(3):
                send_one("10.9.0.2")
                assert subscription.recv(timeout=PATIENCE).data
                assert device.statistics()["restarts"] == 0
        os.close(fd)


@pytest.mark.parametrize(
    "frame",
    [
        b"\x08\x06" + b"\0\1\x08\0\6\4\0\1" + bytes(38),  # ARP, padded to 60 bytes
        b"\x08\x00" + b"\x45\0\x0f\xff" + bytes(40),  # IP that says that it is longer
        b"\x88\xcc" + b"A" * 100,  # LLDP, which tells no length
    ],
    ids=["padded", "untrue", "other"],
)
def test_a_frame_whose_length_was_not_stored_has_the_kernels(frame: bytes) -> None:
    spec = killed_workers.spec(killed_workers.AsItHasRead, flags=TAP)
    root = Supervisor.start_link([spec])
    dev = tuncer.attach("lab0")
    dev.link_local(False)
    dev.up()
    frames = [b"\2" * 12 + frame, b"\2" * 12 + b"\x88\xcc" + b"after"]
    with dev.subscribe() as subscription, socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
        out.bind(("lab0", 0))
        for one in frames:
            out.send(one)
        assert [subscription.recv(PATIENCE).data for _ in frames] == frames
    statistics = dev.statistics()
    assert statistics["restarts"] == 1
    assert statistics["bytes_read"] == statistics["kernel_bytes"]
    root.stop()
