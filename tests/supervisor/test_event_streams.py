"""The subscribers of an actor's events."""

import subprocess
import sys

import pytest
from actors import Counter
from processes import PATIENCE

from supervisor import (
    Events,
)
from supervisor.protocol import message_kinds


def test_events_that_nobody_reads_leave_room_for_answers() -> None:
    ref = Counter.start_link(name="traced")
    traces = [ref.trace() for _ in range(3)]
    others = (
        "from supervisor import whereis\n"
        "ref = whereis('traced')\n"
        "for _ in range(30_000): ref.cast(0)\n"
        "ref.call('get', timeout=30)"
    )
    subprocess.run([sys.executable, "-c", others], check=True)
    for _ in range(3):
        assert ref.call("get", timeout=PATIENCE) == 0
    for _ in range(2 * message_kinds.MAILBOX):
        ref.cast(0)
    assert ref.call("get", timeout=PATIENCE) == 0
    seen = traces[0].next(PATIENCE)
    assert seen.kind == "cast"
    for trace in traces:
        trace.close()


def test_topics_are_known() -> None:
    ref = Counter.start_link()
    with pytest.raises(ValueError, match="events are of"):
        Events(ref._connection(), "weather").next(PATIENCE)
