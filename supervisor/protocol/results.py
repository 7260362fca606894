"""What a callback may return besides a reply: a handler's signature says so to its callers, too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from supervisor.errors import NORMAL, Reason


@dataclass(frozen=True)
class NoReply:
    """Returned by ``handle_call``: the reply comes later, by ``self.reply(sender, value)``."""


@dataclass(frozen=True)
class Stop:
    """Returned by any callback: end with this reason; from ``handle_call``, after this reply.

    Without a reply the caller is told of the end, by ``ProcessDown``.
    Returned by ``init``: do not start, for this reason.
    """

    reason: Reason = NORMAL
    reply: Any = NoReply()

    def __post_init__(self) -> None:
        if self.reason is None:
            raise TypeError("Stop(None): None is no reason to end; Stop() is for 'normal'")


@dataclass(frozen=True)
class Continue:
    """Returned by any callback: call ``handle_continue(argument)`` before any other message.

    From ``handle_call``, after this reply; without one, that comes later, by ``self.reply``.
    """

    argument: Any
    reply: Any = NoReply()


@dataclass(frozen=True)
class Ignore:
    """Returned by ``init``: nothing to do here; not started, and no error."""


@dataclass(frozen=True)
class Starting:
    """Returned by a supervisor's ``init``: it says itself, later, how the start went."""
