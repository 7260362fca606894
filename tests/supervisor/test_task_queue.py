"""In which order a supervisor does what it has to do."""

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from supervisor.supervision.task_queue import Task, TaskQueue


@given(st.lists(st.integers(0, 3), max_size=6))
def test_tasks_are_done_in_order_each_to_its_end(waits: list[int]) -> None:
    tasks, done = TaskQueue(), []

    def task(number: int, events: int) -> Task:
        for _ in range(events):
            yield
        done.append(number)

    for number, events in enumerate(waits):
        tasks.add(task(number, events))
    for _ in range(sum(waits)):
        tasks.advance()
    assert done == list(range(len(waits)))


def test_a_preempting_task_ends_the_others() -> None:
    tasks, done = TaskQueue(), deque[str]()

    def endless() -> Task:
        while True:
            yield

    def last() -> Task:
        done.append("last")
        return
        yield

    def preempts() -> Task:
        tasks.preempt(last())
        yield
        done.append("never")

    tasks.add(preempts())
    assert list(done) == ["last"]
    tasks.add(endless())
    tasks.preempt(last())
    assert list(done) == ["last", "last"]
