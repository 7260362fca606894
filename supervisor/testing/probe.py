"""A reference that records what is sent to it, for the test to look at."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, Self, cast

from supervisor.actor.callback_results import Sender
from supervisor.client.connection import deadline_of
from supervisor.client.ref import Ref, process_of
from supervisor.gen_server import GenServer
from supervisor.protocol.codec import Code, extend
from supervisor.protocol.invocation import Invocation
from supervisor.protocol.message_kinds import CALL_METHOD
from supervisor.protocol.results import NoReply

_NEXT, _ALL, _ANSWERS = "probe: next", "probe: all", "probe: answers"
"""What a probe asks of its actor. No method has such a name, so nobody else asks for it."""


class Received(NamedTuple):
    """A message that a probe was sent."""

    kind: str
    """"call", "cast" or "info"."""
    term: Any
    """The message; an ``Invocation`` if a method was called or cast."""
    sender: Sender | None = None
    """Who waits for the reply, of a call: ``sender.reply(value)`` answers it."""


extend(Code.RECEIVED, Received, list, lambda fields: Received(*fields))


class Probe(Ref[Any]):
    """A reference to an actor of the test, which takes any call, cast and message, and records it.

    In place of a real actor's reference it is given to what is tested, also in messages. Calls are
    answered by the values of ``answer``, and otherwise left open until the test answers
    (``received.sender.reply(value)``).
    """

    __slots__ = ()

    @classmethod
    def start_link(cls, name: str | None = None) -> Self:
        """Start the actor, with a name to register. Raises as ``GenServer.start_link``."""
        ref = _Recorder.start_link(name=name)
        return cls(process_of(ref), ref.name)

    def next(self, timeout: float = 5.0) -> Received:
        """Return the next message, each once, in the order of arrival; wait for it if need be.

        Raises:
            AssertionError: there is none in so many seconds.
        """
        deadline_of(timeout)
        found = self._ask(CALL_METHOD, [_NEXT, [timeout]], timeout + 5.0)
        if found is None:
            raise AssertionError(
                f"{self} has received nothing more within {timeout:g} s; before: {self.received()}"
            )
        return cast("Received", found)

    def nothing(self, seconds: float = 0.1) -> None:
        """Wait for so long, and see that no further message comes.

        Raises:
            AssertionError: which one has come.
        """
        found = self._ask(CALL_METHOD, [_NEXT, [seconds]], seconds + 5.0)
        if found is not None:
            raise AssertionError(f"{self} has received {found}")

    def received(self) -> list[Received]:
        """Return all messages so far, also those that ``next`` has returned."""
        return cast("list[Received]", self._ask(CALL_METHOD, [_ALL, []], 5.0))

    def answer(self, *values: Any) -> None:
        """Answer the next calls by these values, one each, in this order."""
        self._ask(CALL_METHOD, [_ANSWERS, list(values)], 5.0)


class _Recorder(GenServer):
    """The actor of a probe."""

    def init(self) -> None:
        self._received: list[Received] = []
        self._next: deque[Received] = deque()
        self._waiting: deque[Sender] = deque()
        self._answers: deque[Any] = deque()

    def _handler_for(self, message: Invocation) -> Callable[..., Any]:
        own: dict[str, Callable[..., Any]] = {
            _NEXT: self._serve_next,
            _ALL: lambda: self._received,
            _ANSWERS: lambda *values: self._answers.extend(values),
        }
        serve = own.get(message.method)
        if serve is None:
            return lambda *_, **__: self._record_method(message)
        return lambda _, *args: serve(*args)

    def _record_method(self, message: Invocation) -> Any:
        kind = "cast" if self.sender is None else "call"
        return self._record(Received(kind, message, self.sender))

    def handle_call(self, request: Any, sender: Sender) -> Any:
        return self._record(Received("call", request, sender))

    def handle_cast(self, request: Any) -> None:
        self._record(Received("cast", request))

    def handle_info(self, message: Any) -> None:
        self._record(Received("info", message))

    def _record(self, message: Received) -> Any:
        self._received.append(message)
        if self._waiting:
            self.reply(self._waiting.popleft(), message)
        else:
            self._next.append(message)
        if message.kind == "call" and self._answers:
            return self._answers.popleft()
        return NoReply()

    def _serve_next(self, timeout: float) -> Any:
        sender = self.sender
        assert sender is not None
        if self._next:
            return self._next.popleft()
        self._waiting.append(sender)
        self.call_later(timeout, lambda: self._give_up(sender))
        return NoReply()

    def _give_up(self, sender: Sender) -> None:
        if sender in self._waiting:
            self._waiting.remove(sender)
            self.reply(sender, None)
