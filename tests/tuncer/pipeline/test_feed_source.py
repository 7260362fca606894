"""The source that others feed: whose packets it gives, and when it answers."""

from pipelines import number_in, packet

from tuncer.pipeline.feed import END, Position
from tuncer.pipeline.feed_sink import requests
from tuncer.pipeline.feed_source import FeedSource


def fed(source: FeedSource, producer: bytes, numbers: range) -> list[str]:
    """Give packets to a source; what is returned has its answer when there is one."""
    answers: list[str] = []
    packets = [packet(n) for n in numbers]
    for request, _ in requests(producer, Position(0, numbers.start), packets):
        source.accept(request.term(), answers.append)
    return answers


def read(source: FeedSource, most: int = 1000) -> list[int] | None:
    found = source.read(most, 1 << 20)
    return None if found is None else [number_in(one.data) for one in found]


def test_it_answers_when_all_packets_are_committed() -> None:
    source = FeedSource(0, 0, None)
    answers = fed(source, b"a", range(10))
    assert read(source, 6) == list(range(6))
    source.committed()
    assert answers == []
    assert read(source, 6) == [6, 7, 8, 9]
    assert answers == []
    source.committed()
    assert answers == [""]
    assert read(source) == []


def test_what_a_predecessor_has_committed_is_left_out() -> None:
    source = FeedSource(0, 0, None)
    fed(source, b"a", range(10))
    read(source, 6)
    successor = FeedSource(6, 0, source.kept())
    answers = fed(successor, b"a", range(10))
    assert read(successor) == [6, 7, 8, 9]
    again = fed(successor, b"a", range(10))
    assert read(successor) == []
    assert again == [""]
    successor.committed()
    assert answers == [""]


def test_after_a_kill_the_packets_of_that_producer_are_read() -> None:
    source = FeedSource(0, 0, None)
    fed(source, b"a", range(3))
    read(source)
    of_a = source.of
    successor = FeedSource(0, 0, None)
    fed(successor, b"b", range(100, 103))
    successor.hurry, successor.wanted = True, of_a
    assert read(successor) == []  # they have not come yet: others' do not stand for them
    fed(successor, b"a", range(3))
    assert read(successor) == [0, 1, 2]
    successor.hurry = False
    assert read(successor) == [100, 101, 102]
    assert successor.of != of_a


def test_in_the_end_what_was_not_taken_is_refused() -> None:
    source = FeedSource(0, 0, None)
    ends: list[str] = []
    source.accept(END.term(), ends.append)
    answers = fed(source, b"a", range(3))
    assert read(source) == [0, 1, 2]
    source.committed()
    late = fed(source, b"a", range(3, 6))
    assert read(source, 0) == []
    source.ended()
    assert (answers, late, ends) == ([""], ["the pipeline ends"], [""])


def test_a_read_is_bounded_in_bytes() -> None:
    source = FeedSource(0, 0, None)
    fed(source, b"a", range(3))
    assert [len(source.read(10, 50) or []) for _ in range(4)] == [1, 1, 1, 0]
