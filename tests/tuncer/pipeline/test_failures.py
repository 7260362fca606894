"""What becomes of packets that were in hand at a kill."""

from hypothesis import given
from hypothesis import strategies as st

from tuncer.pipeline.failures import Suspicion, Verdict, after_commit, after_kill


def test_the_first_kill_is_repeated_as_it_was() -> None:
    assert after_kill(0, Suspicion(), "retry").what == "go on"
    assert after_kill(5, Suspicion(), "retry") == Verdict("retry", Suspicion(1, 5, 0))
    assert after_commit(5, Suspicion(1, 5, 0)) == Suspicion()


def test_skipped_packets_are_not_suspected() -> None:
    assert after_kill(5, Suspicion(), "skip") == Verdict("skip", Suspicion())


@given(st.integers(1, 400), st.data())
def test_what_kills_is_found_alone_and_everything_else_is_done(
    count: int, data: st.DataObject
) -> None:
    """A worker in small: it commits what it takes, unless that has a deadly packet in it."""
    deadly = data.draw(st.sets(st.integers(0, count - 1), max_size=4))
    position, kills, suspicion = 0, 0, Suspicion()
    done: list[int] = []
    quarantined: list[int] = []
    while position < count:
        taken = list(range(position, min(count, position + (suspicion.limit or 256))))
        if deadly.isdisjoint(taken):
            done += taken
            suspicion = after_commit(len(taken), suspicion)
        else:
            kills += 1
            verdict = after_kill(len(taken), suspicion, "retry")
            suspicion = verdict.suspicion
            if verdict.what == "retry":
                assert 0 < suspicion.limit <= len(taken)
                continue
            assert verdict.what == "quarantine"
            assert len(taken) == 1
            quarantined += taken
        position += len(taken)
    assert set(quarantined) == deadly
    assert done == sorted(set(range(count)) - deadly)
    assert kills <= len(deadly) * (2 + 9)
    assert suspicion == Suspicion()
