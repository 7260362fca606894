"""What subscribers get of a device with offload."""

from hypothesis import given, settings
from hypothesis import strategies as st
from packets import ip, large_tcp, large_udp, problems, tcp

from tuncer import Batch, VnetHdr
from tuncer.offload.ordinary import ordinary

PLAIN = ip(tcp(b"plain"))
WHOLE = VnetHdr(payload=PLAIN).pack()
LARGE, LARGE_HEADER = large_tcp(2500, 1000)
TO_CUT = LARGE_HEADER._replace(payload=LARGE).pack()
PARTIAL, PARTIAL_HEADER = large_udp(100, 0)
TO_COMPLETE = PARTIAL_HEADER._replace(gso_type=0, payload=PARTIAL).pack()
BAD = LARGE_HEADER._replace(gso_size=0, payload=LARGE).pack()


def batch_of(*packets: bytes, lost: int = 0) -> Batch:
    return Batch.of(packets, 10, 99, "t0", lost=lost, queue=3)


def test_headers_are_taken_off() -> None:
    (found,), lost = ordinary(batch_of(WHOLE, WHOLE, lost=4), is_frame=False)
    assert [(p.data, p.seq, p.lost, p.queue, p.timestamp) for p in found] == [
        (PLAIN, 10, 4, 3, 99),
        (PLAIN, 11, 0, 3, 99),
    ]
    assert lost == 0


def test_segments_have_the_number_of_their_packet() -> None:
    (found,), lost = ordinary(batch_of(WHOLE, TO_CUT, TO_COMPLETE), is_frame=False)
    assert list(found.seqs) == [p.seq for p in found] == [10, 11, 11, 11, 12]
    assert [len(p.data) for p in found] == [len(PLAIN), 1040, 1040, 540, len(PARTIAL)]
    assert not any(problems(p.data) for p in found)
    assert lost == 0
    assert [part and list(part.seqs) for part in found.split_before(11)] == [[10], [11, 11, 11, 12]]
    first, rest = found.split(2)
    assert (list(first.seqs), list(rest.seqs), rest.seq) == ([10, 11], [11, 11, 12], 11)


def test_a_wrong_packet_costs_itself_alone() -> None:
    found, lost = ordinary(batch_of(WHOLE, BAD, BAD, TO_CUT, BAD, lost=1), is_frame=False)
    assert [(list(one.seqs), one.lost) for one in found] == [([10], 1), ([13, 13, 13], 2)]
    assert lost == 1
    found, lost = ordinary(batch_of(BAD, b"short", lost=1), is_frame=False)
    assert (found, lost) == ([], 3)
    found, lost = ordinary(batch_of(BAD, WHOLE, lost=1), is_frame=False)
    assert [(list(one.seqs), one.lost) for one in found] == [([11], 2)]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from([WHOLE, TO_CUT, TO_COMPLETE, BAD, b"", b"short"]), min_size=1),
    st.integers(0, 3),
)
def test_every_packet_is_there_or_lost(packets: list[bytes], lost: int) -> None:
    found, at_the_end = ordinary(batch_of(*packets, lost=lost), is_frame=False)
    told = sum(one.lost for one in found) + at_the_end
    read = sum(one.seqs[-1] + 1 - one.seq for one in found)
    assert read + told == len(packets) + lost
    for one in found:
        assert sorted(set(one.seqs)) == list(range(one.seq, one.seqs[-1] + 1))
        assert not any(problems(packet.data) for packet in one)


@given(st.lists(st.binary(max_size=80), min_size=1))
def test_whatever_is_there_is_read_or_lost(packets: list[bytes]) -> None:
    for is_frame in (False, True):
        found, lost = ordinary(batch_of(*packets), is_frame=is_frame)
        read = sum(one.seqs[-1] + 1 - one.seq for one in found)
        assert read + sum(one.lost for one in found) + lost == len(packets)
