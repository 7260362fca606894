"""Packets in the logs between workers, and the logs themselves."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tuncer.pipeline import edge_log, records
from tuncer.pipeline.records import Routed, decode, encode, head_of
from tuncer.protocol.packet import Framing, Packet, packet_class

FRAMINGS = [Framing(), Framing(is_frame=True), Framing(is_frame=False, start=4)]

packets = st.builds(
    lambda framing, *fields: packet_class(framing)(*fields),
    st.sampled_from(FRAMINGS),
    st.binary(max_size=30),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    st.sampled_from(["lab0", "wan0", ""]),
    st.just(0),
    st.integers(0, 3),
)
items = st.lists(packets | st.builds(Routed, st.sampled_from(["a", "bb"]), packets), max_size=20)


def joined(record: records.Record) -> memoryview:
    data = b"".join(record.parts)
    assert len(data) == record.size
    return memoryview(data)


@given(items, st.integers(0, 2**40), st.booleans(), st.data())
def test_what_goes_in_comes_out(
    given: list[Any], ticket: int, is_last: bool, data: st.DataObject
) -> None:
    record = encode(given, ticket, is_last=is_last)
    view = joined(record)
    assert head_of(view)[:1] + head_of(view)[2:4] == (len(given), ticket, is_last)
    found = decode(view) if given else []
    assert found == given
    assert [type(one) for one in found] == [type(one) for one in given]
    if given:
        first = data.draw(st.integers(0, len(given) - 1))
        limit = data.draw(st.integers(1, len(given)))
        assert decode(view, first, limit) == given[first : first + limit]


def test_losses_are_told_once() -> None:
    lost = [Packet(b"", n, 0, "lab0", lost=n) for n in range(4)]
    view = joined(encode(lost))
    assert [packet.lost for packet in decode(view)] == [6, 0, 0, 0]  # type: ignore[union-attr]
    assert [packet.lost for packet in decode(view, 1)] == [0, 0, 0]  # type: ignore[union-attr]


@given(st.lists(st.integers(0, 500), min_size=1, max_size=60))
def test_a_log_gives_back_what_was_written(sizes: list[int]) -> None:
    log = memoryview(bytearray(1024))
    head = tail = 0
    waiting: list[bytes] = []
    for number, size in enumerate(sizes):
        data = bytes([number]) * size
        while edge_log.needed(size, head, len(log)) > len(log) - (head - tail):
            record, tail = edge_log.read(log, tail)
            assert bytes(record) == waiting.pop(0)
        head = edge_log.write(log, head, [data[:3], data[3:]], size)
        waiting.append(data)
    while tail < head:
        record, tail = edge_log.read(log, tail)
        assert bytes(record) == waiting.pop(0)
    assert waiting == []
    assert all(edge_log.needed(edge_log.most(1024), at, 1024) <= 1024 for at in range(0, 1024, 8))
