"""Which member of a pool serves which request: decisions, without effects."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

_Member = TypeVar("_Member", bound=Hashable)
_Request = TypeVar("_Request")

_MORE = 16  # requests that may wait here besides two for each that is being served


class PoolQueue(Generic[_Member, _Request]):
    """The members of a pool, what each of them serves now, and the requests that wait.

    A request goes to the member that serves the fewest; of several, to the one that has waited for
    longest. A member serves ``concurrency`` requests at a time at most; further requests wait here.
    So the death of a member costs what it was serving, and nothing that waits. When it is full, the
    pool leaves requests in its mailbox, whose bound then holds their senders back.
    """

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency
        self._busy: dict[_Member, int] = {}
        """The numbers of requests under way, of the members in the order of their last use."""
        self._leaving: set[_Member] = set()
        self._paused: set[_Member] = set()
        self._waiting: deque[_Request] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def set_members(self, members: Iterable[_Member]) -> None:
        """Say which members live now; a new one is the first to be used."""
        now = set(members)
        new = [member for member in now if member not in self._busy]
        kept = {member: busy for member, busy in self._busy.items() if member in now}
        self._busy = dict.fromkeys(new, 0) | kept
        self._leaving &= now
        self._paused &= now

    def busy(self, member: _Member) -> int:
        """Return how many requests a member serves; 0 of one that does not live."""
        return self._busy.get(member, 0)

    def is_full(self) -> bool:
        """Tell whether as many requests wait as the members could serve next, and some more."""
        return len(self._waiting) >= _MORE + 2 * self._concurrency * len(self._busy)

    def pause(self, member: _Member) -> None:
        """Give a member no request until ``resume``: its mailbox has no room."""
        self._paused.add(member)

    def resume(self, member: _Member) -> None:
        """Undo ``pause``."""
        self._paused.discard(member)

    def leave(self, member: _Member) -> None:
        """Give a member no further request."""
        self._leaving.add(member)

    def submit(self, request: _Request) -> None:
        """Have a request wait for a member."""
        self._waiting.append(request)

    def next(self) -> tuple[_Request, _Member] | None:
        """Assign the request that has waited for longest to a member; None: nothing can be."""
        if not self._waiting:
            return None
        member = self._least_busy()
        if member is None or self._busy[member] >= self._concurrency:
            return None
        self._busy[member] = self._busy.pop(member) + 1  # it is the last in the order now
        return self._waiting.popleft(), member

    def give_back(self, request: _Request, member: _Member, *, ended: bool) -> None:
        """Take an assignment back: the member was sent nothing, as it had ended or had no room."""
        self._waiting.appendleft(request)
        if ended:
            self._busy.pop(member, None)
        else:
            self.answered(member)

    def answered(self, member: _Member) -> None:
        """Take note that a member has answered a request."""
        if self._busy.get(member):
            self._busy[member] -= 1

    def _least_busy(self) -> _Member | None:
        free = [member for member in self._busy if member not in self._leaving | self._paused]
        return min(free, key=self._busy.__getitem__, default=None)  # of equals the first
