"""Many packets at once."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuncer import Batch, Packet

PAYLOADS = st.lists(st.binary(max_size=20), min_size=1, max_size=12)


@given(PAYLOADS, st.integers(0, 2**64), st.integers(0, 9))
def test_it_is_the_sequence_of_its_packets(payloads: list[bytes], seq: int, lost: int) -> None:
    batch = Batch.of(payloads, seq, 5, "t0", lost, 1)
    packets = [
        Packet(data, seq + number, 5, "t0", 0 if number else lost, 1)
        for number, data in enumerate(payloads)
    ]
    assert list(batch) == packets
    assert all(type(packet) is Packet for packet in batch)
    assert [batch[number] for number in range(-len(batch), len(batch))] == 2 * packets
    assert batch[1:] == packets[1:]
    assert batch[::-2] == packets[::-2]
    assert (len(batch), batch.payloads()) == (len(payloads), payloads)
    assert (batch.seq, batch.lost, batch.timestamp) == (seq, lost, 5)
    with pytest.raises(IndexError):
        batch[len(batch)]
    assert packets[0] in batch
    assert pickle.loads(pickle.dumps(batch)) == batch


@given(PAYLOADS.filter(lambda payloads: len(payloads) > 1), st.data())
def test_the_parts_have_together_what_it_has(payloads: list[bytes], data: st.DataObject) -> None:
    batch = Batch.of(payloads, 7, 5, "t0", 3)
    first, second = batch.split(data.draw(st.integers(1, len(payloads) - 1)))
    assert list(first) + list(second) == list(batch)
    assert (first.lost, second.lost) == (3, 0)


def test_its_bytes_lie_where_the_offsets_say() -> None:
    batch = Batch(b"abc.....de", [100, 108], [3, 2], 4, [1, 2], "t0", base=100)
    assert (batch.offsets, batch.lengths) == ([0, 8], [3, 2])
    assert batch.payloads() == [b"abc", b"de"]
    assert [packet.timestamp for packet in batch] == [1, 2]
    assert repr(batch) == "<2 packets of t0, 4 to 5, 5 bytes>"
    assert batch != [1]
