"""Supervisors: actors that start, monitor, restart and stop others. Source: OTP's ``supervisor``.

What takes time is a task (see ``task_queue``). Tasks run one at a time, in the order of their
requests. The loop goes on meanwhile, and answers queries. An order to stop preempts all tasks.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, cast

from supervisor import linux
from supervisor.actor.callback_results import Sender
from supervisor.actor.owners import Owners
from supervisor.client.ref import Exit, Ref
from supervisor.errors import (
    SHUTDOWN,
    ActorError,
    AlreadyPresent,
    AlreadyStarted,
    GaveUp,
    NoProcess,
    NotFound,
    NotOwner,
    Reason,
    RemoteError,
    Restarting,
    StartFailed,
    StillRunning,
    brief,
    is_orderly,
    shown,
)
from supervisor.gen_server import GenServer
from supervisor.protocol import runtime_dir
from supervisor.protocol.message_kinds import FAILED
from supervisor.protocol.results import NoReply, Starting
from supervisor.protocol.telemetry import Event
from supervisor.supervision.child import Child, State
from supervisor.supervision.child_spec import ChildSpec, Plan, check_childspecs, check_intensity
from supervisor.supervision.children import Children
from supervisor.supervision.report import row_of
from supervisor.supervision.strategy import (
    STRATEGIES,
    AutoShutdown,
    Intensity,
    Strategy,
    Verdict,
    affected,
    pause,
    shuts_down,
    verdict,
)
from supervisor.supervision.supervisor_ref import SupervisorRef
from supervisor.supervision.task_queue import Task, TaskQueue, once

log = logging.getLogger("supervisor")

_REFUSED = (ActorError, TypeError, ValueError, OSError)
_ACTIVE = (State.RUNNING, State.STOPPING)


class Supervisor(GenServer):
    """Starts its children in order, restarts them as they end, stops them in reverse order.

    ``Supervisor.start_link(children, ...)`` takes:

    Args:
        children: ``ChildSpec`` objects.
        strategy: what is restarted when a child fails. "one_for_one": it alone. "one_for_all":
            all children. "rest_for_one": it, and those that were started after it.
        intensity: restarts that are borne within ``period`` seconds; one more, and the supervisor
            stops all children and ends with reason "shutdown".
        period: seconds.
        auto_shutdown: whether the supervisor ends, with reason "shutdown", when significant
            children have ended by themselves and are not restarted. "never",
            "any_significant": with the first; "all_significant": with the last.
        name: a name to register.

    Raises:
        ValueError, TypeError: what is wrong with these, before anything is started.
        StartFailed: which child failed to start, and why; those before it have been stopped.
    """

    reference: ClassVar[type[Ref]] = SupervisorRef
    supervises: ClassVar[bool] = True
    trap_exit: bool = True
    """A child that has linked itself to its supervisor ends as others do."""

    @classmethod
    def start_link(cls, *args: Any, name: str | None = None, **kwargs: Any) -> SupervisorRef:
        """Start the supervisor. See ``GenServer.start_link``."""
        return cast("SupervisorRef", super().start_link(*args, name=name, **kwargs))

    @classmethod
    async def astart_link(cls, *args: Any, name: str | None = None, **kwargs: Any) -> SupervisorRef:
        """Do as ``start_link``, from asyncio. See ``GenServer.astart_link``."""
        return cast("SupervisorRef", await super().astart_link(*args, name=name, **kwargs))

    @classmethod
    def start(cls, *args: Any, name: str | None = None, **kwargs: Any) -> SupervisorRef:
        """Start the supervisor. See ``GenServer.start``."""
        return cast("SupervisorRef", super().start(*args, name=name, **kwargs))

    @classmethod
    async def astart(cls, *args: Any, name: str | None = None, **kwargs: Any) -> SupervisorRef:
        """Do as ``start``, from asyncio. See ``GenServer.astart_link``."""
        return cast("SupervisorRef", await super().astart(*args, name=name, **kwargs))

    @classmethod
    def check_arguments(cls, *args: Any, **kwargs: Any) -> None:
        """Check what ``init`` will be given."""
        if cls.init is Supervisor.init:  # a subclass's own takes what it likes
            cls._check(*args, **kwargs)

    @staticmethod
    def _check(
        children: Iterable[ChildSpec | Plan] = (),
        *,
        strategy: Strategy = "one_for_one",
        intensity: int = 1,
        period: float = 5.0,
        auto_shutdown: AutoShutdown = "never",
    ) -> None:
        if strategy not in STRATEGIES:
            raise ValueError(
                f"the supervisor: strategy is one of {STRATEGIES}, not {strategy!r}; for"
                " simple_one_for_one there is DynamicSupervisor"
            )
        check_intensity("the supervisor", intensity, period)
        if not isinstance(children, Iterable):
            raise TypeError(f"children are a list of ChildSpec objects, not {children!r:.200}")
        check_childspecs(children, auto_shutdown)

    # -- callbacks ---------------------------------------------------------------------------------

    def init(
        self,
        children: Iterable[ChildSpec | Plan] = (),
        *,
        strategy: Strategy = "one_for_one",
        intensity: int = 1,
        period: float = 5.0,
        auto_shutdown: AutoShutdown = "never",
    ) -> Any:
        """Begin to start the children."""
        children = list(children)
        self._check(
            children,
            strategy=strategy,
            intensity=intensity,
            period=period,
            auto_shutdown=auto_shutdown,
        )
        self._strategy: Strategy = strategy
        self._intensity = Intensity(intensity, period)
        self._auto_shutdown: AutoShutdown = auto_shutdown
        self._since = time.monotonic()
        self._tasks = TaskQueue(self._answer_waiting)
        self._waiting: list[tuple[Sender, Child]] = []
        self._stopping: Reason | None = None
        self._owners = Owners(self._actor, self._owner_ended)
        self._children = Children(self._actor, self._tasks, self._ended)
        self._mark = os.memfd_create(linux.SUPERVISOR_MARK, os.MFD_CLOEXEC)
        signal.signal(signal.SIGTERM, lambda *_: self._actor.call_later(0, self._terminated))
        for spec in children:
            self._children.add(Child.of(spec.plan() if isinstance(spec, ChildSpec) else spec))
        self._tasks.add(self._start_all())
        return Starting()

    def handle_call(self, request: list[Any], sender: Sender) -> Any:
        """Serve the methods of ``SupervisorRef``: what takes time is done in its turn."""
        try:
            self._children.reap()  # whoever asks may have seen a child end already
            operation, *arguments = request if isinstance(request, list) else [request]
            serve = self._operations().get(operation) if isinstance(operation, str) else None
            if serve is None:
                raise ValueError(
                    f"a supervisor does not know {operation!r:.200}: it serves the methods of"
                    " its reference"
                )
            task = serve(sender, *arguments)
            if task is not None and self._stopping is not None:
                raise NoProcess(f"{self.ref} is stopping, and serves no further request")
        except _REFUSED as error:
            self.refuse(sender, error)
        else:
            if task is not None:
                self._tasks.add(self._attempt(sender, task))
        return NoReply()

    def _attempt(self, sender: Sender, task: Task) -> Task:
        try:
            yield from task
        except _REFUSED as error:
            self.refuse(sender, error)

    def _operations(self) -> dict[str, Callable[..., Task | None]]:
        return {
            "start_child": self._serve_start,
            "terminate_child": self._serve_terminate,
            "restart_child": self._serve_restart,
            "delete_child": self._serve_delete,
            "child": self._serve_child,
            "give_child": self._serve_give,
            "get_childspec": self._serve_childspec,
            "which_children": self._serve_which,
            "count_children": self._serve_count,
        }

    def handle_cast(self, request: Any) -> None:
        """Nobody has anything to cast to a supervisor."""
        log.warning("%r: a cast is ignored: %s", self.ref, shown(request))

    def handle_info(self, message: Any) -> None:
        """Ignore the ``Exit`` of an actor that has linked itself to this supervisor."""
        if not isinstance(message, Exit):
            log.warning("%r: a message is ignored: %s", self.ref, shown(message))

    def _table(self) -> dict[str, Any]:
        now = time.monotonic()
        kind = type(self)
        return {
            "class": f"{kind.__module__}:{kind.__qualname__}",
            "owners": [owner.pid for owner in self._actor.owners],
            "children": [row_of(child, child.word, now) for child in self._children],
            "forgotten": self._children.forgotten.recent(now),
        }

    def _order_to_stop(self, reason: Reason) -> None:
        self._stop_all(reason)

    def _directory_made_again(self) -> None:
        self._children.restore()

    def _owner_left(self, owner: linux.Process, done: Callable[[], object]) -> None:
        self._owner_ended(owner)
        self._tasks.add(once(lambda: self._end_without_owners(done)))

    def _end_without_owners(self, done: Callable[[], object]) -> None:
        """After an owner's children have gone: end, if nothing here has an owner any more."""
        if self._actor.owners or self._owners:
            done()
        else:
            self._stop_all(SHUTDOWN)

    # -- start and stop ----------------------------------------------------------------------------

    def _start_all(self) -> Task:
        for child in self._children:
            yield from self._children.start(child)
            if child.failed:
                assert child.outcome is not None
                self._stopping = SHUTDOWN
                self._children.start_has_failed = True
                yield from self._stop_children()
                self._actor.fail(StartFailed(child.plan.id, child.outcome[1]))
                return
            if child.state is State.IDLE:
                self._discard(child)  # it was ignored
        self._actor.ready()

    def _stop_children(self) -> Task:
        """Stop all children, as this supervisor ends.

        The supervisor above this one keeps the children's stored descriptors. It drops them if it
        does not start this supervisor again.
        """
        for child in reversed(list(self._children)):
            yield from self._children.stop(child)

    def _terminated(self) -> None:
        self._stop_all(SHUTDOWN)

    def _stop_all(self, reason: Reason, status: int = 0) -> None:
        """Stop the children in reverse order, then end. Pre-empts whatever is under way."""
        if self._stopping is not None:
            return
        self._stopping = reason
        self._tasks.preempt(self._end(reason, status))

    def _end(self, reason: Reason, status: int) -> Task:
        yield from self._stop_children()
        self._children.end_orphans(last=True)
        with contextlib.suppress(OSError):  # the whole directory may have gone
            runtime_dir.sweep()  # children that had to be killed have not removed their sockets
        self._actor.exit(reason, status)

    # -- restarts ----------------------------------------------------------------------------------

    def _ended(self, child: Child) -> Task:
        """Do with a child that has ended by itself what its plan says."""
        if child.state is not State.RESTARTING:
            return  # it was stopped, or deleted, by a task before this one
        decision = verdict(child.plan.restart, child.reason)
        if decision is Verdict.RESTART:
            text = f"child {child.plan.id!r} ended: {brief(child.reason)}; restarting it"
            level = logging.INFO if is_orderly(child.reason) else logging.WARNING
            child.said.log(log, level, text + _trace_of(child.reason))
            yield from self._restart(child)
            return
        if not is_orderly(child.reason):
            text = "child %r ended: %s; it is not restarted%s"
            log.error(text, child.plan.id, brief(child.reason), _trace_of(child.reason))
        child.state = State.IDLE
        self._discard(child)
        others = [
            other.state is not State.IDLE
            for other in self._children
            if other.plan.significant and other is not child
        ]
        if shuts_down(self._auto_shutdown, others, significant=child.plan.significant):
            log.info("%r shuts down, as child %r has ended", self.ref, child.plan.id)
            self._stop_all(SHUTDOWN)

    def _discard(self, child: Child) -> None:
        """Drop a stopped child's stored descriptors; and its plan, unless ``keep_spec`` is set."""
        self._children.drop_descriptors(child)
        if not child.keep_spec:
            self._forget(child)

    def _restart(self, child: Child) -> Task:
        """Restart a child, now or after its backoff, if that is still bearable."""
        if child.state is not State.RESTARTING or not self._may_restart(child):
            return
        limit = self._intensity if child.limit is None else child.limit
        delay = max(child.backoff(), pause(child.attempts, limit, short=False))
        if delay:
            self._start_later(child, delay)
        else:
            yield from self._start_again(child)

    def _start_later(self, child: Child, delay: float) -> None:
        again = self._start_again
        child.retry = self._actor.call_later(delay, lambda: self._tasks.add(again(child)))

    def _start_again(self, failed: Child) -> Task:
        """Stop the children that a failure affects, in reverse order, and start them in order.

        A start that fails is a failure itself. Before it is tried again, other tasks have their
        turn: an order to terminate the child, for example.
        """
        if failed.state is not State.RESTARTING:
            return
        order = [(child.plan.id, child.plan.restart) for child in self._children]
        group = affected(self._strategy, order, failed.plan.id)
        for child in map(self._children.find, group.stop):
            yield from self._children.stop(child)
            if child.plan.restart == "temporary":
                self._discard(child)
        for child in map(self._children.find, group.start):
            child.restarts += 1
            yield from self._children.start(child, "restarted")
            if child.failed and child.cancelled:
                return  # it was terminated, and those behind it stay undefined, as in OTP
            if child.failed:
                self._failed_again(child)
                return
            if child.state is State.IDLE:
                self._discard(child)  # it was ignored

    def _failed_again(self, child: Child) -> None:
        """Try again to start a child: counted, unless the system is short of something."""
        assert child.outcome is not None
        child.attempts += 1
        child.state, child.reason = State.RESTARTING, child.outcome[1]
        what = f"child {child.plan.id!r} does not start again: {brief(child.reason)}"
        if child.lacks_resources:
            if child.attempts == 1:
                log.error("%s; its supervisor tries again until there is room", what)
            self._start_later(child, pause(child.attempts, self._intensity, short=True))
            return
        child.said.log(log, logging.ERROR, what)
        self._tasks.add(self._restart(child))

    def _may_restart(self, child: Child) -> bool:
        """Count a restart; return False if it is over the limit.

        Then a child with a limit of its own is given up. Otherwise this supervisor stops all its
        children, and ends.
        """
        limit = self._intensity if child.limit is None else child.limit
        if limit.record_restart(time.monotonic()):
            return True
        child.said.flush(log, logging.ERROR)
        if child.limit is None:
            log.error(
                "%r gives up: %s; the last was of child %r, which ended: %s",
                self.ref,
                limit,
                child.plan.id,
                brief(child.reason),
            )
            why = f"{limit}; the last was of child {child.plan.id!r}"
            self._give_up(why, f", which ended: {brief(child.reason)}")
        else:
            log.error("child %r is given up: %s; it ended: %s", child.plan.id, limit, child.reason)
            self._children.tell("gave_up", child, f"{limit}")
            child.state = State.IDLE
            self._children.drop_descriptors(child)
            self._forget(child)
        return False

    def _give_up(self, why: str, more: str = "") -> None:
        """Stop all children, and end."""
        self._emit_gave_up(why)
        self._stop_all(GaveUp(f"{why}{more}"), status=1)

    def _emit_gave_up(self, why: str) -> None:
        uptime = time.monotonic() - self._since
        event = Event("gave_up", (), self._actor.process.pid, why, 0, uptime, time.time())
        self._actor.happened(event)

    # -- what SupervisorRef asks for ---------------------------------------------------------------

    def _serve_start(self, sender: Sender, plan: Plan, owner: list[int] | None) -> Task:
        if not isinstance(plan, Plan):
            raise TypeError(f"start_child takes a ChildSpec, not {plan!r:.200}")
        present = self._children.get(plan.id)
        if present is not None and present.ref is not None:
            raise AlreadyStarted(plan.id, present.ref)
        if present is not None:
            raise AlreadyPresent(f"there is a child {plan.id!r}, {present.state.value}")
        check_childspecs([plan], self._auto_shutdown)
        child = Child.of(plan)
        if owner is not None:
            self._own(child, linux.Process(*owner))
        yield from self._start_new(sender, child)

    def _start_new(self, sender: Sender, child: Child) -> Task:
        self._children.add(child)
        yield from self._children.start(child)
        if child.failed:
            child.keep_spec = False
        if child.state is State.IDLE:
            self._discard(child)
        self._report_start(sender, child)

    def _report_start(self, sender: Sender, child: Child) -> None:
        assert child.outcome is not None
        word, term = child.outcome
        if word == FAILED:
            self.refuse(sender, StartFailed(child.plan.id, term))
        else:
            self.reply(sender, term)

    def _serve_terminate(self, sender: Sender, child_id: str) -> Task:
        child = self._children.find(child_id)
        starts = child.state is State.STARTING
        if starts:
            self._children.cancel_start(child)  # the start fails, its task ends, this one follows
        return self._terminate_one(sender, child, cancelled=starts)

    def _terminate_one(self, sender: Sender, child: Child, *, cancelled: bool) -> Task:
        if self._children.get(child.plan.id) is child:
            yield from self._children.stop(child)
            self._discard(child)
        elif not cancelled:  # another one has terminated it meanwhile
            raise NotFound(f"there is no child {child.plan.id!r} any more")
        self.reply(sender, None)

    def _serve_restart(self, sender: Sender, child_id: str) -> Task:
        self._idle(child_id)  # what is wrong already is told at once, not when its turn has come
        return self._restart_idle(sender, child_id)

    def _restart_idle(self, sender: Sender, child_id: str) -> Task:
        child = self._idle(child_id)
        yield from self._children.start(child)
        if child.state is State.IDLE:
            self._children.drop_descriptors(child)
        self._report_start(sender, child)

    def _serve_delete(self, sender: Sender, child_id: str) -> Task:
        self._idle(child_id)
        # A task: in a group that is being restarted, this child may be one of the next to start.
        return once(lambda: self._delete_idle(sender, child_id))

    def _delete_idle(self, sender: Sender, child_id: str) -> None:
        self._forget(self._idle(child_id))
        self.reply(sender, None)

    def _serve_child(self, sender: Sender, child_id: str) -> Task:
        child = self._children.find(child_id)
        # A task: the child may be about to be restarted by a task before this one.
        return once(lambda: self._waiting.append((sender, child)))

    def _answer_waiting(self) -> None:
        """Answer the open calls of ``child``; a call for a child that is restarting stays open."""
        waiting, self._waiting = self._waiting, []
        for sender, child in waiting:
            if child.ref is not None:
                self.reply(sender, child.ref)
            elif child.is_restarting and self._children.get(child.plan.id) is child:
                self._waiting.append((sender, child))
            else:
                self.refuse(sender, NotFound(f"child {child.plan.id!r} is {child.word}"))

    def _serve_give(
        self, sender: Sender, child_id: str, owner: list[int], present: list[int]
    ) -> None:
        child = self._children.find(child_id)
        if child.owner != linux.Process(*present):
            raise NotOwner(f"child {child_id!r} does not belong to process {present[0]}")
        self._own(child, linux.Process(*owner))
        self.reply(sender, None)

    def _serve_childspec(self, sender: Sender, child_id: str) -> None:
        self.reply(sender, self._children.find(child_id).plan.describe())

    def _serve_which(self, sender: Sender) -> None:
        rows = [[c.plan.id, c.ref, c.plan.type, c.word] for c in self._children]
        self.reply(sender, rows)

    def _serve_count(self, sender: Sender) -> None:
        supervisors = sum(child.plan.type == "supervisor" for child in self._children)
        counts = {
            "specs": self._specs(),
            "active": sum(child.state in _ACTIVE for child in self._children),
            "supervisors": supervisors,
            "workers": len(self._children) - supervisors,
        }
        self.reply(sender, counts)

    def _specs(self) -> int:
        return len(self._children)

    def _idle(self, child_id: str) -> Child:
        child = self._children.find(child_id)
        if child.is_restarting:
            raise Restarting(f"child {child_id!r} is being restarted: terminate it first")
        if child.state is not State.IDLE:
            raise StillRunning(f"child {child_id!r} is {child.state.value}: terminate it first")
        return child

    # -- children and their owners -----------------------------------------------------------------

    def _forget(self, child: Child) -> None:
        self._children.forget(child)
        self._disown()

    def _own(self, child: Child, owner: linux.Process) -> None:
        """Let a child belong to a process; the supervisor stays for it, too."""
        self._owners.add(owner)
        child.owner = owner
        child.keep_spec = False  # nobody restarts by hand what was started for an owner
        self._disown()

    def _disown(self) -> None:
        """Let a child belong to these processes alone; it ends with the last of them.

        A supervisor that nobody started from a program has no owners, and does not depend on any.
        """
        self._owners.keep({child.owner for child in self._children})
        if not self._owners and self._actor.left_by_owners:
            self._stop_all(SHUTDOWN)

    def _owner_ended(self, owner: linux.Process) -> None:
        self._owners.remove(owner)
        children = [child for child in self._children if child.owner == owner]
        if children:
            self._tasks.add(self._remove(children))

    def _remove(self, children: list[Child]) -> Task:
        """Stop what an owner has left, all at the same time: hundreds would take many seconds."""
        for child in children:
            self._children.begin_to_stop(child)
        for child in reversed(children):
            yield from self._children.finish_to_stop(child)
            self._children.drop_descriptors(child)
            self._forget(child)


# How Python names it in the error about an unknown option.
Supervisor._check.__qualname__ = "Supervisor.start_link"  # noqa: SLF001 - of this class


def _trace_of(reason: Reason) -> str:
    """Return the traceback of an error by which a child has ended, for the log."""
    if isinstance(reason, RemoteError) and reason.trace:
        return f"\n\nRemote {reason.trace}"
    return ""
