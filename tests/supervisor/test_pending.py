"""What a caller waits for: one answer, or a stream of events."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor import ProcessDown
from supervisor.client import pending
from supervisor.client.pending import Pending, Stream
from supervisor.protocol.message_kinds import RAISE, REPLY

ANSWERS = {"reply": (REPLY, 7), "error": (RAISE, ValueError("no")), "end": (-1, "killed")}


@pytest.mark.parametrize("first", ANSWERS)
@pytest.mark.parametrize("second", ANSWERS)
def test_the_first_answer_counts(first: str, second: str) -> None:
    told: list[Pending] = []
    waiting = Pending(is_call=True, then=told.append)
    waiting.settle(*ANSWERS[first])
    waiting.settle(*ANSWERS[second])
    assert told == [waiting]
    for _ in range(2):  # it may be asked for more than once
        if first == "reply":
            assert waiting.result("who") == 7
        else:
            with pytest.raises(ValueError if first == "error" else ProcessDown):
                waiting.result("who")


@given(st.lists(st.tuples(st.integers(0, 30), st.text(max_size=2))))
def test_each_event_is_taken_once_and_the_missing_ones_are_counted(
    arriving: list[tuple[int, str]],
) -> None:
    """Numbers that come again or late are of a message that was sent twice."""
    stream = Stream()
    for seq, event in arriving:
        stream.feed(seq, event)
    expected, highest = [], -1
    for seq, event in arriving:
        if seq > highest:
            expected.append((event, seq - highest - 1))
            highest = seq
    assert list(stream.events) == expected
    assert stream.received == len(expected)
    assert sum(lost for _, lost in expected) + len(expected) == highest + 1


def test_events_that_nobody_reads_are_bounded_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "_MOST_EVENTS", 3)
    stream = Stream()
    for seq in range(8):
        stream.feed(seq, seq)
    assert list(stream.events) == [(0, 0), (1, 0), (2, 0)]
    stream.events.clear()
    stream.feed(8, 8)
    assert list(stream.events) == [(8, 5)]
