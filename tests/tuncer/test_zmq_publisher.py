"""The publisher: what it sends by ZeroMQ to those who need only the wire format."""

import errno
import itertools
import resource
import socket
from typing import Any

import msgpack
import pytest
import zmq
from devices import OTHER, kill_worker
from hypothesis import given
from hypothesis import strategies as st
from processes import PATIENCE, descriptors, eventually, kill, stop
from traffic import FLOWS, send_flows, send_one, take

from tuncer import Device
from tuncer.protocol import paths
from tuncer.worker.zmq_publisher import resume_at


def test_counts_of_a_slow_message_subscriber_add_up(dev: Device) -> None:
    with dev.subscribe(transport="zmq") as slow:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.connect((OTHER, 9))
            while dev.statistics()["packets_read"] < 120_000:  # more than all queues hold
                for _ in range(5_000):
                    sender.send(b"x" * 1400)
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


def test_messages_of_a_queue_outlive_its_stopped_worker(two_queues: Device) -> None:
    with two_queues.subscribe(transport="zmq") as subscription:
        send_flows()
        found = [subscription.recv(PATIENCE) for _ in range(FLOWS)]
        pid = two_queues.pids[1]
        stop(pid)
        send_flows(FLOWS)
        kill(pid)
        found += [subscription.recv(PATIENCE) for _ in range(FLOWS)]
        assert len(found) == 2 * FLOWS
        assert subscription.stats() == {"delivered": 2 * FLOWS, "lost": 0}


@pytest.mark.slow
def test_an_endpoint_that_cannot_be_bound_is_an_error_and_the_device_goes_on(dev: Device) -> None:
    in_the_way = paths.publisher(dev._path)
    in_the_way.mkdir()
    pid = dev.pid
    for use in (lambda: dev.endpoint, lambda: dev.subscribe(transport="zmq")):
        with pytest.raises(OSError, match="the device's worker could not do it: ZeroMQ: "):
            use()
    assert dev.pid == pid
    in_the_way.rmdir()
    with dev.subscribe(transport="zmq") as subscription:
        in_the_way.unlink()
        in_the_way.mkdir()
        kill_worker(dev)
        assert dev.statistics()["restarts"] == 1  # though it has no publisher
        in_the_way.rmdir()
        send_one(OTHER, b"after")
        assert subscription.recv(PATIENCE).data[28:] == b"after"


def test_a_worker_without_descriptors_says_so(dev: Device) -> None:
    dev.statistics()  # connected
    pid, before = dev.pid, resource.prlimit(dev.pid, resource.RLIMIT_NOFILE)
    taken = {int(fd) for fd in descriptors(pid)}
    # Two are free below it: for the connection, and one of the many that ZeroMQ needs.
    few = [number for number in range(max(taken) + 4) if number not in taken][2]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (few, before[1]))
    with pytest.raises(OSError, match="could not do it: ZeroMQ: Too many open files") as caught:
        dev.endpoint  # noqa: B018 - asking is what fails
    assert caught.value.errno == errno.EMFILE
    resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    assert dev.endpoint
    assert dev.pid == pid


@given(st.integers(0, 1 << 20), st.integers(0, 1 << 20))
def test_what_is_sent_again_after_a_kill(published: int, oldest: int) -> None:
    begin = resume_at(published, oldest)
    assert begin <= published
    assert published - begin <= 4096
    assert begin >= min(oldest, published)  # what was overwritten cannot be sent
    if oldest == 0:  # nothing was overwritten: all that may not have left is there
        assert begin == max(0, published - 4096)
