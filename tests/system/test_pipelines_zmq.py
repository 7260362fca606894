"""Pipelines and ZeroMQ: the wire format at sources and sinks, and strangers at an endpoint."""

import contextlib
import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pipelines
import pytest
import zmq
from devices import TUN
from pipelines import in_file, source, wait
from processes import eventually, kill
from traffic import send_one

import tuncer
from supervisor import StartFailed
from tuncer import Packet
from tuncer.pipeline import Feed, Pcap, Pipeline, Zmq
from tuncer.protocol import wire_format

Socket = zmq.Socket[bytes]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "out.pcapng"


@pytest.fixture
def context() -> Iterator[zmq.Context[Socket]]:
    found = zmq.Context()
    yield found
    found.destroy(0)


@pytest.fixture
def endpoint(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/endpoint"


def subscriber(context: zmq.Context[Socket], endpoint: str, topic: bytes = b"out") -> Socket:
    """Return a socket whose subscription is in force."""
    found = context.socket(zmq.SUB)
    found.setsockopt(zmq.RCVTIMEO, 20_000)
    found.setsockopt(zmq.RECONNECT_IVL, 1)
    found.connect(endpoint)
    found.subscribe(topic)
    hello = wire_format.HELLO + os.urandom(8)
    found.subscribe(hello)
    while wire_format.decode(found.recv_multipart()).topic != hello:
        pass
    return found


def sender(context: zmq.Context[Socket], endpoint: str) -> Socket:
    """Return a socket to which somebody has subscribed."""
    found = context.socket(zmq.XPUB)
    found.bind(endpoint)
    assert found.recv()[:1] == b"\1"
    return found


def encoded(numbers: range, stream: int = 1) -> list[bytes]:
    packets = list(map(pipelines.udp, numbers))
    return wire_format.encode(b"lab0", numbers.start, packets, 1, 0, stream=stream)


def test_from_pipeline_to_pipeline_by_zeromq(tmp_path: Path, file: Path) -> None:
    """What the second one has not missed stands in its file, in order."""
    endpoint = f"ipc://{tmp_path}/between"
    one = Pipeline("one", Feed(), [], Zmq(endpoint)).start_link()
    two = Pipeline("two", Zmq(endpoint, "out"), [], Pcap(file)).start_link()
    subscriber = zmq.Context().socket(zmq.SUB)
    subscriber.connect(endpoint)
    subscriber.subscribe(b"out")
    subscriber.subscribe(wire_format.HELLO + b"me")
    assert wire_format.decode(subscriber.recv_multipart())[:2] == (wire_format.HELLO + b"me", 0)
    packets = map(pipelines.udp, range(5000))
    # Nothing else tells when the other pipeline's subscription is in force.
    eventually(lambda: one.feed([next(packets)]) and two.stats().sinks[0].written)
    first = in_file(file)[0]
    one.feed(packets)
    eventually(lambda: two.stats().sinks[0].written, 5000 - first)
    total = two.stop()
    assert total.sources[0].missed == 0
    assert in_file(file) == sorted(set(in_file(file)))
    assert len(in_file(file)) == total.sources[0].read > 0
    message = wire_format.decode(subscriber.recv_multipart())
    while not message.packets:  # repeated while it was idle
        assert (message.topic, message.seq) == (b"out", 0)
        message = wire_format.decode(subscriber.recv_multipart())
    assert (message.topic, message.seq, message.packets[0]) == (b"out", 0, pipelines.udp(0))
    while (end := message.seq + len(message.packets)) < 5000:
        message = wire_format.decode(subscriber.recv_multipart())
    idle = wire_format.decode(subscriber.recv_multipart())
    assert (idle.topic, idle.seq, idle.packets, idle.end) == (b"out", end, [], None)
    assert idle.stream == message.stream > 0
    one.stop()
    while (last := wire_format.decode(subscriber.recv_multipart())).end is None:
        assert last.packets == []
    assert last.end == "closed"
    subscriber.context.destroy(0)


def test_a_devices_endpoint_is_a_source(file: Path) -> None:
    with tuncer.create("lab0", TUN) as device:
        device.up("10.9.0.1/24")
        running = Pipeline("p", Zmq(device.endpoint, "lab0"), [], Pcap(file)).start_link()
        eventually(lambda: send_one("10.9.0.2", b"x") or running.stats().sources[0].read)
        running.stop()
    assert in_file(file)


def test_a_pipeline_that_begins_anew_is_heard(tmp_path: Path, file: Path) -> None:
    endpoint = f"ipc://{tmp_path}/endpoint"
    below = Pipeline("below", Zmq(endpoint), [], Pcap(file)).start_link()
    for count in (500, 300):
        above = Pipeline("above", Feed(), [], Zmq(endpoint)).start_link()
        before = below.stats().sources[0].read
        while below.stats().sources[0].read == before:  # until it has subscribed
            above.feed([pipelines.udp(0)])
        above.feed(map(pipelines.udp, range(1, count)))
        eventually(lambda: in_file(file)[-1], count - 1)
        above.stop()
    assert below.stats().sources[0].missed == 0
    assert in_file(file).count(250) == 2
    below.stop()


def test_packets_of_zeromq_that_were_in_hand_at_a_kill_are_lost_and_no_others(
    file: Path, tmp_path: Path
) -> None:
    endpoint = f"ipc://{tmp_path}/endpoint"
    context = zmq.Context()
    sender = context.socket(zmq.XPUB)
    sender.bind(endpoint)
    quarantine = tmp_path / "quarantine"
    stages = [pipelines.kills_at_77]
    running = Pipeline("p", Zmq(endpoint), stages, Pcap(file), quarantine=quarantine).start_link()

    def send(numbers: range) -> None:
        frames = wire_format.encode(b"lab0", numbers.start, list(map(pipelines.udp, numbers)), 1, 0)
        sender.send_multipart(frames)

    def subscribed(first: bytes) -> None:
        while sender.recv()[:1] != first:
            pass

    subscribed(b"\1")
    send(range(70))
    eventually(lambda: running.stats().sinks[0].written, 70)
    send(range(70, 80))
    subscribed(b"\1")  # of the successor
    send(range(80, 180))
    eventually(lambda: running.stats().sinks[0].written, 170)
    stats = running.stop()
    assert not quarantine.exists()
    assert in_file(file) == [*range(70), *range(80, 180)]
    assert stats.sources[0].missed == 10
    context.destroy(0)


def test_a_sender_of_zeromq_that_begins_its_numbers_anew_is_heard(
    file: Path, tmp_path: Path
) -> None:
    endpoint = f"ipc://{tmp_path}/endpoint"
    context = zmq.Context()
    running = Pipeline("p", Zmq(endpoint), [], Pcap(file)).start_link()

    def send_all(stream: int, *sent: range) -> None:
        sender = context.socket(zmq.XPUB)
        sender.bind(endpoint)
        assert sender.recv() == b"\1"
        for numbers in sent:
            packets = list(map(pipelines.udp, numbers))
            told = (b"lab0", numbers.start, packets, 1, 0, None, 0, None, stream)
            sender.send_multipart(wire_format.encode(*told))
        sender.close(1000)  # and no last message

    # First an idle sender tells its position: what came before is not missed.
    send_all(1, range(500, 500), range(500, 510), range(512, 520), range(515, 525))
    eventually(lambda: running.stats().sinks[0].written, 23)
    assert running.stats().sources[0].missed == 2
    send_all(2, range(3, 10))
    eventually(lambda: running.stats().sinks[0].written, 30)
    stats = running.stop()
    assert stats.sources[0].missed == 2
    assert in_file(file) == [*range(500, 510), *range(512, 525), *range(3, 10)]
    context.destroy(0)


def test_a_sink_waits_for_as_many_subscribers_as_it_is_told(
    endpoint: str, file: Path, context: zmq.Context[Socket]
) -> None:
    sink = Zmq(endpoint, subscribers=2)
    above = Pipeline("above", source, [pipelines.same], sink).start_link()
    watching = subscriber(context, endpoint)
    assert above.stats().sinks[0].written == 0
    below = Pipeline("below", Zmq(endpoint), [], Pcap(file)).start_link()
    wait(above)
    eventually(lambda: below.stats().sources[0].read, 2000)
    assert below.stop().sources[0].missed == 0
    above.stop()
    assert in_file(file) == list(range(2000))
    watching.close(0)


def test_no_number_is_given_to_two_packets(endpoint: str, context: zmq.Context[Socket]) -> None:
    """Of those that were sent before a kill, and are given up, none is taken for another one."""
    rng = random.Random(5)
    found: dict[int, bytes] = {}
    over = threading.Event()
    spec = pipelines.Heavy.spec(workers=1, on_kill="skip")
    sink = Zmq(endpoint, subscribers=1)
    running = Pipeline("p", pipelines.without_end, [spec], sink, intensity=1000).start_link()
    watching = subscriber(context, endpoint)
    twice: list[int] = []

    def watch() -> None:
        while not over.is_set():
            with contextlib.suppress(zmq.Again):
                message = wire_format.decode(watching.recv_multipart())
                for number, data in enumerate(message.packets, message.seq):
                    if found.setdefault(number, data) != data:
                        twice.append(number)

    watching.setsockopt(zmq.RCVTIMEO, 100)
    thread = threading.Thread(target=watch)
    thread.start()
    for _ in range(15):
        written = running.stats().sinks[0].written
        eventually(lambda written=written: running.stats().sinks[0].written > written)  # type: ignore[misc]
        time.sleep(rng.uniform(0, 0.05))
        kill(eventually(lambda: (ref := running.which_stages()[0].workers[0]) and ref.pid))
    running.stop()
    over.set()
    thread.join()
    assert len(found) > 1000
    assert twice == []


def test_each_message_has_the_time_of_its_first_packet(
    endpoint: str, context: zmq.Context[Socket]
) -> None:
    running = Pipeline("p", Feed(), [], Zmq(endpoint)).start_link()
    watching = subscriber(context, endpoint)
    running.feed([Packet(pipelines.udp(n, size=1400), n, 10**9 + n, "lab0") for n in range(500)])
    seen = 0
    while seen < 500:
        message = wire_format.decode(watching.recv_multipart())
        if message.packets:
            assert (message.seq, message.timestamp) == (seen, 10**9 + seen)
            seen += len(message.packets)
    assert message.seq > 0
    running.stop()
    watching.close(0)


def test_an_endpoint_that_somebody_has_is_not_taken_away(endpoint: str) -> None:
    one = Pipeline("one", Feed(), [], Zmq(endpoint)).start_link()
    with pytest.raises(StartFailed, match="Address already in use"):
        Pipeline("two", Feed(), [], Zmq(endpoint)).start_link()
    assert os.path.exists(endpoint.removeprefix("ipc://"))
    one.stop()
    assert not os.path.exists(endpoint.removeprefix("ipc://"))


def test_stop_waits_for_what_has_arrived(
    endpoint: str, file: Path, context: zmq.Context[Socket]
) -> None:
    running = Pipeline("p", Zmq(endpoint), [pipelines.slowly], Pcap(file)).start_link()
    sending = sender(context, endpoint)
    for first in range(0, 1000, 50):
        sending.send_multipart(encoded(range(first, first + 50)))
    eventually(lambda: running.stats().sources[0].read)
    time.sleep(0.2)  # until the rest has arrived, too: nothing tells
    stats = running.stop(30)
    assert (stats.sources[0].read, stats.sources[0].missed) == (1000, 0)
    assert in_file(file) == list(range(1000))


@pytest.mark.parametrize("what", ["malformed", "empty"])
def test_a_flood_of_messages_does_not_hold_up_the_worker(
    endpoint: str,
    file: Path,
    context: zmq.Context[Socket],
    what: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    running = Pipeline("p", Zmq(endpoint), [pipelines.Count], Pcap(file)).start_link()
    sending = sender(context, endpoint)
    over = threading.Event()
    malformed = [b"lab0", b"\xc1" * 100, b"\xc1"]
    frames = malformed if what == "malformed" else encoded(range(7, 7))

    def flood() -> None:
        while not over.is_set():
            sending.send_multipart(frames)

    thread = threading.Thread(target=flood)
    thread.start()
    began = time.monotonic()
    while time.monotonic() < began + 2:
        assert running.gather(pipelines.Count.get) == [{}]
    running.stop(2)
    over.set()
    thread.join()
    said = capfd.readouterr().err
    assert said.count("a message is ignored") <= 10
    assert (what == "empty") == ("a message is ignored" not in said)


def test_what_is_too_long_is_refused(
    endpoint: str, file: Path, context: zmq.Context[Socket], capfd: pytest.CaptureFixture[str]
) -> None:
    running = Pipeline("p", Zmq(endpoint), [], Pcap(file)).start_link()
    sending = sender(context, endpoint)
    long = wire_format.encode(b"lab0", 0, [bytes(100_000)], 1, 0, stream=1)
    sending.send_multipart(long)
    sending.send_multipart([*encoded(range(1, 2))[:2], bytes(2 << 20)])  # its sender is cut off
    assert sending.recv()[:1] == b"\0"
    assert sending.recv()[:1] == b"\1"  # and is heard again later
    sending.send_multipart(encoded(range(5)))
    eventually(lambda: running.stats().sinks[0].written, 5)
    running.stop()
    assert in_file(file) == list(range(5))
    assert "are such as nobody sends" in capfd.readouterr().err
