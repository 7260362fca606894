"""What can go wrong between actors, and why an actor ended. Each exception has one meaning.

Exit reasons follow Erlang/OTP ("Supervision Principles", ``gen_server:terminate/2``): the words
``normal``, ``shutdown``, ``killed`` and ``hung``, a ``Shutdown(term)``, or the error.
"""

from __future__ import annotations

import errno
import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self, TypeAlias

from supervisor import linux

NORMAL = "normal"
SHUTDOWN = "shutdown"
KILLED = "killed"
HUNG = "hung"
NOPROC = "noproc"


RAISED = (BaseException,)
"""What a user's code may raise. SystemExit and asyncio's CancelledError, which are no Exceptions,
are handled like any other error of that code."""


def shown(value: object, most: int = 200) -> str:
    """Return the text of a user's value, cut, whatever its ``__repr__`` raises."""
    try:
        text = repr(value)
    except RAISED as error:
        text = f"<{type(value).__qualname__}, whose repr raises {type(error).__qualname__}>"
    return text if len(text) <= most else f"{text[: most - 3]}..."


@dataclass(frozen=True)
class Shutdown:
    """An orderly end with an explanation: OTP's ``{shutdown, Term}``."""

    term: Any


class GaveUp(str):
    """Why a supervisor ends that has given up: "shutdown", as in OTP, and what OTP does not tell.

    It equals "shutdown". ``isinstance(down.reason, GaveUp)`` tells it from an ordinary stop.
    """

    __slots__ = ("why",)

    why: str
    """Which limit was passed, and by which child."""

    def __new__(cls, why: str) -> Self:  # noqa: D102 - as __init__
        reason = super().__new__(cls, SHUTDOWN)
        reason.why = why
        return reason

    def __reduce__(self) -> tuple[type[GaveUp], tuple[str]]:
        return (GaveUp, (self.why,))


Reason: TypeAlias = str | Shutdown | Exception


def is_orderly(reason: Reason) -> bool:
    """Tell whether a transient child that ended so is left alone."""
    return isinstance(reason, Shutdown) or reason in (NORMAL, SHUTDOWN)


SHUT_DOWN = 113
"""Exit status of an actor that has ended with reason "shutdown": a caller whose request came too
late for an answer reads the reason from it. A supervisor's exit status is 0 instead, which a
service manager takes for success."""


def reason_of(code: int) -> Reason:
    """Return the reason that an exit code tells, which is negative for a signal."""
    if code < 0:
        names = {number.value: f"signal {number.name}" for number in signal.Signals}
        names |= {signal.SIGKILL: KILLED, linux.HANG_SIGNAL: HUNG}
        return names.get(-code, f"signal {-code}")
    return {0: NORMAL, SHUT_DOWN: SHUTDOWN}.get(code, f"exit status {code}")


_SHORTAGES = {
    errno.EAGAIN,
    errno.EDQUOT,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOBUFS,
    errno.ENOMEM,
    errno.ENOSPC,
}


def is_shortage(error: object) -> bool:
    """Tell whether an error says that the system is short of something, for now."""
    return isinstance(error, MemoryError) or (
        isinstance(error, OSError) and error.errno in _SHORTAGES
    )


def brief(reason: Reason) -> str:
    """Return a reason in a line: an error's traceback was logged where it was raised."""
    if isinstance(reason, GaveUp):
        return f"{reason}, as it gave up: {reason.why}"
    return f"{reason}".partition("\n")[0]


class ActorError(Exception):
    """Base of every error of this package."""

    relayed = False
    """Whether an actor has answered by it: then it is about something else than that actor."""


class NoProcess(ActorError, LookupError):
    """Nobody is there: the actor has ended, or nobody has the name. Nothing was sent."""


class ProcessDown(ActorError):
    """The actor ended while a call was under way; whether it served the call is unknown."""

    def __init__(self, who: str, reason: Reason) -> None:
        self.who = who
        self.reason = reason
        super().__init__(who, reason)

    def __str__(self) -> str:
        told = brief(self.reason) if isinstance(self.reason, GaveUp) else self.reason
        return f"{self.who} ended during the call: {told}"


class CallTimeout(ActorError, TimeoutError):
    """The actor lives, but did not reply in time; a late reply is dropped."""


class Cancelled(ActorError):
    """The caller has said that it waits for this reply no longer."""


class CallCycle(ActorError):
    """An actor called itself, or one that waits for it: it would have waited for ever."""


class MailboxFull(ActorError):
    """The actor lives, but does not read: its mailbox's bound was reached. Nothing was sent."""


class AlreadyRegistered(ActorError):
    """Another living actor has the name; ``ref`` is its reference."""

    reference: ClassVar[Callable[[linux.Process], Any]]
    """What makes a reference: ``ref.Ref``, which imports this module."""

    def __init__(self, name: str, process: tuple[int, int]) -> None:
        self.name = name
        self.process = linux.Process(*process)
        super().__init__(name, tuple(process))

    @property
    def ref(self) -> Any:
        """A reference to the actor's present incarnation."""
        return type(self).reference(self.process)

    def __str__(self) -> str:
        return f"the name {self.name!r} belongs to process {self.process.pid}"


class StartFailed(ActorError):
    """An actor's ``init`` did not succeed; ``reason`` says why, ``child`` which child it was."""

    def __init__(self, child: str, reason: Reason) -> None:
        self.child = child
        self.reason = reason
        super().__init__(child, reason)

    def __str__(self) -> str:
        return f"{self.child} failed to start: {self.reason}"


class AlreadyStarted(ActorError):
    """A child of this id is running; ``ref`` is its reference."""

    def __init__(self, child: str, ref: object) -> None:
        self.child = child
        self.ref = ref
        super().__init__(child, ref)

    def __str__(self) -> str:
        return f"child {self.child!r} is running: {self.ref}"


class AlreadyPresent(ActorError):
    """A child of this id is specified, but not running: restart or delete it."""


class NotFound(ActorError, LookupError):
    """The supervisor has no child of this id."""


class NotOwner(ActorError):
    """Only the process that a child belongs to may give it away."""


class StillRunning(ActorError):
    """The child must be terminated before this can be done to it."""


class Restarting(StillRunning):
    """The child has ended and is being restarted: it must be terminated before."""


class TooManyChildren(ActorError):
    """The supervisor has as many children as it may have (``max_children``)."""


class BadMessage(ActorError):
    """What arrived in a mailbox is no message of this package."""


class RemoteError(ActorError):
    """An exception in another process: what it was called, what it said, and where.

    It travels as data. The exception itself is never unpickled here.
    """

    def __init__(self, kind: str, message: str, trace: str = "") -> None:
        self.kind = kind
        self.message = message
        self.trace = trace
        super().__init__(kind, message, trace)

    def __str__(self) -> str:
        said = f"{self.kind}: {self.message}" if self.message else self.kind
        return f"{said}\n\nRemote {self.trace}" if self.trace else said

    @classmethod
    def of(cls, error: BaseException) -> RemoteError:
        """Describe an exception of this process for others."""
        if isinstance(error, RemoteError):
            return error
        kind = type(error)
        name = (
            kind.__qualname__
            if kind.__module__ == "builtins"
            else f"{kind.__module__}.{kind.__qualname__}"
        )
        trace = "".join(traceback.format_exception(error))
        return cls(name[:512], _said(error), _cut(trace, first=False))


_LIMIT = 12288  # bytes of a text, and of a traceback, that travel


def _cut(text: str, *, first: bool) -> str:
    """Keep the first or the last bytes of a text: a traceback's innermost frames are at its end."""
    data = text.encode("utf-8", "backslashreplace")
    return (data[:_LIMIT] if first else data[-_LIMIT:]).decode("utf-8", "replace")


def _said(error: BaseException) -> str:
    try:
        return _cut(str(error), first=True)
    except RAISED:  # a broken __str__ must not hide the error it belongs to
        return "(its text cannot be had)"


# Errors that a reply may carry to be raised as themselves in the caller: made again from plain
# arguments, never unpickled.
CARRIED: dict[str, type[Exception]] = {
    kind.__name__: kind
    for kind in (
        AlreadyPresent,
        AlreadyRegistered,
        AlreadyStarted,
        BadMessage,
        CallCycle,
        CallTimeout,
        Cancelled,
        KeyError,
        MailboxFull,
        NoProcess,
        NotFound,
        NotOwner,
        OSError,
        ProcessDown,
        Restarting,
        StartFailed,
        StillRunning,
        TooManyChildren,
        TypeError,
        ValueError,
    )
}


def carried(error: BaseException) -> str | None:
    """Return the name in ``CARRIED`` that an error can travel under, if any."""
    kinds = (kind.__name__ for kind in type(error).__mro__)
    return next((name for name in kinds if name in CARRIED), None)
