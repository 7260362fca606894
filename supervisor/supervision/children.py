"""The children of a supervisor: their processes, channels, signals and stored descriptors.

How to start, monitor and stop one; not when.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

from supervisor import inherited, linux
from supervisor.actor.loop import Actor
from supervisor.client.ref import Ref
from supervisor.errors import (
    HUNG,
    KILLED,
    SHUTDOWN,
    NotFound,
    Reason,
    StartFailed,
    is_shortage,
    shown,
)
from supervisor.protocol import registry, runtime_dir
from supervisor.protocol.channel import Channel, close_all
from supervisor.protocol.message_kinds import (
    DROP,
    EXIT,
    FAILED,
    HAPPENED,
    HELD,
    IGNORE,
    PING,
    PONG,
    READY,
    RESTORE,
    SHUT,
    STORE,
    STORED,
)
from supervisor.protocol.telemetry import Event
from supervisor.supervision.child import Child, State
from supervisor.supervision.fd_store import FdStore
from supervisor.supervision.orphans import Orphans
from supervisor.supervision.preload import Preload, is_due
from supervisor.supervision.report import Forgotten
from supervisor.supervision.task_queue import Task, TaskQueue

log = logging.getLogger("supervisor")

_NONSENSE = (ValueError, TypeError, LookupError, AttributeError)

_LOOKS = 4  # looks for an answer (PONG) in the seconds of a watchdog
_STEPS = 8  # timers in a row into which a child's time is divided: see _after
_START_PING_TIMEOUT = 1.0  # seconds in which a supervisor that is starting answers a PING
_EXIT_TIMEOUT = 5.0  # seconds from a child's EXIT, FAILED or IGNORE until it is killed
_MOST_UNSENT = 16_384  # messages for a child that does not read, four for each descriptor stored
_DUMP_TIMEOUT = 5.0  # seconds that faulthandler has to write the stacks of a hung child


class Children:
    """Children in the order of their start."""

    def __init__(self, actor: Actor, tasks: TaskQueue, ended: Callable[[Child], Task]) -> None:
        """Start what the actor's process forks; ``ended`` is the task when a child has ended."""
        self._actor = actor
        self._tasks = tasks
        self._ended = ended
        self._by_id: dict[str, Child] = {}
        self.forgotten = Forgotten()
        self._store = FdStore(actor.stored)
        self._orphans = Orphans()
        self.start_has_failed = False
        """Whether this supervisor ends because a child has failed to start. Its own supervisor may
        start it again. So the children learn that they may be started again, and their stored
        descriptors stay stored."""
        self._importing = False
        inherited.raise_descriptors()
        linux.adopt_orphans()
        self._watch_signals()

    # -- a collection ------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Child]:
        return iter(list(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, child_id: str) -> Child | None:
        """Return a child, if there is one of this id."""
        return self._by_id.get(child_id)

    def find(self, child_id: str) -> Child:
        """Return a child.

        Raises:
            NotFound: there is none of this id.
        """
        child = self._by_id.get(child_id)
        if child is None:
            raise NotFound(f"there is no child {child_id!r}")
        return child

    def add(self, child: Child) -> None:
        """Add a child after the others."""
        self._by_id[child.plan.id] = child

    def forget(self, child: Child) -> None:
        """Remove a child; another one of its id stays."""
        if self._by_id.get(child.plan.id) is child:
            del self._by_id[child.plan.id]
            self.forgotten.add(child)

    def tell(self, kind: str, child: Child, reason: Reason | None = None) -> None:
        """Tell those who subscribed what has happened to a child."""
        uptime = time.monotonic() - child.since if kind == "exited" else 0.0
        path = (child.plan.id,)
        event = Event(kind, path, child.pid, reason, child.restarts, uptime, time.time())
        self._actor.happened(event)

    # -- signals: children that have ended ---------------------------------------------------------

    def _watch_signals(self) -> None:
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

        def woken() -> None:
            os.read(reader, 65536)
            self.reap()

        self._actor.add_reader(reader, woken)

    def reap(self) -> None:
        """Take note of every child that has ended, and end what they leave behind."""
        by_pid = {child.pid: child for child in self if child.pid is not None}
        ended = linux.reap(by_pid, lambda pid: self._orphans.is_one(pid, importing=self._importing))
        for pid, _ in ended:  # the kernel may give a reaped pid to any new process: no kill() now
            if pid in by_pid:
                by_pid[pid].is_reaped = True
        for pid, status in ended:
            if pid in by_pid:
                self._handle_end(by_pid[pid], status)
        if any(pid not in by_pid for pid, _ in ended):
            with contextlib.suppress(OSError):  # the directory has gone
                runtime_dir.sweep()  # they may have been actors of a supervisor that was killed
                registry.names()
        self.end_orphans()
        self._tasks.advance()

    def end_orphans(self, *, last: bool = False) -> None:
        """Kill the processes that ended actors had started; with ``last``, unmarked ones too."""
        self._orphans.end({child.pid for child in self}, last=last)

    def _handle_end(self, child: Child, status: int) -> None:
        if child.pid is not None:
            self._orphans.left_by(child.pid)
        self._read_channel(child)  # its last words may still be there
        if child.channel is not None:
            self._actor.remove_reader(child.channel.fileno())
        child.note_end(status)
        if child.state is not State.STARTING:
            self.tell("exited", child, child.reason)
        child.cleanup()
        stacks = child.stacks()
        if stacks:
            log.error("child %r (%s) when it ended:\n%s", child.plan.id, child.reason, stacks)
        if child.state is State.STARTING:
            child.outcome = child.outcome or (FAILED, child.reason)
        elif child.state is State.RUNNING:
            child.state = State.RESTARTING
            self._tasks.add(self._ended(child))

    # -- a child's channel -------------------------------------------------------------------------

    def _read_channel(self, child: Child) -> None:
        while child.channel is not None:
            try:
                received = child.channel.receive()
            except EOFError:
                # Its end is about to be reported by SIGCHLD.
                self._actor.remove_reader(child.channel.fileno())
                break
            except ValueError as error:
                self._kill_for_malformed_data(child, f"{error}")
                break
            if received is None:
                break
            (word, *terms), fds = received
            try:
                self._on_message(child, word, terms, fds)
            except _NONSENSE as error:
                self._kill_for_malformed_data(child, f"{shown(word)}: {error!r:.200}")
                break
            finally:
                close_all(fds)
        self._tasks.advance()

    def _send(self, child: Child, *message: Any) -> None:
        """Send a child a message now, or when it has read what was sent to it before."""
        channel = child.channel
        if channel is None or channel.queue(*message):
            return
        if len(channel.unsent) > _MOST_UNSENT:
            log.error(
                "child %r does not read its supervisor's answers, and is killed", child.plan.id
            )
            self._actor.remove_reader(channel.fileno())
            child.kill()
            return
        flush = functools.partial(self._flush, child, channel)
        self._actor.poll(channel.fileno(), flush, select.EPOLLIN | select.EPOLLOUT)

    def _flush(self, child: Child, channel: Channel) -> None:
        if channel.flush():
            self._actor.add_reader(channel.fileno(), lambda: self._read_channel(child))
        self._read_channel(child)

    def _ping(self, child: Child) -> None:
        """Ask a child for a sign of life. One that does not even read gives none."""
        self._send(child, PING)
        child.unanswered = 1

    def _order_to_end(self, child: Child) -> None:
        """Send a child the order to end, and whether another start of it may follow.

        A child that does not read its channel is killed when the seconds of its ``shutdown`` are
        over.
        """
        self._send(child, SHUT, SHUTDOWN, self.start_has_failed)

    def _kill_for_malformed_data(self, child: Child, what: str) -> None:
        """Kill a child whose own code has written to the channel, by a wrong descriptor number."""
        text = "child %r has written malformed data to its supervisor's channel, and is killed: %s"
        log.error(text, child.plan.id, what)
        if child.channel is not None:
            self._actor.remove_reader(child.channel.fileno())
        child.kill()

    def _on_message(self, child: Child, word: str, terms: list[Any], fds: list[int]) -> None:
        if word in {READY, IGNORE, FAILED}:
            child.outcome = child.outcome or (word, terms[0] if terms else None)
            child.lacks_resources = word == FAILED and len(terms) > 1 and terms[1] is True
            if word != READY:
                self._see_it_end(child)
        elif word == EXIT:
            child.reported_reason = terms[0]
            self._see_it_end(child)
        elif word == PONG:
            child.unanswered = 0
        elif word == HELD:
            child.held, child.unanswered = terms[0], 0
        elif word == HAPPENED:
            self._actor.happened(terms[0].below(child.plan.id))
        elif word == STORE:
            refusal = self._keep((child.plan.id, *_texts(terms[0])), fds)
            self._send(child, STORED, refusal)
        elif word == DROP:
            self._drop((child.plan.id, *_texts(terms[0])))

    def _see_it_end(self, child: Child) -> None:
        """Kill a child that has told its end, and then hangs: in a function of ``atexit``, say."""
        channel = child.channel

        def look() -> None:
            if child.channel is channel:
                child.kill()

        self._actor.call_later(_EXIT_TIMEOUT, look)

    def restore(self) -> None:
        """Tell all that the runtime directory has been made again."""
        for child in self:
            self._send(child, RESTORE)

    # -- stored descriptors ------------------------------------------------------------------------

    def _keep(self, path: tuple[str, ...], fds: list[int]) -> str | None:
        """Store a descriptor that a child has sent; return why not."""
        if not fds:  # the kernel has left it out
            return "the supervisor has as many descriptors open as it may (RLIMIT_NOFILE)"
        # Above first: if it is refused there, both keep what they had under this path.
        refusal = self._store_above(path, fds[0])
        if refusal is None:
            refusal = self._store.put(path, fds.pop(0))
            if refusal is not None:
                self._actor.parent.drop_fd(path)
        return refusal

    def _store_above(self, path: tuple[str, ...], fd: int) -> str | None:
        """Have the supervisor above keep a descriptor too."""
        if not self._actor.parent.supervises:
            return None
        try:
            self._actor.parent.store_fd(path, fd)
        except OSError as error:
            return error.strerror
        return None

    def _drop(self, path: tuple[str, ...]) -> None:
        if self._store.drop(path) and self._actor.parent.supervises:
            self._actor.parent.drop_fd(path)

    def drop_descriptors(self, child: Child) -> None:
        """Close what a child has stored: it is stopped for good."""
        self._drop((child.plan.id,))

    # -- tasks -------------------------------------------------------------------------------------

    def start(self, child: Child, kind: str = "started") -> Task:
        """Start a child, and wait for its outcome: ready, ignore, or failed; tell of it."""
        child.begin(again=kind == "restarted")
        limit, start_id = child.plan.init_timeout, child.start_id
        if limit is not None:
            self._after(limit, lambda: self._end_slow_start(child, start_id))
        yield from self._import(child)
        if child.outcome is None:
            self._fork(child)
        while child.outcome is None:
            yield
        word, term = child.outcome
        if word == READY:
            self.tell(kind, child)
            self._serves(child, term)
            return
        if word == FAILED:
            self.tell("failed", child, term)
        while child.pid is not None:
            yield
        child.state = State.IDLE

    def _after(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call a function when a child has had so many seconds.

        While this process is stopped (SIGSTOP, a frozen cgroup, a debugger), the clock goes on, and
        the child may be stopped as well. One timer would be due at once afterwards. So the time is
        divided into ``_STEPS`` timers in a row, of which one stop uses up one at most.
        """
        left = iter(range(_STEPS))

        def step() -> None:
            if next(left, None) is None:
                callback()
            else:
                self._actor.call_later(seconds / _STEPS, step)

        step()

    def _fork(self, child: Child) -> None:
        try:
            if runtime_dir.make_again():
                self._actor.restore()
        except OSError as error:  # something else has its place, or it cannot be made, for now
            child.outcome, child.lacks_resources = (FAILED, f"{error}"), True
            return
        try:
            channel = child.fork(self._store.of(child.plan.id))
        except StartFailed as error:
            child.outcome = (FAILED, error.reason)
            return
        except OSError as error:
            child.outcome, child.lacks_resources = (FAILED, f"{error}"), is_shortage(error)
            return
        self._actor.add_reader(channel.fileno(), lambda: self._read_channel(child))

    def _import(self, child: Child) -> Task:
        """Import a child's module, if need be, while the loop goes on."""
        if not is_due(child.plan):
            return
        try:
            importing = Preload(child.plan)
        except OSError as error:
            child.outcome, child.lacks_resources = (FAILED, f"{error}"), is_shortage(error)
            return
        self._importing = True
        self._actor.add_reader(importing.fileno(), self._tasks.advance)
        while child.outcome is None and not importing.has_ended():
            if child.cancelled:
                child.outcome = (FAILED, KILLED)
                break
            yield
        self._actor.remove_reader(importing.fileno())
        if child.outcome is None:
            self._importing = False
            try:
                importing.finish()
            except StartFailed as error:
                child.outcome = (FAILED, error.reason)

    def _serves(self, child: Child, ref: Ref) -> None:
        if child.pid is not None:
            child.state, child.ref = State.RUNNING, ref
            child.forget_arguments()
            if child.attempts:
                text = "child %r has started again, after %d attempts"
                log.warning(text, child.plan.id, child.attempts)
            child.attempts = 0
            self._start_watchdog(child)
            return
        child.state = State.RESTARTING  # it has ended since
        self.tell("exited", child, child.reason)
        self._tasks.add(self._ended(child))

    def cancel_start(self, child: Child) -> None:
        """Have the start of a child fail."""
        child.cancelled = True
        self._tasks.advance()  # an import may be under way
        if child.plan.type == "worker":
            child.kill()
            return
        self._order_to_end(child)
        self._kill_unless_it_serves(child)

    def _kill_unless_it_serves(self, child: Child) -> None:
        """Kill a supervisor that is starting, unless it answers a PING within a second.

        A supervisor whose children are starting runs its loop. It answers, and stops its children
        in order. A supervisor that hangs in its own ``init`` can do neither.
        """
        channel = child.channel
        self._ping(child)

        def look() -> None:
            self._read_channel(child)
            if child.channel is channel and child.unanswered:
                child.kill()

        self._after(_START_PING_TIMEOUT, look)

    def _end_slow_start(self, child: Child, start_id: object) -> None:
        self._read_channel(child)  # it may have said so meanwhile
        same = child.start_id is start_id and child.state is State.STARTING
        if same and child.outcome is None:
            seconds = child.plan.init_timeout
            child.outcome = (FAILED, f"init has not returned within {seconds:g} s (init_timeout)")
            child.kill()
            self._tasks.advance()

    def _start_watchdog(self, child: Child) -> None:
        """Send PINGs to a child that has a watchdog, as long as its present process runs."""
        if child.plan.watchdog is None:
            return
        channel, seconds = child.channel, child.plan.watchdog

        def look() -> None:
            # If this supervisor was stopped (SIGSTOP), the PONG may lie unread in the channel.
            self._read_channel(child)
            if child.channel is not channel or child.state is not State.RUNNING:
                return
            if child.held:
                pass  # by a debugger: nobody knows for how long
            elif child.unanswered == 0:
                self._ping(child)
            elif child.unanswered < _LOOKS:
                child.unanswered += 1
            else:
                self._end_hung(child, channel)
                return
            self._actor.call_later(seconds / _LOOKS, look)

        look()

    def _end_hung(self, child: Child, channel: Channel | None) -> None:
        log.error(
            "child %r: no sign of life for %g s (watchdog): killing it",
            child.plan.id,
            child.plan.watchdog,
        )
        child.abort()

        def insist() -> None:
            if child.channel is channel:
                child.reported_reason = HUNG
                child.kill()

        self._actor.call_later(_DUMP_TIMEOUT, insist)

    def stop(self, child: Child) -> Task:
        """Stop a child: in order within its grace, otherwise by SIGKILL."""
        self.begin_to_stop(child)
        yield from self.finish_to_stop(child)

    def finish_to_stop(self, child: Child) -> Task:
        """Kill a child, if it has not ended within its grace."""
        while child.pid is not None and not child.grace_is_over:
            yield
        child.kill()
        while child.pid is not None:
            yield
        child.state = State.IDLE

    def begin_to_stop(self, child: Child) -> None:
        """Tell a child to end."""
        child.wait_no_longer()
        starts = child.state is State.STARTING
        if child.pid is None:
            child.state = State.IDLE
            return
        child.state = State.STOPPING
        grace, channel = child.plan.shutdown, child.channel
        child.grace_is_over = grace == "brutal_kill" or (starts and child.plan.type == "worker")
        if child.grace_is_over:
            return
        self._order_to_end(child)
        if starts:
            self._kill_unless_it_serves(child)
        if grace == "infinity":
            return

        def over() -> None:
            if child.channel is channel:
                child.grace_is_over = True
                self._tasks.advance()

        self._after(float(grace), over)


def _texts(path: Any) -> list[str]:
    """Return the parts of a stored descriptor's name.

    Raises:
        TypeError: they are none.
    """
    if not isinstance(path, (list, tuple)) or not all(isinstance(part, str) for part in path):
        raise TypeError(f"no name of a descriptor: {shown(path)}")
    return list(path)
