"""A supervisor's decisions against plain models of them."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from supervisor import RemoteError, Shutdown
from supervisor.supervision.strategy import (
    RESTARTS,
    STRATEGIES,
    Intensity,
    Verdict,
    affected,
    pause,
    shuts_down,
    verdict,
)

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


@given(st.integers(0, 1000), st.floats(0.1, 1e6))
def test_a_limit_is_reached_in_spite_of_the_pauses(most: int, period: float) -> None:
    limit, now = Intensity(most, period), 0.0
    attempts = 0
    while limit.record_restart(now):
        attempts += 1
        now += pause(attempts, limit, short=False)
        assert attempts <= most + 1


def test_the_first_attempts_follow_at_once_and_later_ones_do_not() -> None:
    limit = Intensity(1000, 1e6)
    pauses = [pause(n, limit, short=False) for n in range(30)]
    assert pauses[:3] == [0.0] * 3
    assert pauses == sorted(pauses)
    assert 0.5 <= pauses[-1] <= 1.0
    assert all(pause(n, limit, short=True) >= 0.05 for n in range(30))
