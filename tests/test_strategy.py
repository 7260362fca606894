"""A supervisor's decisions against plain models of them."""

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor import RemoteError, Shutdown
from supervisor.jobs import Job, Jobs
from supervisor.strategy import RESTARTS, Intensity, Verdict, affected, verdict

reasons = st.sampled_from(
    [
        "normal",
        "shutdown",
        Shutdown(1),
        "killed",
        "hung",
        "exit status 3",
        RemoteError("ValueError", "x"),
    ]
)


@given(st.sampled_from(RESTARTS), reasons)
def test_what_becomes_of_a_child(restart: str, reason: object) -> None:
    orderly = reason in ("normal", "shutdown", Shutdown(1))
    expected = {
        "permanent": Verdict.RESTART,
        "transient": Verdict.KEEP if orderly else Verdict.RESTART,
        "temporary": Verdict.FORGET,
    }
    assert verdict(restart, reason) is expected[restart]  # type: ignore[arg-type]


@given(st.integers(0, 5), st.floats(0.5, 5), st.lists(st.floats(0, 3), max_size=30))
def test_intensity_counts_restarts_within_the_period(
    most: int, period: float, gaps: list[float]
) -> None:
    intensity, now, times = Intensity(most, period), 0.0, []
    for gap in gaps:
        now += gap
        times.append(now)
        assert intensity.bear(now) == (sum(t > now - period for t in times) <= most)


def test_one_for_one_affects_one() -> None:
    assert affected("one_for_one", ["a", "b"], "a") == ["a"]
    assert affected("one_for_one", ["a", "b"], "c") == []
    with pytest.raises(ValueError, match="unknown strategy"):
        affected("all_for_none", ["a"], "a")  # type: ignore[arg-type]


@given(st.lists(st.integers(0, 3), max_size=6))
def test_jobs_are_done_in_order_each_to_its_end(waits: list[int]) -> None:
    jobs, done = Jobs(), []

    def job(number: int, events: int) -> Job:
        for _ in range(events):
            yield
        done.append(number)

    for number, events in enumerate(waits):
        jobs.add(job(number, events))
    for _ in range(sum(waits)):
        jobs.advance()
    assert done == list(range(len(waits)))


def test_a_preempting_job_ends_the_others() -> None:
    jobs, done = Jobs(), deque[str]()

    def endless() -> Job:
        while True:
            yield

    def last() -> Job:
        done.append("last")
        return
        yield

    def preempts() -> Job:
        jobs.preempt(last())
        yield
        done.append("never")

    jobs.add(preempts())
    assert list(done) == ["last"]
    jobs.add(endless())
    jobs.preempt(last())
    assert list(done) == ["last", "last"]
