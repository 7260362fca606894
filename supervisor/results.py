"""What callbacks are given and may return, and what the loop asks of the object they belong to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

from supervisor.errors import NORMAL, Reason
from supervisor.linux import Process
from supervisor.ref import Ref


@dataclass(frozen=True)
class Sender:
    """Who waits for a reply: opaque, for ``GenServer.reply``."""

    address: bytes
    number: int


@dataclass(frozen=True)
class NoReply:
    """Returned by ``handle_call``: the reply comes later, by ``self.reply(sender, value)``."""


@dataclass(frozen=True)
class Stop:
    """Returned by any callback: end with this reason; from ``handle_call``, after this reply.

    Returned by ``init``: do not start, for this reason.
    """

    reason: Reason = NORMAL
    reply: Any = None


@dataclass(frozen=True)
class Continue:
    """Returned by any callback: call ``handle_continue(argument)`` before any other message."""

    argument: Any
    reply: Any = None


@dataclass(frozen=True)
class Ignore:
    """Returned by ``init``: nothing to do here; not started, and no error."""


@dataclass(frozen=True)
class Starting:
    """Returned by a supervisor's ``init``: it says itself, later, how the start went."""


class Server(Protocol):
    """What a ``GenServer`` is to the loop that runs it."""

    reference: ClassVar[type[Ref]]

    @classmethod
    def _new(cls, actor: Any) -> Self:
        """Make one for this loop."""

    def init(self, *args: Any, **kwargs: Any) -> Any:
        """Begin."""

    def handle_call(self, request: Any, sender: Sender) -> Any:
        """Serve a call."""

    def handle_cast(self, request: Any) -> Any:
        """Serve a cast."""

    def handle_info(self, message: Any) -> Any:
        """Take any other message."""

    def handle_continue(self, argument: Any) -> Any:
        """Go on."""

    def terminate(self, reason: Reason) -> None:
        """Clean up."""

    def _order_to_stop(self, reason: Reason) -> None:
        """Begin an orderly end."""

    def _owner_left(self, owner: Process, done: Callable[[], object]) -> None:
        """An owner has ended, or is about to. End with the last; otherwise call back."""
