"""Pools: a supervisor whose children are all alike, and that hands requests to them."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import logging
import time
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, TypeVar, cast

from supervisor.actor.callback_results import Sender
from supervisor.client.futures import CallFuture, connection_of
from supervisor.client.ref import Ref, begin_async, send
from supervisor.errors import MailboxFull, NoProcess, ProcessDown, StartFailed, shown
from supervisor.gen_server import GenServer
from supervisor.protocol.invocation import Invocation
from supervisor.protocol.message_kinds import CALL, CALL_METHOD, CALLS, CAST, CAST_METHOD
from supervisor.protocol.results import NoReply
from supervisor.supervision.child import Child, State
from supervisor.supervision.child_spec import ChildSpec, Plan, check_intensity, check_template
from supervisor.supervision.pool_queue import PoolQueue
from supervisor.supervision.pool_ref import REPEAT, PoolRef
from supervisor.supervision.supervisor import Supervisor
from supervisor.supervision.task_queue import Task

log = logging.getLogger("supervisor")

_Member = TypeVar("_Member", bound=GenServer)

_AGAIN = 0.01  # seconds until a member without room is tried again
_MOST_DEATHS = 3  # members that one request may kill: it is the cause, most likely


class _Request(NamedTuple):
    """A call or cast that a member is to serve."""

    kind: int
    term: Any
    sender: Sender | None
    """Who waits for the reply; None of a cast."""
    until: float = 0.0
    """Until when it is given to another member, if the one that serves it dies."""
    deaths: int = 0
    """Members that have died of it, or with it."""


class Pool(Supervisor):
    """Keeps a number of members, and gives each call to the one that has the least to do.

    ``Pool.start_link(template, size=4, ...)`` returns a ``PoolRef``. It is called and cast to as a
    member is: ``pool.call(Worker.serve, 5)``.

    Args:
        template: a ``ChildSpec``; the members' ids are its id with a number.
        size: how many members there are. ``PoolRef.resize`` changes it, and a pool that crashes
            comes back with the size that it had.
        concurrency: how many calls a member is given at a time. The others wait in the pool: they
            are not lost when a member dies. More than 1 is of use for members that reply later.
        intensity: as ``Supervisor``'s.
        period: seconds.
        name: a name to register.

    A call whose member dies raises ``ProcessDown``, with the member's reference, unless the caller
    has said by ``retry`` that it may be repeated. A cast goes to the member that has the fewest
    calls; if that dies before it serves the cast, it is lost. The pool cannot find cycles of calls
    that go through it.

    Raises:
        ValueError, TypeError: what is wrong with these, before anything is started.
        StartFailed: which member failed to start, and why; the others have been stopped.
    """

    reference: ClassVar[type[Ref[Any]]] = PoolRef
    kept: ClassVar[tuple[str, ...]] = ("_size",)

    @classmethod
    def start_link(  # type: ignore[override]
        cls, template: ChildSpec[_Member], *, name: str | None = None, **options: Any
    ) -> PoolRef[_Member]:
        """Start the pool. See ``GenServer.start_link``."""
        return cast("PoolRef[_Member]", super().start_link(template, name=name, **options))

    @classmethod
    async def astart_link(  # type: ignore[override]
        cls, template: ChildSpec[_Member], *, name: str | None = None, **options: Any
    ) -> PoolRef[_Member]:
        """Do as ``start_link``, from asyncio. See ``GenServer.astart_link``."""
        return cast("PoolRef[_Member]", await super().astart_link(template, name=name, **options))

    @classmethod
    def check_arguments(cls, *args: Any, **kwargs: Any) -> None:
        """Check what ``init`` will be given."""
        if cls.init is Pool.init:  # a subclass's own takes what it likes
            cls._check_pool(*args, **kwargs)

    @staticmethod
    def _check_pool(
        template: ChildSpec | Plan,
        *,
        size: int = 4,
        concurrency: int = 1,
        intensity: int = 1,
        period: float = 5.0,
    ) -> None:
        check_template(template)
        if template.restart != "permanent":
            raise ValueError(
                f"child {template.id!r}: the members of a pool are permanent, as it keeps its size,"
                f" not {template.restart!r}"
            )
        _check_size(size)
        if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
            raise ValueError(f"concurrency is a number of calls from 1 on, not {concurrency!r}")
        check_intensity("the pool", intensity, period)

    def init(  # type: ignore[override]
        self,
        template: ChildSpec | Plan,
        *,
        size: int = 4,
        concurrency: int = 1,
        intensity: int = 1,
        period: float = 5.0,
    ) -> Any:
        """Begin to start the members."""
        limits: dict[str, Any] = {"intensity": intensity, "period": period}
        self._check_pool(template, size=size, concurrency=concurrency, **limits)
        self._template = template.plan() if isinstance(template, ChildSpec) else template
        if "_size" not in vars(self):  # otherwise a former incarnation has kept it
            self._size = size
        self._numbers = itertools.count(1)
        self._queue = PoolQueue[Ref, _Request](concurrency)
        self._leaving: set[str] = set()
        """The ids of members that end when they have answered what they serve."""
        self._ending: set[str] = set()
        """Those of them that are being stopped."""
        self._shrinking: list[tuple[Sender, set[str]]] = []
        """Who waits for the end of which members."""
        return super().init([self._next_plan() for _ in range(self._size)], **limits)

    def _next_plan(self) -> Plan:
        return dataclasses.replace(self._template, id=f"{self._template.id}-{next(self._numbers)}")

    # -- requests for members ------------------------------------------------------------------

    def handle_call(self, request: Any, sender: Sender) -> Any:
        """Have a member serve a call."""
        self._submit(_Request(CALL, request, sender))
        return NoReply()

    def handle_cast(self, request: Any) -> None:
        """Have a member serve a cast."""
        self._submit(_Request(CAST, request, None))

    def _handler_for(self, message: Invocation) -> Callable[..., Any]:
        if message.method == REPEAT:
            repeated = _repetition(message.args)
            return lambda *_: self._repeat(*repeated)
        term = [message.method, message.args, *([message.kwargs] if message.kwargs else [])]
        return lambda *_, **__: self._submit_method(term)

    def _operate(self, sender: Sender, request: list[Any]) -> None:
        super().handle_call(request, sender)

    def _submit_method(self, term: list[Any]) -> NoReply:
        kind = CAST_METHOD if self.sender is None else CALL_METHOD
        self._submit(_Request(kind, term, self.sender))
        return NoReply()

    def _repeat(self, kind: int, term: Any, seconds: float) -> NoReply:
        if self.sender is not None:
            self._submit(_Request(kind, term, self.sender, time.monotonic() + seconds))
        return NoReply()

    def _submit(self, request: _Request) -> None:
        self._queue.submit(request)
        self._assign()

    def _assign(self) -> None:
        """Send the requests that wait to members that are free."""
        while (found := self._queue.next()) is not None:
            request, member = found
            try:
                self._send(request, member)
            except NoProcess:
                self._queue.give_back(request, member, ended=True)
            except (
                MailboxFull
            ):  # it has not read the casts before this one: nobody tells when it has
                self._queue.give_back(request, member, ended=False)
                self._queue.pause(member)
                self.call_later(_AGAIN, functools.partial(self._resume, member))
            except (TypeError, ValueError, OSError) as error:  # it cannot be sent to any member
                self._queue.answered(member)
                self._refuse(request, error)
        self._actor.is_full = self._queue.is_full()

    def _send(self, request: _Request, member: Ref) -> None:
        if request.sender is None:
            send(member, request.kind, request.term)
            self._queue.answered(member)  # nobody tells when it has been served
        else:
            answered = functools.partial(self._answered, request, member)
            begin_async(member, request.kind, request.term).add_done_callback(answered)

    def _resume(self, member: Ref) -> None:
        self._queue.resume(member)
        self._assign()

    def _refuse(self, request: _Request, error: Exception) -> None:
        if request.sender is not None:
            self.refuse(request.sender, error)
        else:
            log.error("%r drops a cast: %s", self.ref, error)

    def _answered(self, request: _Request, member: Ref, future: CallFuture) -> None:
        assert request.sender is not None
        self._queue.answered(member)
        if connection_of(future).ends:
            self._queue.leave(member)
        error = future.exception(0.0)
        deaths = request.deaths + 1
        if error is None:
            try:
                self.reply(request.sender, future.result(0.0))
            except (TypeError, ValueError) as problem:  # it is as long as a message may be
                self.refuse(request.sender, problem)
        elif (
            isinstance(error, ProcessDown)
            and not error.relayed
            and time.monotonic() < request.until
            and deaths < _MOST_DEATHS
        ):
            self._queue.submit(request._replace(deaths=deaths))
        else:
            self.refuse(request.sender, error)
        self._stop_those_that_leave()
        self._assign()

    def _answer_waiting(self) -> None:
        """After an event of a member: see who lives now."""
        super()._answer_waiting()
        self._queue.set_members(child.ref for child in self._children if child.ref is not None)
        self._stop_those_that_leave()
        self._assign()

    # -- members -------------------------------------------------------------------------------

    def _operations(self) -> dict[str, Callable[..., Task | None]]:
        return {
            "resize": self._serve_resize,
            "which_children": self._serve_which,
            "count_children": self._serve_count,
        }

    def _serve_resize(self, sender: Sender, size: int) -> Task:
        _check_size(size)
        return self._resize(sender, size)

    def _resize(self, sender: Sender, size: int) -> Task:
        """Start or stop members; those that are too many stop when they have answered."""
        members = [child for child in self._children if child.plan.id not in self._leaving]
        self._size = size
        if size >= len(members):
            yield from self._grow(size - len(members))
            self.reply(sender, None)
            return
        ids = {child.plan.id for child in members[size:]}
        self._leaving |= ids
        for child in members[size:]:
            if child.ref is not None:
                self._queue.leave(child.ref)
        self._shrinking.append((sender, ids))
        self._stop_those_that_leave()

    def _grow(self, more: int) -> Task:
        """Start further members; if one of them fails to start, none of them stays."""
        started: list[Child] = []
        for _ in range(more):
            child = Child.of(self._next_plan())
            started.append(child)
            self._children.add(child)
            yield from self._children.start(child)
            if child.failed:
                assert child.outcome is not None
                for other in reversed(started):
                    yield from self._children.stop(other)
                    self._gone(other)
                self._size -= more
                raise StartFailed(child.plan.id, child.outcome[1])

    def _stop_those_that_leave(self) -> None:
        """Stop the members that are too many, and serve nothing any more."""
        for child in self._children:
            is_idle = child.ref is None or not self._queue.busy(child.ref)
            if is_idle and child.plan.id in self._leaving - self._ending:
                self._ending.add(child.plan.id)
                self._tasks.add(self._end_member(child))

    def _end_member(self, child: Child) -> Task:
        yield from self._children.stop(child)
        self._gone(child)

    def _ended(self, child: Child) -> Task:
        """Do not restart a member that was to leave."""
        if child.plan.id not in self._leaving:
            yield from super()._ended(child)
        elif child.plan.id not in self._ending:
            child.state = State.IDLE
            self._gone(child)

    def _gone(self, child: Child) -> None:
        """Forget a member that has left; tell who waits for that."""
        self._children.drop_descriptors(child)
        self._forget(child)
        self._leaving.discard(child.plan.id)
        self._ending.discard(child.plan.id)
        for _, ids in self._shrinking:
            ids.discard(child.plan.id)
        for sender, ids in self._shrinking:
            if not ids:
                self.reply(sender, None)
        self._shrinking = [(sender, ids) for sender, ids in self._shrinking if ids]


# How Python names it in the error about an unknown option.
Pool._check_pool.__qualname__ = "Pool.start_link"  # noqa: SLF001 - of this class


def _repetition(args: list[Any]) -> tuple[int, Any, float]:
    """Return what is to be repeated, and for how many seconds.

    Raises:
        TypeError: a stranger has sent what is no such request.
    """
    if len(args) != 3 or args[0] not in CALLS or not isinstance(args[2], (int, float)):
        raise TypeError(f"no call to be repeated: {shown(args)}")
    return args[0], args[1], args[2]


def _check_size(size: Any) -> None:
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ValueError(f"the size of a pool is a number of members from 1 on, not {size!r:.200}")
