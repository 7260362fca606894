"""Supervisors: actors that start, watch, restart and stop others. Source: OTP's ``supervisor``.

What takes time is a job (see ``jobs``): one runs at a time, in the order they came, and
meanwhile the loop goes on and answers. An order to stop pre-empts them all.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Generator, Iterable
from typing import Any, ClassVar, cast

from supervisor import linux, registry, runtime
from supervisor.channel import Channel
from supervisor.child import Child, State
from supervisor.child_spec import ChildSpec, Plan, check_intensity
from supervisor.errors import (
    SHUTDOWN,
    ActorError,
    AlreadyPresent,
    AlreadyStarted,
    NoProcess,
    NotFound,
    NotOwner,
    Reason,
    StartFailed,
    StillRunning,
)
from supervisor.fd_store import FdStore
from supervisor.gen_server import GenServer
from supervisor.jobs import Job, Jobs
from supervisor.owners import Owners
from supervisor.protocol import DROP, EXIT, FAILED, IGNORE, READY, STORE, STORED
from supervisor.ref import Ref
from supervisor.results import NoReply, Sender, Starting
from supervisor.strategy import STRATEGIES, Intensity, Strategy, Verdict, affected, verdict
from supervisor.supervisor_ref import SupervisorRef

log = logging.getLogger("supervisor")


class Supervisor(GenServer):
    """Starts its children in order, restarts them as they end, stops them in reverse order.

    ``Supervisor.start_link(children, ...)`` takes:

    Args:
        children: ``ChildSpec`` objects.
        strategy: "one_for_one": a child that ends is restarted alone.
        intensity: restarts that are borne within ``period`` seconds; one more, and the supervisor
            stops all children and ends with reason "shutdown".
        period: seconds.
        name: a name to register.
    """

    reference: ClassVar[type[Ref]] = SupervisorRef
    supervises: ClassVar[bool] = True

    # -- callbacks ---------------------------------------------------------------------------------

    def init(
        self,
        children: Iterable[ChildSpec | Plan] = (),
        *,
        strategy: Strategy = "one_for_one",
        intensity: int = 1,
        period: float = 5.0,
    ) -> Any:
        """Begin to start the children."""
        if strategy not in STRATEGIES:
            raise ValueError(f"strategy is one of {STRATEGIES}, not {strategy!r}")
        check_intensity("the supervisor", intensity, period)
        plans = [spec.plan() if isinstance(spec, ChildSpec) else spec for spec in children]
        self._strategy = strategy
        self._intensity = Intensity(intensity, period)
        self._children = {plan.id: Child.of(plan) for plan in plans}
        if len(self._children) < len(plans):
            ids = [plan.id for plan in plans]
            raise ValueError(
                f"two children have the id {next(i for i in ids if ids.count(i) > 1)!r}"
            )
        self._jobs = Jobs()
        self._stopping: Reason | None = None
        self._owners = Owners(self._actor, self._owner_ended)
        self._store = FdStore(self._actor.stored)
        linux.adopt_orphans()
        self._watch_signals()
        self._jobs.add(self._start_all())
        return Starting()

    def handle_call(self, request: list[Any], sender: Sender) -> Any:
        """Serve the methods of ``SupervisorRef``."""
        try:
            operation, *arguments = request
            serve = self._operations().get(operation)
            if serve is None:
                raise ValueError(f"a supervisor does not know {operation!r}")  # noqa: TRY301
            job = serve(sender, *arguments)
            if job is not None and self._stopping is not None:
                raise NoProcess("the supervisor is stopping, and does nothing else")
        except (ActorError, TypeError, ValueError, OSError) as error:
            self.refuse(sender, error)
        else:
            if job is not None:
                self._jobs.add(job)
        return NoReply()

    def _operations(self) -> dict[str, Callable[..., Job | None]]:
        return {
            "start_child": self._serve_start,
            "terminate_child": self._serve_terminate,
            "restart_child": self._serve_restart,
            "delete_child": self._serve_delete,
            "child": self._serve_child,
            "give_child": self._serve_give,
            "which_children": self._serve_which,
            "count_children": self._serve_count,
        }

    def handle_cast(self, request: Any) -> None:
        """Nobody has anything to cast to a supervisor."""
        log.warning("%r: a cast is ignored: %.200r", self.ref, request)

    def _order_to_stop(self, reason: Reason) -> None:
        self._stop_all(reason)

    def _owner_left(self, owner: linux.Process, done: Callable[[], object]) -> None:
        self._owner_ended(owner)
        self._jobs.add(self._settle(done))

    def _settle(self, done: Callable[[], object]) -> Job:
        """What belonged to an owner is gone. End, if nothing here has an owner any more."""
        if self._actor.owners or self._owners:
            done()
        else:
            self._stop_all(SHUTDOWN)
        return
        yield

    # -- signals: children that ended, and the order to end ----------------------------------------

    def _watch_signals(self) -> None:
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: self._actor.call_later(0, self._terminated))
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

        def woken() -> None:
            os.read(reader, 65536)
            self._reap()

        self.add_reader(reader, woken)

    def _terminated(self) -> None:
        self._stop_all(SHUTDOWN)

    def _reap(self) -> None:
        """Take note of every child that has ended, and end what they leave behind."""
        by_pid = {child.pid: child for child in self._children.values() if child.pid is not None}
        strangers = False
        for pid, status in linux.reap():
            if pid in by_pid:
                self._gone(by_pid[pid], status)
            else:
                strangers = True
        if strangers:
            runtime.sweep()  # they may have been actors of a supervisor that was killed
            registry.names()
        # What a dead actor had started itself has come to this subreaper. Known children are
        # those that were forked here; nothing else of ours is ever a child of this process.
        known = {child.pid for child in self._children.values()}
        for pid in linux.children():
            if pid not in known:
                os.kill(pid, signal.SIGKILL)
        self._jobs.advance()

    def _gone(self, child: Child, status: int) -> None:
        self._read_channel(child)  # its last words may still be there
        if child.channel is not None:
            self.remove_reader(child.channel.fileno())
        child.bury(status)
        if child.state is State.STARTING:
            child.outcome = child.outcome or (FAILED, child.reason)
        elif child.state is State.RUNNING:
            child.state = State.RESTARTING
            if self._stopping is None:
                self._jobs.add(self._ended(child))

    # -- a child's channel -------------------------------------------------------------------------

    def _read_channel(self, child: Child) -> None:
        while child.channel is not None:
            try:
                received = child.channel.receive()
            except EOFError:
                # Its end is about to be reported by SIGCHLD.
                self.remove_reader(child.channel.fileno())
                break
            if received is None:
                break
            (word, *terms), fds = received
            self._hear(child, child.channel, word, terms, fds)
        self._jobs.advance()

    def _hear(
        self, child: Child, channel: Channel, word: str, terms: list[Any], fds: list[int]
    ) -> None:
        if word in {READY, IGNORE, FAILED}:
            child.outcome = (word, terms[0] if terms else None)
        elif word == EXIT:
            child.last_words = terms[0]
        elif word == STORE:
            channel.offer(STORED, self._keep((child.plan.id, *terms[0]), fds))
        elif word == DROP:
            self._forget_fds((child.plan.id, *terms[0]))

    def _keep(self, path: tuple[str, ...], fds: list[int]) -> str | None:
        """Store a descriptor that a child has sent; return why not."""
        if not fds:  # the kernel has left it out
            return "the supervisor has as many descriptors open as it may (RLIMIT_NOFILE)"
        return self._store.put(path, fds[0]) or self._back(path, fds[0])

    def _back(self, path: tuple[str, ...], fd: int) -> str | None:
        """Have the supervisor above keep a descriptor too."""
        if not self._actor.supervised:
            return None
        try:
            self._actor.store_fd(path, fd)
        except OSError as error:
            self._store.drop(path)
            return error.strerror
        return None

    def _forget_fds(self, path: tuple[str, ...]) -> None:
        if self._store.drop(path) and self._actor.supervised:
            self._actor.drop_fd(path)

    # -- jobs --------------------------------------------------------------------------------------

    def _start_all(self) -> Job:
        for child in list(self._children.values()):
            yield from self._start(child)
            if child.failed:
                assert child.outcome is not None  # noqa: S101
                yield from self._stop_children()
                self._actor.fail(StartFailed(child.plan.id, child.outcome[1]))
                return
        self._actor.ready()

    def _start(self, child: Child) -> Job:
        """Start a child, and wait for its outcome: ready, ignore, or failed."""
        try:
            channel = child.fork(self._store.of(child.plan.id))
        except StartFailed as error:
            child.outcome = (FAILED, error.reason)
        except OSError as error:
            child.outcome = (FAILED, f"{error}")
        else:
            self.add_reader(channel.fileno(), lambda: self._read_channel(child))
            while child.outcome is None:
                yield
        word, term = child.outcome
        if word == READY and child.pid is not None:
            child.state, child.ref = State.RUNNING, cast("Ref", term)
        elif word == READY:  # it has ended since
            child.state = State.RESTARTING
            self._jobs.add(self._ended(child))
        else:
            while child.pid is not None:
                yield
            child.state = State.IDLE

    def _stop(self, child: Child) -> Job:
        """Stop a child: in order within its grace, otherwise by SIGKILL."""
        serves = child.state is not State.STARTING
        if child.pid is not None:
            child.state = State.STOPPING
        if serves and child.plan.shutdown != "brutal_kill":
            child.order_to_end()
            yield from self._wait_for_end(child)
        child.kill()
        while child.pid is not None:
            yield
        child.state = State.IDLE

    def _wait_for_end(self, child: Child) -> Job:
        grace = float("inf") if child.plan.shutdown == "infinity" else float(child.plan.shutdown)
        deadline = time.monotonic() + grace
        if child.pid is not None and grace < float("inf"):
            self._actor.call_later(grace, self._jobs.advance)
        while child.pid is not None and time.monotonic() < deadline:
            yield

    def _stop_children(self) -> Job:
        for child in reversed(list(self._children.values())):
            yield from self._stop(child)
            self._forget_fds((child.plan.id,))

    def _ended(self, child: Child) -> Job:
        """Do with a child that has ended by itself what its plan says."""
        if child.state is not State.RESTARTING:
            return  # it was stopped, or deleted, by a job before this one
        decision = verdict(child.plan.restart, child.reason)
        if decision is Verdict.RESTART:
            log.warning("child %r ended: %s; restarting it", child.plan.id, child.reason)
            yield from self._restart(child)
            return
        self._stopped_for_good(child)
        if decision is Verdict.FORGET:
            self._forget(child)

    def _stopped_for_good(self, child: Child) -> None:
        child.state = State.IDLE
        self._forget_fds((child.plan.id,))
        if child.owner is not None:
            self._forget(child)  # nobody restarts by hand what was started for an owner

    def _restart(self, failed: Child | None) -> Job:
        """Restart a child, and those that its end affects; a start that fails counts as an end."""
        while failed is not None and self._may_restart(failed):
            again = affected(self._strategy, list(self._children), failed.plan.id)
            failed = yield from self._start_again([self._children[name] for name in again])

    def _start_again(self, children: list[Child]) -> Generator[None, None, Child | None]:
        """Stop children in reverse order, and start them in order; return the first that failed."""
        for child in reversed(children):
            yield from self._stop(child)
        for child in children:
            yield from self._start(child)
            if child.failed:
                assert child.outcome is not None  # noqa: S101
                log.error("child %r does not start again: %s", child.plan.id, child.outcome[1])
                child.state, child.reason = State.RESTARTING, child.outcome[1]
                return child
            if child.outcome is not None and child.outcome[0] == IGNORE:
                self._stopped_for_good(child)
        return None

    def _may_restart(self, child: Child) -> bool:
        """Count a restart; when it is one too many, give up the child, or everything."""
        now = time.monotonic()
        if child.limit is not None:
            if not child.limit.bear(now):
                self._give_up(child)
                return False
        elif not self._intensity.bear(now):
            most, period = self._intensity.most, self._intensity.period
            log.error("more than %d restarts within %g s: giving up", most, period)
            self._stop_all(SHUTDOWN)
            return False
        return True

    def _give_up(self, child: Child) -> None:
        assert child.limit is not None  # noqa: S101
        log.error(
            "child %r: more than %d restarts within %g s: it is given up, the last reason was: %s",
            child.plan.id,
            child.limit.most,
            child.limit.period,
            child.reason,
        )
        child.state = State.IDLE
        self._forget_fds((child.plan.id,))
        self._forget(child)

    def _stop_all(self, reason: Reason) -> None:
        """Stop the children in reverse order, then end. Pre-empts whatever is under way."""
        if self._stopping is not None:
            return
        self._stopping = reason
        self._jobs.preempt(self._end(reason))

    def _end(self, reason: Reason) -> Job:
        yield from self._stop_children()
        with contextlib.suppress(FileNotFoundError):  # the whole directory may have gone
            runtime.sweep()  # children that had to be killed have not removed their sockets
        self._actor.exit(reason)

    # -- what SupervisorRef asks for ---------------------------------------------------------------

    def _serve_start(self, sender: Sender, plan: dict[str, Any], owner: list[int] | None) -> Job:
        if plan.get("pickled"):
            raise ValueError("nothing that came through a mailbox is unpickled")
        child = Child.of(Plan(**plan))
        present = self._children.get(child.plan.id)
        if present is not None and present.ref is not None:
            raise AlreadyStarted(f"child {child.plan.id!r} is running: {present.ref}")
        if present is not None:
            raise AlreadyPresent(f"there is a child {child.plan.id!r}, {present.state.value}")
        if owner is not None:
            self._own(child, linux.Process(*owner))
        self._children[child.plan.id] = child
        return self._start_new(sender, child)

    def _start_new(self, sender: Sender, child: Child) -> Job:
        yield from self._start(child)
        assert child.outcome is not None  # noqa: S101
        word, term = child.outcome
        if word == FAILED or (word == IGNORE and child.plan.restart == "temporary"):
            self._forget_fds((child.plan.id,))
            self._forget(child)
        self._report_start(sender, child, word, term)

    def _report_start(self, sender: Sender, child: Child, word: str, term: Any) -> None:
        if word == FAILED:
            self.refuse(sender, StartFailed(child.plan.id, term))
        else:
            self.reply(sender, term)

    def _serve_terminate(self, sender: Sender, child_id: str) -> Job:
        return self._terminate_one(sender, self._find(child_id))

    def _terminate_one(self, sender: Sender, child: Child) -> Job:
        yield from self._stop(child)
        self._forget_fds((child.plan.id,))
        if child.plan.restart == "temporary":
            self._forget(child)
        self.reply(sender, None)

    def _serve_restart(self, sender: Sender, child_id: str) -> Job:
        return self._restart_one(sender, self._idle(child_id))

    def _restart_one(self, sender: Sender, child: Child) -> Job:
        yield from self._start(child)
        assert child.outcome is not None  # noqa: S101
        self._report_start(sender, child, *child.outcome)

    def _serve_delete(self, sender: Sender, child_id: str) -> None:
        self._forget(self._idle(child_id))
        self.reply(sender, None)

    def _serve_child(self, sender: Sender, child_id: str) -> Job:
        self._reap()  # a child that has ended is not returned as if it ran
        return self._wait_for_child(sender, self._find(child_id))

    def _wait_for_child(self, sender: Sender, child: Child) -> Job:
        # This job comes after the restart of the child, if there was one to do.
        if child.ref is None:
            self.refuse(sender, NotFound(f"child {child.plan.id!r} is {child.state.value}"))
        else:
            self.reply(sender, child.ref)
        return
        yield

    def _serve_give(
        self, sender: Sender, child_id: str, owner: list[int], present: list[int]
    ) -> None:
        child = self._find(child_id)
        if child.owner != linux.Process(*present):
            raise NotOwner(f"child {child_id!r} does not belong to process {present[0]}")
        self._own(child, linux.Process(*owner))
        self.reply(sender, None)

    def _serve_which(self, sender: Sender) -> None:
        self._reap()
        rows = [[c.plan.id, c.ref, c.plan.kind, c.state.value] for c in self._children.values()]
        self.reply(sender, rows)

    def _serve_count(self, sender: Sender) -> None:
        self._reap()
        children = self._children.values()
        supervisors = sum(c.plan.kind == "supervisor" for c in children)
        counts = {
            "specs": len(children),
            "active": sum(c.pid is not None for c in children),
            "supervisors": supervisors,
            "workers": len(children) - supervisors,
        }
        self.reply(sender, counts)

    # -- children and their owners -----------------------------------------------------------------

    def _find(self, child_id: str) -> Child:
        child = self._children.get(child_id)
        if child is None:
            raise NotFound(f"there is no child {child_id!r}")
        return child

    def _idle(self, child_id: str) -> Child:
        child = self._find(child_id)
        if child.state is not State.IDLE:
            raise StillRunning(f"child {child_id!r} is {child.state.value}")
        return child

    def _forget(self, child: Child) -> None:
        if self._children.get(child.plan.id) is child:
            del self._children[child.plan.id]
        self._disown()

    def _own(self, child: Child, owner: linux.Process) -> None:
        """Let a child belong to a process; the supervisor stays for it, too."""
        self._owners.add(owner)
        child.owner = owner
        self._disown()

    def _disown(self) -> None:
        """Watch only the processes that a child belongs to; end with the last of them.

        A supervisor that nobody started from a program has no owners, and does not depend on any.
        """
        self._owners.keep({child.owner for child in self._children.values()})
        if not self._owners and self._actor.left_by_owners:
            self._stop_all(SHUTDOWN)

    def _owner_ended(self, owner: linux.Process) -> None:
        self._owners.remove(owner)
        for child in reversed(list(self._children.values())):
            if child.owner == owner:
                self._jobs.add(self._remove(child))

    def _remove(self, child: Child) -> Job:
        yield from self._stop(child)
        self._forget_fds((child.plan.id,))
        self._forget(child)
