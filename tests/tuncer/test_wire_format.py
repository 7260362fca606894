"""The wire format of ZeroMQ messages."""

import contextlib

import msgpack
import pytest
import zmq
from devices import OTHER
from hypothesis import given
from hypothesis import strategies as st
from processes import PATIENCE, eventually
from traffic import send_one

from tuncer import Device
from tuncer.protocol import wire_format
from tuncer.protocol.packet import Framing

NUMBER = st.integers(0, 2**64 - 1)
TERM = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(["v", "seq", "n", "ts", "epoch", "queue", "end", "framing", "stream"])


@given(
    st.builds(
        wire_format.Message,
        st.binary(),
        NUMBER,
        NUMBER,
        NUMBER,
        NUMBER,
        st.lists(st.binary(), max_size=4),
        st.none() | st.text(),
        st.builds(Framing, st.booleans(), st.integers(0, 255)),
        NUMBER,
    )
)
def test_a_message_says_what_was_put_into_it(batch: wire_format.Message) -> None:
    topic, seq, when, epoch, queue, packets, end, framing, stream = batch
    frames = wire_format.encode(topic, seq, packets, when, epoch, end, queue, framing, stream)
    assert wire_format.decode(frames) == batch


@given(NUMBER, NUMBER)
def test_a_streams_name_is_a_number_in_every_language_and_hides_the_mark(
    mark: int, other: int
) -> None:
    names = {wire_format.stream_of(mark), wire_format.stream_of(other)}
    assert all(0 < name < 2**53 for name in names)
    assert len(names) == len({mark, other})
    assert mark >> 11 not in names


@given(
    st.lists(st.binary(), max_size=4)
    | st.tuples(
        st.binary(),
        st.dictionaries(KEYS, TERM).map(lambda said: msgpack.packb({"v": 1} | said)),
        TERM.map(msgpack.packb),
    ).map(list)
)
def test_any_frames_are_a_batch_or_a_value_error(frames: list[bytes]) -> None:
    with contextlib.suppress(ValueError):
        batch = wire_format.decode(frames)
        assert all(isinstance(packet, bytes) for packet in batch.packets)
        assert isinstance(
            batch.seq + batch.timestamp + batch.epoch + batch.queue + batch.stream, int
        )


def test_a_later_version_is_told() -> None:
    _, header, payload = wire_format.encode(b"t0", 0, [], 0, 0)
    later = msgpack.packb(msgpack.unpackb(header) | {"v": 2})
    with pytest.raises(ValueError, match="has version 2 of the wire format, this reader knows 1"):
        wire_format.decode([b"t0", later, payload])


def test_a_plain_subscriber_needs_only_the_wire_format(dev: Device) -> None:
    context = zmq.Context()
    plain = context.socket(zmq.SUB)
    plain.setsockopt(zmq.RCVTIMEO, int(PATIENCE * 1000))
    plain.setsockopt(zmq.SUBSCRIBE, b"lab0")
    plain.connect(dev.endpoint)
    eventually(lambda: dev.statistics()["subscribers"])
    for n in range(10):
        send_one(OTHER, b"%d" % n)
    found: list[bytes] = []
    expected = None
    while len(found) < 10:
        batch = wire_format.decode(plain.recv_multipart())
        assert batch.topic == b"lab0"
        assert expected in (None, batch.seq)
        expected = batch.seq + len(batch.packets)
        found += [p[28:] for p in batch.packets if p[0] >> 4 == 4]
    assert found == [b"%d" % n for n in range(10)]
    while (idle := wire_format.decode(plain.recv_multipart())).packets:
        expected = idle.seq + len(idle.packets)  # the kernel's own
    assert idle.seq == expected
    dev.destroy()
    while (last := wire_format.decode(plain.recv_multipart())).end is None:
        pass
    assert last.end == "closed"
    context.destroy(0)
