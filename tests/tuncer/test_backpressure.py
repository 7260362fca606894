"""Back pressure of lossless subscribers: who holds the worker back, and for how long."""

from hypothesis import given
from hypothesis import strategies as st

from tuncer.worker.backpressure import Backpressure


def test_who_has_not_read_what_is_needed_holds_back() -> None:
    pressure = Backpressure()
    assert not pressure.holds_back(1000, now=0.0)
    pressure.add(1, position=10, timeout=5.0)
    pressure.add(2, position=20, timeout=None)
    assert not pressure.holds_back(10, now=0.0)
    assert pressure.holds_back(15, now=1.0)
    assert pressure.holding_back == [1]
    assert pressure.next_deadline() == 6.0
    assert pressure.overdue(5.9) == []
    assert pressure.overdue(6.0) == [1]
    pressure.acknowledge(1, 15, head=100)
    assert not pressure.holds_back(15, now=7.0)
    assert pressure.overdue(100.0) == []


def test_one_that_reads_slowly_is_not_overdue() -> None:
    pressure = Backpressure()
    pressure.add(1, position=0, timeout=5.0)
    for now in range(100):
        assert pressure.holds_back(now + 10, float(now))
        assert pressure.overdue(float(now)) == []
        pressure.acknowledge(1, now + 1, head=1000)


def test_one_without_a_timeout_is_never_overdue() -> None:
    pressure = Backpressure()
    pressure.add(1, position=0, timeout=None)
    assert pressure.holds_back(1, now=0.0)
    assert pressure.next_deadline() is None
    assert pressure.overdue(1e9) == []


def test_who_has_left_holds_nobody_back() -> None:
    pressure = Backpressure()
    pressure.add(1, position=0, timeout=None)
    pressure.remove(1)
    pressure.remove(1)
    pressure.acknowledge(1, 5, head=10)
    assert not pressure
    assert not pressure.holds_back(10, now=0.0)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(-100, 2**70)), max_size=30),
    st.integers(0, 1000),
)
def test_no_acknowledgement_gives_up_what_another_one_needs(
    told: list[tuple[int, int]], head: int
) -> None:
    """Whatever a subscriber tells: it counts for itself, goes forward only, and not beyond head."""
    pressure = Backpressure()
    read = {0: 0, 1: 0, 2: 0}
    for number in read:
        pressure.add(number, 0, 1.0)
    for number, position in told:
        pressure.acknowledge(number, position, head)
        if number in read:
            read[number] = max(read[number], min(position, head))
        needed = min(read.values())
        assert not pressure.holds_back(needed, now=0.0)
        assert pressure.holds_back(needed + 1, now=0.0)


def test_time_that_does_not_count() -> None:
    pressure = Backpressure()
    pressure.add(1, position=0, timeout=5.0)
    assert pressure.holds_back(1, now=0.0)
    pressure.rest()
    assert pressure.holding_back == []
    assert pressure.next_deadline() is None
    assert pressure.overdue(100.0) == []
    assert pressure.holds_back(1, now=200.0)
    assert pressure.next_deadline() == 205.0
