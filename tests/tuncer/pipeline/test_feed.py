"""What a fed source remembers of its producers, and what a sink that feeds commits."""

from hypothesis import given
from hypothesis import strategies as st

from tuncer.pipeline.feed import Position, Request, Taken

numbers = st.integers(0, (1 << 48) - 1)


@given(st.lists(st.tuples(st.integers(1, 20), st.booleans()), max_size=40))
def test_each_packet_is_taken_once_over_kills(batches: list[tuple[int, bool]]) -> None:
    """A producer that was not answered sends its packets again; others may be cut elsewhere."""
    kept: dict[bytes, list[int]] = {}
    taken: list[int] = []
    sent = 0
    for count, is_answered in batches:
        known = Taken(kept)
        request = Request(b"a", 0, sent, b"")
        first = known.already(request)
        taken += range(sent + first, sent + count)
        known.take(request, max(sent + count, sent + first))
        kept = known.known
        sent += count if is_answered else 0
    assert taken == list(range(len(taken)))


@given(numbers, st.integers(0, (1 << 16) - 1), st.integers(0, 1000))
def test_a_position_is_a_word(number: int, epoch: int, more: int) -> None:
    position = Position(epoch, number)
    assert Position.of(position.word()) == position
    assert position.behind(more).number == number + more
    later = position.after_a_gap()
    assert later.number == number
    assert later.epoch != epoch
    assert 0 <= later.word() < 1 << 64


def test_another_epoch_begins_anew() -> None:
    known = Taken()
    known.take(Request(b"a", 0, 0, b""), 100)
    assert known.already(Request(b"a", 0, 40, b"")) == 60
    assert known.already(Request(b"a", 1, 40, b"")) == 0
    assert known.already(Request(b"b", 0, 40, b"")) == 0


def test_the_latest_producers_are_remembered() -> None:
    known = Taken()
    for n in range(1000):
        known.take(Request(b"steady", 0, n, b""), n + 1)
        known.take(Request(str(n).encode(), 0, 0, b""), 1)
    assert len(known.known) <= 256
    assert known.already(Request(b"steady", 0, 999, b"")) == 1
