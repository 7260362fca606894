"""What supervisors and actors tell of themselves, to whoever subscribes.

``SUPERVISION``: each start, exit and restart of a child, and each time that a supervisor gives up,
of a supervisor and of all below it. ``TRACE``: each message that an actor serves, and each of its
replies.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import Any, TypeVar

from supervisor.errors import Reason
from supervisor.protocol import codec
from supervisor.protocol.codec import Code

SUPERVISION = "supervision"
TRACE = "trace"
TOPICS = (SUPERVISION, TRACE)


@dataclass(frozen=True)
class Event:
    """Something that has happened below a supervisor."""

    kind: str
    """"started", "restarted", "failed" (to start), "exited", "gave_up"."""
    path: tuple[str, ...]
    """Ids, from the supervisor that was asked down to the child; empty: it itself."""
    pid: int | None
    """The process that was started or has ended."""
    reason: Reason | None
    """Why it has ended, failed, or given up."""
    restarts: int
    """How often this child has been restarted, this time included."""
    uptime: float
    """Seconds that the process has lived."""
    at: float
    """When, in seconds since 1970."""
    lost: int = 0
    """Events before this one that found no room with their subscriber."""

    def below(self, child: str) -> Event:
        """Return this event as the supervisor above tells it."""
        return dataclasses.replace(self, path=(child, *self.path))


@dataclass(frozen=True)
class Traced:
    """A message that an actor has begun to serve, or a reply that it has sent."""

    kind: str
    """"call", "cast", "info" or "reply"."""
    term: Any
    """The message, or its text if it cannot travel."""
    at: float
    """When, in seconds since 1970."""
    lost: int = 0
    """Such before this one that found no room with their subscriber."""


_Told = TypeVar("_Told", Event, Traced)


def after(lost: int, event: _Told) -> _Told:
    """Return an event, after so many more that were lost."""
    return dataclasses.replace(event, lost=event.lost + lost) if lost else event


def traced(kind: str, term: Any) -> Traced:
    """Describe a message."""
    return Traced(kind, codec.portable(term), time.time())


def _fields(event: Event | Traced) -> list[Any]:
    return [getattr(event, field.name) for field in dataclasses.fields(event)]


codec.extend(Code.EVENT, Event, _fields, lambda fields: Event(*fields))
codec.extend(Code.TRACED, Traced, _fields, lambda fields: Traced(*fields))
