"""A supervisor's decisions against plain models of them."""

from collections import deque
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from supervisor import RemoteError, Shutdown
from supervisor.protocol.flow_control import Credit, Served
from supervisor.protocol.message_kinds import MAILBOX, MAILBOX_BYTES
from supervisor.supervision.strategy import (
    RESTARTS,
    STRATEGIES,
    Intensity,
    Verdict,
    affected,
    shuts_down,
    verdict,
)
from supervisor.supervision.task_queue import Task, TaskQueue

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
        assert intensity.record_restart(now) == (sum(t > now - period for t in times) <= most)


children_of_any_kind = st.lists(st.sampled_from(RESTARTS), min_size=1, max_size=6).map(
    lambda kinds: [(str(place), kind) for place, kind in enumerate(kinds)]
)


@given(st.sampled_from(STRATEGIES), children_of_any_kind, st.data())
def test_whom_a_failure_affects(strategy: Any, children: Any, data: st.DataObject) -> None:
    failed = data.draw(st.integers(0, len(children) - 1))
    group = affected(strategy, children, str(failed))
    stopped = [int(child) for child in group.stop]
    assert stopped == sorted(stopped, reverse=True)
    expected = {
        "one_for_one": {failed},
        "rest_for_one": set(range(failed, len(children))),
        "one_for_all": set(range(len(children))),
    }
    assert set(stopped) == expected[strategy]
    kept = [child for child in sorted(stopped) if children[child][1] != "temporary"]
    assert [int(child) for child in group.start] == kept


@given(st.booleans(), st.lists(st.booleans(), max_size=4))
def test_when_a_supervisor_shuts_down(significant: bool, others: list[bool]) -> None:
    assert not shuts_down("never", others, significant=significant)
    assert shuts_down("any_significant", others, significant=significant) == significant
    last = significant and True not in others
    assert shuts_down("all_significant", others, significant=significant) == last


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


@given(st.lists(st.integers(1, MAILBOX_BYTES // 3), max_size=60), st.data())
def test_a_mailboxs_bound_is_of_what_was_not_served(sizes: list[int], data: st.DataObject) -> None:
    credit, served, unserved = Credit(), Served(), deque[int]()

    def serve() -> None:
        if served.count(unserved.popleft()):
            credit.extend(*served.tell())

    for size in sizes:
        while not credit.covers(size):
            assert unserved
            assert sum(unserved) + size > MAILBOX_BYTES // 2  # nobody waits without a reason
            serve()
        unserved.append(size)
        credit.sent += 1
        credit.sent_bytes += size
        assert sum(unserved) <= MAILBOX_BYTES
        assert len(unserved) <= MAILBOX
        if data.draw(st.booleans()):
            for _ in range(data.draw(st.integers(0, len(unserved)))):
                serve()
