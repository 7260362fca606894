"""Notifications of rtnetlink about links."""

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from tuncer.tunctl.linux import monitor

STATES = st.builds(
    monitor.LinkState,
    st.sampled_from(["a", "b"]),
    st.booleans(),
    st.booleans(),
    st.integers(68, 70),
    st.frozensets(st.sampled_from(["10.0.0.1/8", "fd00::1/64", "10.0.0.2/8"])),
)


@given(STATES, STATES)
def test_the_changes_lead_from_one_state_to_the_other(
    before: monitor.LinkState, after: monitor.LinkState
) -> None:
    state = before
    for kind, value in monitor.difference(before, after):
        match kind:
            case "up" | "down":
                state = state._replace(up=kind == "up")
            case "address_added":
                state = state._replace(addresses=state.addresses | {str(value)})
            case "address_removed":
                state = state._replace(addresses=state.addresses - {str(value)})
            case _:
                state = state._replace(**{kind: value})
    assert state == after


@given(st.binary(max_size=200), st.integers(0, 5))
def test_any_bytes_are_read_as_messages_without_an_end(data: bytes, index: int) -> None:
    with contextlib.suppress(ValueError):
        monitor.messages(data, index)
