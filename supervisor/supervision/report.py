"""What a supervisor tells of itself and its children, for ``supervisor.tree``."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from supervisor.errors import brief
from supervisor.supervision.child import Child

_MINUTE = 60.0  # seconds in which a child that has been forgotten is told of
_MOST = 100  # of these


def row_of(child: Child, state: str, now: float) -> dict[str, Any]:
    """Return what is told of a child.

    Args:
        child: the child.
        state: its state, as a word.
        now: the time, by ``time.monotonic``.
    """
    ended = child.last_exit
    return {
        "id": child.plan.id,
        "state": state,
        "type": child.plan.type,
        "start": child.plan.start,
        "name": child.plan.name,
        "process": None if child.process is None else list(child.process),
        "restarts": child.restarts,
        "uptime": None if child.process is None else now - child.since,
        "last_exit": None if ended is None else [ended.pid, brief(ended.reason), now - ended.at],
    }


class Forgotten:
    """The children that have ended, and were forgotten, for a minute."""

    def __init__(self) -> None:
        self._rows: deque[tuple[float, dict[str, Any]]] = deque(maxlen=_MOST)

    def add(self, child: Child) -> None:
        """Add one that has just been forgotten."""
        now = time.monotonic()
        self._rows.append((now, row_of(child, "forgotten", now)))

    def recent(self, now: float) -> list[dict[str, Any]]:
        """Return the rows of those of the last minute, and drop the others."""
        while self._rows and now - self._rows[0][0] > _MINUTE:
            self._rows.popleft()
        return [_older(row, now - then) for then, row in self._rows]


def _older(row: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Return a row as it is so many seconds later."""
    if row["last_exit"] is None:
        return row
    pid, reason, ago = row["last_exit"]
    return row | {"last_exit": [pid, reason, ago + seconds]}
