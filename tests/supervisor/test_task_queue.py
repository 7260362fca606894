"""In which order a supervisor does what it has to do."""

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from supervisor.supervision.task_queue import Task, TaskQueue


@given(st.lists(st.integers(0, 3), max_size=6))
def test_jobs_are_done_in_order_each_to_its_end(waits: list[int]) -> None:
    jobs, done = TaskQueue(), []

    def job(number: int, events: int) -> Task:
        for _ in range(events):
            yield
        done.append(number)

    for number, events in enumerate(waits):
        jobs.add(job(number, events))
    for _ in range(sum(waits)):
        jobs.advance()
    assert done == list(range(len(waits)))


def test_a_preempting_job_ends_the_others() -> None:
    jobs, done = TaskQueue(), deque[str]()

    def endless() -> Task:
        while True:
            yield

    def last() -> Task:
        done.append("last")
        return
        yield

    def preempts() -> Task:
        jobs.preempt(last())
        yield
        done.append("never")

    jobs.add(preempts())
    assert list(done) == ["last"]
    jobs.add(endless())
    jobs.preempt(last())
    assert list(done) == ["last", "last"]
