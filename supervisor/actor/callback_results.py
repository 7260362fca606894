"""What callbacks are given, how their results are checked, and what the loop asks of an actor."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from types import CoroutineType
from typing import Any, ClassVar, NamedTuple, Protocol, Self

from supervisor.client.ref import Ref, connection_to
from supervisor.errors import NoProcess, Reason, shown
from supervisor.linux import Process
from supervisor.protocol import codec
from supervisor.protocol.codec import Code
from supervisor.protocol.invocation import Invocation
from supervisor.protocol.message_kinds import ANSWER, REPLY
from supervisor.protocol.results import Continue, Ignore, NoReply, Starting, Stop

_ROOM = 5.0  # seconds that a mailbox may be full


class Sender(NamedTuple):
    """Who waits for a reply to a call. It can be sent to other processes, and answered there."""

    address: int
    """Of the connection on which the call has come."""
    number: int
    actor: Process
    """Who was called: the reply goes through it."""

    def reply(self, value: Any) -> bool:
        """Reply from another process than the called actor: the actor passes the reply on.

        Returns:
            Whether the called actor still lives. Whether the caller still lives is not known.

        Raises:
            TypeError, ValueError: the value cannot travel.
        """
        answer = [self.address, self.number, REPLY, value]
        with contextlib.suppress(NoProcess):
            connection_to(Ref(self.actor)).send(ANSWER, answer, _ROOM)
            return True
        return False


codec.extend(
    Code.SENDER,
    Sender,
    lambda sender: [sender.address, sender.number, *sender.actor],
    lambda fields: Sender(fields[0], fields[1], Process(*fields[2:])),
)


@dataclass(frozen=True)
class Timeout:
    """Given to ``handle_info`` when nothing has come for ``idle_timeout`` seconds."""


_RESULTS = (NoReply, Stop, Continue, Ignore, Starting)


def check_init(result: Any, *, supervises: bool) -> None:
    """Check what ``init`` has returned.

    Raises:
        TypeError: nothing that it may return.
    """
    if supervises:
        if not isinstance(result, (Starting, Stop, Ignore)):
            raise TypeError(
                f"init of a supervisor returns what super().init(...) does, not {shown(result)}"
            )
    elif result is not None and not isinstance(result, (Continue, Stop, Ignore)):
        raise TypeError(
            f"init returns None, Continue(...), Stop(...) or Ignore(), not {shown(result)}"
        )


def check_reply(callback: str, value: Any) -> None:
    """Check what ``handle_call``, or a handler, replies.

    Raises:
        TypeError: a class of this module instead of an object of it, or a coroutine.
    """
    if isinstance(value, type) and value in _RESULTS:
        raise TypeError(
            f"{callback} has returned the class {value.__name__}: {value.__name__}() is meant"
        )
    _refuse_coroutine(callback, value)


def check_result(callback: str, result: Any) -> None:
    """Check what another callback has returned.

    Raises:
        TypeError: nothing that it may return.
    """
    if result is None or isinstance(result, (Stop, Continue, NoReply)):
        return
    _refuse_coroutine(callback, result)
    raise TypeError(f"{callback} returns None, Stop(...) or Continue(...), not {shown(result)}")


def _refuse_coroutine(callback: str, value: Any) -> None:
    if type(value) is CoroutineType:
        value.close()  # otherwise a warning follows that nobody has awaited it
        raise TypeError(f"{callback} has returned a coroutine, which nobody would await")


class Server(Protocol):
    """What a ``GenServer`` is to the loop that runs it."""

    reference: ClassVar[type[Ref]]
    supervises: ClassVar[bool]
    kept: ClassVar[tuple[str, ...]]
    idle_timeout: float | None
    trap_exit: bool

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

    def _handler_for(self, message: Invocation) -> Callable[..., Any]:
        """Return what serves a call or cast of a method; it is given the object first."""

    def _operate(self, sender: Sender, request: list[Any]) -> None:
        """Serve an operation of a supervisor that is asked for beside calls."""

    def _table(self) -> dict[str, Any]:
        """Return what a supervisor knows of its children."""

    def _order_to_stop(self, reason: Reason) -> None:
        """Begin an orderly end."""

    def _directory_made_again(self) -> None:
        """The runtime directory was removed, and is there again."""

    def _owner_left(self, owner: Process, done: Callable[[], object]) -> None:
        """An owner has ended, or is about to. End with the last; otherwise call back."""
