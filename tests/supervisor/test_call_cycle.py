"""A cycle of calls is a deadlock, and is raised."""

import time
from typing import Any

import pytest
from actors import Relay
from processes import PATIENCE, eventually

from supervisor import (
    CallCycle,
)


def test_a_cycle_of_calls_is_raised_not_waited_for(capfd: Any) -> None:
    a, b, c = (Relay.start_link(name=name) for name in "abc")
    before = time.monotonic()
    for way in ([a, a], [a, b, a], [a, b, c, b], [a, b, c, a]):
        found = way[0].call(["call", *way[1:]], timeout=PATIENCE)
        assert found.startswith("CallCycle"), found
    assert time.monotonic() - before < 5
    assert a.call(["call", b, c]) == "the end"
    assert a.call(["cast", b, a]) == "sent"  # a does not wait for b: no cycle
    eventually(lambda: b.call("heard"), ["the end"])
    with pytest.raises(CallCycle):
        raise CallCycle("for its name")
