"""The decision whether a queue is polled and attached."""

from hypothesis import given
from hypothesis import strategies as st

from tuncer.worker.demand import demand


@given(st.booleans(), st.sampled_from([0, 1, 64]), st.booleans(), st.booleans(), st.booleans())
def test_what_is_demanded_of_a_queue(
    receivers: bool, room: int, active: bool, was_active: bool, settled: bool
) -> None:
    wanted = demand(
        receivers=receivers, room=room, active=active, was_active=was_active, settled=settled
    )
    assert wanted.polled == (receivers or room > 0)
    if active or receivers:
        assert wanted.attached is True  # whoever reads it gets its packets
    elif was_active:
        assert wanted.attached is False  # the last subscriber has gone, and nobody wants them
    else:  # a passive queue keeps its packets between recv calls; a new one was asked for by nobody
        assert wanted.attached is (None if settled else False)
