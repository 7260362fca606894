"""What a caller waits for: one answer to a request, or a stream of events."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from supervisor.errors import ActorError, ProcessDown, Reason
from supervisor.protocol.message_kinds import RAISE, REPLY

_MOST_EVENTS = 10_000  # of a stream that nobody reads


class Pending:
    """A request that waits for its answer."""

    __slots__ = ("_then", "answer", "is_call", "number", "there")

    def __init__(self, *, is_call: bool, then: Callable[[Pending], None] | None = None) -> None:
        self.answer: tuple[int, Any] | None = None
        self.is_call = is_call
        self.number = 0
        """0: it was not sent."""
        self.there: Any = None
        """The connection on which it was sent."""
        self._then = then

    def add_callback(self, callback: Callable[[], object]) -> None:
        """Call back when it is answered, after what was to be called before."""
        before = self._then

        def both(pending: Pending) -> None:
            if before is not None:
                before(pending)
            callback()

        self._then = both

    def settle(self, kind: int, term: Any) -> None:
        """Take the answer, once."""
        if self.answer is None:
            self.answer = (kind, term)
        then, self._then = self._then, None  # first: what is called may come here again
        if then is not None:
            then(self)

    def result(self, who: object) -> Any:
        """Return the answer's value, or raise what it says."""
        assert self.answer is not None  # callers wait before they ask
        kind, term = self.answer
        if kind == REPLY:
            return term
        if kind == RAISE:
            if isinstance(term, ActorError):
                term.relayed = True
            raise term.with_traceback(None)  # it may be raised more than once
        raise ProcessDown(str(who), term)

    def reason(self) -> Reason:
        """Return why the actor ended, if that was asked for."""
        assert self.answer is not None
        reason: Reason = self.answer[1]
        return reason


class Stream(Pending):
    """A request that is answered by many events, until the actor ends."""

    __slots__ = ("_next", "_taken", "events", "lost", "received")

    def __init__(
        self,
        taken: Callable[[Any, int], None] | None = None,
        then: Callable[[Pending], None] | None = None,
    ) -> None:
        """Give each event, and how many were lost before it, to ``taken``, or keep them."""
        super().__init__(is_call=False, then=then)
        self.events: deque[tuple[Any, int]] = deque()
        self.lost = 0
        self.received = 0
        self._next = 0
        self._taken = taken

    def feed(self, seq: int, event: Any) -> None:
        """Take an event, once; numbers that are left out are of events that found no room."""
        if seq < self._next:
            return
        self.received += 1
        self.lost += seq - self._next
        self._next = seq + 1
        if self._taken is None and len(self.events) >= _MOST_EVENTS:
            self.lost += 1
            return
        lost, self.lost = self.lost, 0
        if self._taken is None:
            self.events.append((event, lost))
        else:
            self._taken(event, lost)
