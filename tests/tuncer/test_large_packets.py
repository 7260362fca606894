"""Devices with offload, on the real kernel: large packets and ordinary ones."""

import asyncio
import errno
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from devices import ADDRESS, OTHER, TAP, TUN, kill_worker, make, neighbour
from packets import ACK, frame, ip, large_tcp, large_udp, problems, tcp, udp
from processes import PATIENCE, Run, eventually
from traffic import send_large, send_one, take

import tuncer
from tuncer import Device, Flag, GsoType, Offload, VnetHdr, tunctl


def test_what_was_granted_is_told(large: Device) -> None:
    assert large.offload() >= Offload.CSUM | Offload.TSO4 | Offload.TSO6
    assert Flag.VNET_HDR in large.flags()
    kill_worker(large)
    assert large.offload() & Offload.TSO4
    assert large.offload(0) == 0  # it can be switched off
    kill_worker(large)
    assert large.offload() == 0
    with large.subscribe(large=True) as subscription:
        send_large()
        assert {VnetHdr.parse(p.data).gso_type for p in take(subscription, 3)} == {GsoType.NONE}


def test_subscribers_get_ordinary_packets_unless_they_ask(large: Device) -> None:
    with large.subscribe() as ordinary, large.subscribe(large=True) as whole:
        payload = send_large()
        send_one(OTHER, b"small")
        found = take(ordinary, 2)
        assert ordinary.stats() == {"delivered": 1, "lost": 0, "segments": 2}
        found += take(ordinary, 2)
        assert [packet.seq for packet in found] == [0, 0, 0, 1]
        assert b"".join(packet.data[28:] for packet in found[:3]) == payload
        assert not any(problems(packet.data) for packet in found)
        first, second = take(whole, 2)
        assert VnetHdr.parse(first.data).gso_type == GsoType.UDP_L4
        assert (first.seq, second.seq) == (0, 1)
        assert ordinary.stats() == {"delivered": 2, "lost": 0, "segments": 4}
        assert whole.stats() == {"delivered": 2, "lost": 0}


def test_batches_of_segments_go_on_over_kills(large: Device) -> None:
    with large.subscribe(batch=2) as subscription:
        for number in range(5):
            payload = send_large()
            kill_worker(large)
            found: list[bytes] = []
            while len(b"".join(one[28:] for one in found)) < len(payload):
                batch = subscription.recv(PATIENCE)
                assert set(batch.seqs) == {number}
                found += batch.payloads()
            assert b"".join(one[28:] for one in found) == payload
        assert subscription.stats() == {"delivered": 5, "lost": 0, "segments": 15}


def test_a_lossless_subscriber_counts_what_it_has_read() -> None:
    small = {"log_packets": 128, "log_bytes": 2 << 20}
    with make(offload=True, **small) as dev, dev.subscribe(policy="lossless", batch=True) as slow:
        for _ in range(400):
            send_large(40_000)
        found: set[int] = set()  # a large packet's segments may be in two batches
        while len(found) < 400 - dev.statistics()["dropped"]:
            found.update(slow.recv(PATIENCE).seqs)
        assert slow.stats()["delivered"] == len(found) == dev.statistics()["packets_read"]
        assert slow.stats()["lost"] == 0


def test_recv_returns_one_segment_after_the_other(large: Device) -> None:
    payload = send_large()
    send_one(OTHER, b"small")
    found = [large.recv(PATIENCE) for _ in range(2)]
    found.append(asyncio.run(large.arecv(PATIENCE)))
    assert b"".join(one[28:] for one in found) == payload
    assert large.recv(PATIENCE)[28:] == b"small"
    with pytest.raises(TimeoutError):
        large.recv(0)


def received(listener: socket.socket, count: int) -> list[bytes]:
    listener.settimeout(PATIENCE)
    return [listener.recv(65535) for _ in range(count)]


@pytest.fixture(name="listener")
def udp_socket(large: Device) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind((ADDRESS, 2000))
        yield listener


def test_what_is_sent_is_ordinary_or_large(large: Device, listener: socket.socket) -> None:
    small = ip(udp(b"small"), protocol=17)
    assert large.send(small, bytearray(small), memoryview(small)) == 3
    assert received(listener, 3) == [b"small"] * 3
    packet, header = large_udp(2500, 1000)
    assert (
        large.send(
            header._replace(payload=packet).pack(), VnetHdr(payload=small).pack(), large=True
        )
        == 2
    )
    assert [len(one) for one in received(listener, 4)] == [1000, 1000, 500, 5]
    assert asyncio.run(large.asend(small, small)) == 2
    assert received(listener, 2) == [b"small"] * 2


def test_what_the_kernel_refuses_is_cut_and_sent_again(
    large: Device, listener: socket.socket
) -> None:
    packet, header = large_udp(2500, 1000)
    # ``tun_get_user``: EINVAL, as there are fewer bytes than that.
    refused = header._replace(hdr_len=len(packet) + 1, payload=packet).pack()
    fd = large.getfd()
    with pytest.raises(OSError, match="Invalid argument"):
        os.write(fd, refused)
    os.close(fd)
    assert large.send(refused, large=True) == 1
    assert asyncio.run(large.asend(refused, large=True)) == 1
    assert [len(one) for one in received(listener, 6)] == [1000, 1000, 500] * 2


@pytest.mark.parametrize("packet", [b"", "text", None, bytes(70_000), b"\0" * 30])
def test_what_is_no_packet(large: Device, packet: Any) -> None:
    small = ip(udp(b"small"), protocol=17)
    before = large.statistics()["packets_sent"]
    with pytest.raises((OSError, ValueError, TypeError)) as ours:
        large.send(small, packet, small)
    assert len(str(ours.value)) > 12
    assert large.statistics()["packets_sent"] == before + 1  # what came before was written


def test_tcp_segments_are_put_together(large: Device) -> None:
    packet, header = large_tcp(2500, 1000)
    from tuncer.offload.segmentation import segment  # noqa: PLC0415

    parts = segment(packet, header).payloads()
    before = large.statistics()["packets_sent"]
    assert large.send(*parts) == 3
    assert large.statistics()["packets_sent"] == before + 1
    assert large.send(parts[0], parts[2], parts[1]) == 3
    assert large.statistics()["packets_sent"] == before + 4


def test_a_device_without_offload_has_no_large_packets(dev: Device) -> None:
    with pytest.raises(OSError, match="offload=True") as caught:
        dev.send(b"", large=True)
    assert caught.value.errno == errno.EOPNOTSUPP
    with pytest.raises(OSError, match="offload=True"):
        dev.subscribe(large=True)


def test_zeromq_is_refused_in_a_sentence(large: Device) -> None:
    for ask in (lambda: large.endpoint, lambda: large.subscribe(transport="zmq")):
        with pytest.raises(OSError, match="no subscribers by ZeroMQ") as caught:
            ask()
        assert caught.value.errno == errno.EOPNOTSUPP


def test_every_handle_knows(large: Device) -> None:
    for other in (tuncer.attach("lab0"), pickle.loads(pickle.dumps(large)), *tuncer.devices()):
        with other.subscribe() as subscription:
            send_one(OTHER, b"x")
            assert subscription.recv(PATIENCE).data[28:] == b"x"


def test_the_size_of_the_header_stays(large: Device) -> None:
    assert large.vnet_hdr_size() == 10
    with pytest.raises(OSError, match="size of its own"):
        large.vnet_hdr_size(12)


def test_a_persistent_device_gets_the_usual_header() -> None:
    fd = tunctl.create("lab0", TUN | Flag.VNET_HDR)
    tunctl.vnet_hdr_size(fd, 12)
    tunctl.persist(fd, True)
    os.close(fd)
    with make(offload=True) as dev, dev.subscribe() as subscription:
        send_one(OTHER, b"x")
        assert subscription.recv(PATIENCE).data[28:] == b"x"
        dev.destroy()


def test_what_cannot_have_offload() -> None:
    with pytest.raises(ValueError, match="NO_PI"):
        tuncer.create("lab0", Flag.TUN, offload=True)
    with pytest.raises(TypeError):
        tuncer.create("lab0", TUN, offload=1)  # type: ignore[arg-type]


def test_without_numpy_a_subscriber_is_told_how_to_get_it(large: Device) -> None:
    program = """
import sys
sys.modules["numpy"] = None
import tuncer
dev = tuncer.attach("lab0")
with dev.subscribe(large=True):
    pass
try:
    dev.subscribe()
except ImportError as error:
    print(error)
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert "pip install 'tuncer[offload]'" in done.stdout
    eventually(lambda: large.statistics()["subscribers"], 0)


def test_frames_of_a_tap_with_several_queues(run: Run) -> None:
    with tuncer.create("e0", TAP, offload=True, queues=2) as dev:
        dev.up(f"{ADDRESS}/24", link_local=False)
        neighbour(run, "e0")
        with dev.subscribe() as subscription:
            payload = send_large()
            found = take(subscription, 3)
            assert b"".join(packet.data[42:] for packet in found) == payload
            assert not any(problems(packet.data, 14) for packet in found)
            assert len({packet.queue for packet in found}) == 1
        mac = bytes.fromhex(dev.mac().replace(":", ""))
        one = mac + frame(ip(tcp(b"a" * 100)))[6:]
        other = mac + frame(ip(tcp(b"b" * 100, number=101, flags=ACK), identification=8))[6:]
        before = dev.statistics()["packets_sent"]
        assert dev.send(one, other) == 2
        assert dev.statistics()["packets_sent"] == before + 1


ECHO = """
import socket
server = socket.create_server(("10.9.0.2", 5000))
print(flush=True)
connection, _ = server.accept()
connection.sendall(connection.recv(1 << 22, socket.MSG_WAITALL))
connection.recv(1)
"""


def echoed(data: bytes, namespace: int) -> bytes:
    """Send data to a program in another namespace, and return what comes back."""
    inside = ["nsenter", "--net", "--target", str(namespace)]
    command = [*inside, sys.executable, "-c", ECHO]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as echoing:
        assert echoing.stdout is not None
        echoing.stdout.readline()
        with socket.create_connection((OTHER, 5000), timeout=PATIENCE) as client:
            client.sendall(data)
            found = b""
            while len(found) < len(data):
                found += client.recv(1 << 20)
    return found


def forward(subscription: Any, target: Device) -> None:
    with subscription:
        for batch in subscription:
            target.send(*batch.payloads())


def test_tcp_through_two_devices(elsewhere: int) -> None:
    """What is cut at one end of a connection is put together at the other."""
    near = tuncer.create("near0", TUN, offload=True)
    far = tuncer.create("far0", TUN, offload=True, namespace=elsewhere)
    with ThreadPoolExecutor(2) as pool:
        ends = [
            pool.submit(forward, source.subscribe(batch=True), target)
            for source, target in ((near, far), (far, near))
        ]
        near.up(f"{ADDRESS}/24", link_local=False)
        far.up(f"{OTHER}/24", link_local=False)
        data = os.urandom(1 << 22)
        try:
            assert echoed(data, elsewhere) == data
            counts = near.statistics()
            assert counts["bytes_read"] / counts["packets_read"] > 2000  # large ones
        finally:
            near.destroy()
            far.destroy()
    for end in ends:
        assert end.exception() is None or isinstance(end.exception(), OSError)
