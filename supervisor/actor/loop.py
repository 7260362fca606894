"""The process of an actor: one loop over mailbox, supervisor's channel, timers, descriptors."""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import math
import os
import select
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from supervisor import linux
from supervisor.actor.callback_results import (
    Sender,
    Server,
    Timeout,
    check_init,
    check_reply,
    check_result,
)
from supervisor.actor.event_streams import Streams
from supervisor.actor.kept import FD_NAME, Kept, check_set
from supervisor.actor.links import Links
from supervisor.actor.mailbox import Mailbox, Peer
from supervisor.actor.monitors import Monitors
from supervisor.actor.owners import Owners
from supervisor.actor.parent import Parent
from supervisor.actor.sys_requests import System
from supervisor.actor.timers import Timer, Timers
from supervisor.client import call_cycle, connections, futures
from supervisor.client.ref import Exit, Ref, process_of
from supervisor.errors import (
    NORMAL,
    RAISED,
    SHUT_DOWN,
    SHUTDOWN,
    ActorError,
    Reason,
    RemoteError,
    Shutdown,
    carried,
    is_orderly,
    is_shortage,
    shown,
)
from supervisor.protocol import busy_wait, codec, registry
from supervisor.protocol.busy_wait import BusyWait
from supervisor.protocol.channel import SIZE, Channel
from supervisor.protocol.invocation import Invocation
from supervisor.protocol.message_kinds import (
    ANSWER,
    CALL,
    CALL_METHOD,
    CAST,
    CRASH,
    EXIT,
    FAILED,
    FORGET,
    IGNORE,
    INFO,
    LAST,
    LEAVE,
    LINK,
    METHODS,
    MONITOR,
    OWN,
    RAISE,
    READY,
    REPLY,
    SEEN,
    STOP,
    SUBSCRIBE,
    SYSTEM,
    UNLINK,
)
from supervisor.protocol.results import Continue, Ignore, NoReply, Starting, Stop
from supervisor.protocol.telemetry import SUPERVISION, TRACE, Event, traced

if TYPE_CHECKING:
    import zmq

_NONSENSE = (OSError, ValueError, TypeError, LookupError, ArithmeticError, AssertionError)
_BATCH = 64  # messages between two looks at timers and descriptors
_FLUSH = 0.5  # seconds that the flush of stdout or stderr may wait for the reader of a full pipe
_LINGER = 2000  # ms of LINGER of ZeroMQ sockets that are still open at the actor's end


class Actor:
    """What runs a GenServer."""

    current: ClassVar[Actor | None] = None
    """The actor that this process is."""

    log = logging.getLogger("supervisor")

    def __init__(
        self,
        cls: type[Server],
        name: str | None,
        channel: Channel | None,
        stored: dict[tuple[str, ...], int],
        *,
        supervised: bool = True,
    ) -> None:
        self.server = cls._new(self)  # first: if it raises, nothing is left open
        self.process = linux.process(os.getpid())
        self.ref = cls.reference(self.process, name)
        self.stored = stored
        self._epoll = select.epoll()
        self._readers: dict[int, Callable[[], None]] = {}
        self._writers: dict[int, Callable[[], None]] = {}
        self._busy_wait = BusyWait(busy_wait.ACTOR)
        self._timers = Timers()
        self._mailbox = Mailbox(self.process, self.ref, self, self._caller_gone)
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._quiet_since: float | None = None
        self._inbox: deque[Callable[[], None]] = deque()
        self.is_full = False
        """Whether calls, casts and messages are to wait in the mailbox for now."""
        self._thread = threading.get_ident()
        self._wakeup = -1
        self._monitors = Monitors()
        self.owners = Owners(self, self._owner_ended)
        self._had_owners = False
        self._registered = False
        self._started = False
        self.when_restored: list[Callable[[], None]] = []
        """What else restores files in a runtime directory that has been made again."""
        self.links = Links(self)
        self._streams = Streams(self._mailbox)
        self._reason: Reason | None = None
        self.error: BaseException | None = None
        """The exception of a callback by which this ends."""
        self._status = 0
        self.kept: Kept | None = None
        """The attributes that survive a crash, if there are any."""
        self._is_kept = False
        self.sender: Sender | None = None
        """Who waits for the call that is being served."""
        self._system = System(self.server, self._monitors)
        self._counts = self._system.counts
        order = self.server._order_to_stop  # noqa: SLF001 - a hook for this loop alone
        self.parent = Parent(channel, self, order, self.restore, supervises=supervised)

    # -- life ----------------------------------------------------------------------------------

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
        """Start, serve until the end, and return the exit status: 0 for an orderly end."""
        Actor.current = self
        sys.breakpointhook = self._breakpoint
        call_cycle.this_is(self.process)
        futures.actor_calls_back(self.links.calls_back)
        self.begin(args, kwargs)
        while self._reason is None:
            try:
                self._loop()
            except RAISED as error:  # a callback's: it ends this actor, in order
                self.crash(error)
        if Actor.current is not self:  # a fork resets it: this is not the actor's process
            text = "%r: a callback has forked, and the fork has returned from it too: the fork ends"
            self.log.error(text, self.ref)
            end_process(1)
        reason = self.end(self._reason)
        connections.close_all()
        if not is_orderly(reason):
            return 1
        return self._status if reason == NORMAL or self.server.supervises else SHUT_DOWN

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Register the name, and call ``init``."""
        try:
            if self.ref.name is not None:
                registry.register(self.ref.name, self.process)
                self._registered = True
            starts_again = self.parent.supervises or (FD_NAME,) in self.stored
            if self.server.kept and starts_again:
                self.kept = Kept(self.server, self.stored, self.parent.store_fd)
            result = self.server.init(*args, **kwargs)
            check_init(result, supervises=self.server.supervises)
            if not isinstance(result, (Ignore, Stop)):
                check_set(self.server)
            self._keep()
        except RAISED as error:  # whatever it is, it is why the start failed
            self.error = error
            reason = error if isinstance(error, ActorError) else RemoteError.of(error)
            self.fail(reason, short=is_shortage(error))
        else:
            self._inbox.append(lambda: self._begin(result))

    def _begin(self, result: Any) -> None:
        if isinstance(result, Ignore):
            self.parent.tell(IGNORE)
            self._reason = NORMAL
        elif isinstance(result, Stop):
            self.fail(result.reason)
        elif not isinstance(result, Starting):
            self.ready()
            self._then("init", result)

    def ready(self) -> None:
        """Tell whoever started this actor that it serves now."""
        self._started = True
        self.parent.serves_now(READY, self.ref)

    def fail(self, reason: Any, *, short: bool = False) -> None:
        """Tell whoever started this actor that it does not start, and end.

        Args:
            reason: why.
            short: whether the system is short of something.
        """
        self.parent.tell(FAILED, _able_to_travel(reason), short or is_shortage(reason))
        self._reason = SHUTDOWN if isinstance(reason, Exception) else reason

    def exit(self, reason: Reason, status: int = 0) -> None:
        """End when the present callback has returned; an orderly end with this exit status."""
        if self._reason is None:
            self._reason, self._status = reason, status

    def restore(self) -> None:
        """Restore what is this actor's in a runtime directory that has been made again."""
        try:
            self._mailbox.restore()
            if self._registered and self.ref.name is not None:
                registry.register(self.ref.name, self.process)
        except (OSError, ActorError) as error:
            self.log.error("%r: new callers do not find it, for now: %s", self.ref, error)
        self.server._directory_made_again()  # noqa: SLF001 - a hook for this loop alone
        for callback in self.when_restored:
            callback()

    def crash(self, error: BaseException) -> None:
        """End by an error that a callback has raised."""
        self.error = error
        remote = RemoteError.of(error)
        if not self.parent.supervises:  # a supervisor logs it, and counts what comes again
            self.log.error("%r ends: %s", self.ref, remote)
        self.exit(remote)

    def end(self, reason: Reason) -> Reason:
        """Call ``terminate``, and tell whoever wants to know why this ends; return the reason."""
        reason = _able_to_travel(reason)
        if self._started:
            try:
                self.server.terminate(reason)
            except RAISED as error:
                reason = _able_to_travel(RemoteError.of(error))
                self.log.error("%r: terminate failed: %s", self.ref, reason)
        # The name is free before anybody is told of the end: who starts another actor then gets it.
        if self._registered and self.ref.name is not None:
            with contextlib.suppress(OSError):  # the directory has gone, or something has its place
                registry.unregister(self.ref.name, self.process)
        self.parent.tell(EXIT, reason)
        self._mailbox.close(reason)
        if self._context is not None:
            self._context.destroy(_LINGER)
        return reason

    def _breakpoint(self, *args: Any, **kwargs: Any) -> Any:
        """Do what ``breakpoint()`` does in an actor: see ``debugger``."""
        if os.environ.get("PYTHONBREAKPOINT"):  # the user has chosen another debugger
            return sys.__breakpointhook__(*args, **kwargs)  # noqa: T100 - the user's
        # Before the import, which takes longer than a watchdog may allow.
        self.parent.held(by_debugger=True)
        over = functools.partial(self.parent.held, by_debugger=False)
        try:
            from supervisor.actor import debugger  # noqa: PLC0415 - pdb is large, and seldom needed

            debugger.debug(sys._getframe(1), over)  # noqa: SLF001 - as pdb does
        except BaseException:
            over()
            raise
        return None

    # -- the loop ------------------------------------------------------------------------------

    def _loop(self) -> None:
        while self._reason is None:
            replies = self._counts["reply"]
            # A batch of messages, then timers and descriptors: neither starves the others.
            self._serve_messages()
            self._fire_timers()
            if self._reason is not None:
                return
            patience = self._patience()
            # Those who were answered may ask again, and those who were asked are about to answer.
            soon = self._counts["reply"] != replies or self.links.awaits_replies
            ready = self._busy_wait.poll(self._epoll) if soon and patience != 0.0 else []
            self._serve_descriptors(ready or self._epoll.poll(patience))
            self._fire_idle_unless_served()

    def turn(self, patience: float) -> bool:
        """Do what is due: one turn of the loop, for who runs it in a process of his own.

        Args:
            patience: seconds that it may wait for something to do.

        Returns:
            Whether there was anything.
        """
        if self._reason is not None:
            return False
        left = self._patience()
        ready = self._epoll.poll(patience if left is None else min(patience, left))
        due = bool(ready) or self._has_messages() or self._timers.patience() == 0.0
        self._serve_descriptors(ready)
        self._serve_messages()
        self._fire_timers()
        self._fire_idle_unless_served()
        return due

    def patience(self) -> float:
        """Return how many seconds there are until a timer or the idle timeout is due."""
        left = self._patience()
        return math.inf if left is None else left

    def elapse(self, seconds: float) -> None:
        """Let time pass, for timers and ``idle_timeout`` alone, for who runs this loop himself."""
        self._timers.elapse(seconds)
        self._patience()  # the idle timeout begins now, if it has not begun
        if self._quiet_since is not None:
            self._quiet_since -= seconds

    def _fire_idle_unless_served(self) -> None:
        # A message may have arrived during the poll in which the idle timeout passed.
        if self._quiet_since is not None and not self._has_messages():
            self._fire_idle()

    def _serve_descriptors(self, ready: Iterable[tuple[int, int]]) -> None:
        for fd, events in ready:
            # An earlier callback of this round may have removed a later one.
            callback = self._readers.get(fd)
            if fd in self._writers:
                self._serve_writer(fd, events)
            elif callback is not None and self._reason is None:
                callback()

    def _serve_writer(self, fd: int, events: int) -> None:
        """Serve a descriptor that is polled for writing, and maybe for reading."""
        if (events & select.EPOLLOUT or fd not in self._readers) and self._reason is None:
            self._writers[fd]()  # errors and hang-ups, too, if nobody reads
        callback = self._readers.get(fd)
        if events & ~select.EPOLLOUT and callback is not None and self._reason is None:
            callback()

    def _serve_messages(self) -> None:
        """Serve a batch of messages, from this process itself or from the mailbox."""
        system = self._system
        for _ in range(_BATCH):
            if self._reason is not None:
                return
            if self._inbox and not system.suspended:
                self._inbox.popleft()()
            else:
                held = system.suspended or self.is_full
                message = self._mailbox.receive(suspended=held)
                if message is None:
                    return
                self._dispatch(*message)
            if self.kept is not None:
                self._keep()

    def _keep(self) -> None:
        """Write the attributes that survive a crash, after a callback."""
        if self._is_kept:  # before the reply, which was the callback's last act
            self._is_kept = False
        elif self.kept is not None:
            self.kept.save()

    def _has_messages(self) -> bool:
        suspended = self._system.suspended
        if self._inbox and not suspended:
            return True
        held = suspended or self.is_full
        return self._mailbox.has_messages(suspended=held)

    def _patience(self) -> float | None:
        """Return how many seconds the loop may wait for an event."""
        if self._has_messages():
            return 0.0
        patience, idle = self._timers.patience(), self.server.idle_timeout
        if idle is None or self._system.suspended:
            self._quiet_since = None
            return patience
        if math.isnan(idle):
            raise ValueError(f"idle_timeout is a number of seconds, or None, not {idle!r}")
        if self._quiet_since is None:
            self._quiet_since = time.monotonic()
        left = max(0.0, self._quiet_since + idle - time.monotonic())
        return min(left, linux.LONGEST_POLL / 1000 if patience is None else patience)

    def _fire_timers(self) -> None:
        if self._timers.patience() == 0.0:
            # After a SIGSTOP a timer may be due although the event that it waits for has arrived
            # meanwhile. So descriptors are served first.
            self._serve_descriptors(self._epoll.poll(0))
        # A callback may set a timer that is due at once. It has its turn after the next messages.
        now = time.monotonic()
        while self._reason is None and (timer := self._timers.due(now)) is not None:
            timer.callback()

    def _fire_idle(self) -> None:
        """Tell the actor if nothing has come for its ``idle_timeout``."""
        idle, since = self.server.idle_timeout, self._quiet_since
        if idle is None or since is None or self._reason is not None:
            return
        if time.monotonic() - since >= idle:
            self._serve_info(Timeout())
            self._keep()

    def _dispatch(self, peer: Peer, kind: int, number: int, term: Any, chain: list[Any]) -> None:
        if kind == CAST:
            self._note("cast", term)
            result = self.server.handle_cast(term)
            if result is not None:
                self._then("handle_cast", result)
        elif kind == INFO:
            self._serve_info(term)
        elif kind == CALL:
            self._note("call", term)
            sender = Sender(peer.number, number, self.process)
            self._serve_call(sender, self.server.handle_call, (term, sender), {}, chain)
        elif kind in METHODS:
            try:
                message = Invocation.of(term)
            except ValueError as error:
                self._mailbox.refuse(peer, f"{error}")
                return
            sender = Sender(peer.number, number, self.process)
            self._serve_method(sender if kind == CALL_METHOD else None, message, chain)
        elif kind in self._REQUESTS:
            try:
                self._REQUESTS[kind](self, Sender(peer.number, number, self.process), term)
            except _NONSENSE as error:  # no request of this package's has such terms
                why = f"{shown(term, 100)} in a request of kind {kind}: {error!r:.200}"
                self._mailbox.refuse(peer, why)
        else:
            self._mailbox.refuse(peer, f"its kind is {kind}")

    def _serve_info(self, message: Any) -> None:
        self._note("info", message)
        self._then("handle_info", self.server.handle_info(message))

    def _serve_method(self, sender: Sender | None, message: Invocation, chain: list[Any]) -> None:
        """Serve a call of a handler, or a cast if nobody waits for the reply."""
        server = self.server
        self._note("cast" if sender is None else "call", message)
        try:
            method = server._handler_for(message)  # noqa: SLF001 - a hook for this loop alone
        except TypeError as error:  # the caller's mistake: this actor goes on
            if sender is None:
                self.log.error("%r ignores a cast: %s", self.ref, error)
            else:
                self.refuse(sender, error)
            return
        args, kwargs = (server, *message.args), message.kwargs
        if sender is not None:
            self._serve_call(sender, method, args, kwargs, chain)
            return
        result = method(*args, **kwargs)
        check_reply(message.method, result)
        if isinstance(result, (Stop, Continue)):  # all else would be the reply
            self._then(message.method, result)

    def _serve_call(
        self,
        sender: Sender,
        callback: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        chain: list[Any],
    ) -> None:
        """Reply to a call with what a callback returns."""
        if chain:
            call_cycle.serving(call_cycle.decode(chain))
        self.sender = sender
        try:
            result = callback(*args, **kwargs)
            value = result.reply if isinstance(result, (Stop, Continue)) else result
            if not isinstance(value, NoReply):
                check_reply(callback.__name__, value)
                self.reply(sender, value, last=isinstance(result, Stop))
                self._is_kept = self.kept is not None and result is value
        except RAISED as error:
            # Before the actor ends of it: otherwise the caller would be told of the end alone.
            self._answer(sender, CRASH, RemoteError.of(error))
            raise
        finally:
            self.sender = None
            if chain:
                call_cycle.serving(())
        if isinstance(result, (Stop, Continue)):
            self._then(callback.__name__, result)

    def _serve_monitor(self, sender: Sender, _: Any) -> None:
        self._monitors.add(sender.address, sender.number)

    def _serve_stop(self, sender: Sender, reason: Any) -> None:
        # The answer to a stop is the ``Down`` of the end, with whatever ``terminate`` makes of it.
        self._serve_monitor(sender, None)
        orderly = isinstance(reason, (str, Shutdown, Exception))
        self.server._order_to_stop(reason if orderly else Shutdown(reason))  # noqa: SLF001 - a hook for this loop alone

    def _serve_own(self, sender: Sender, pid: Any) -> None:
        self._attempt(sender, self._add_owner, pid)

    def _serve_link(self, sender: Sender, ref: Any) -> None:
        self._check_own(sender, ref)
        self.links.link(ref, mutual=False)

    def _serve_unlink(self, sender: Sender, ref: Any) -> None:
        self._check_own(sender, ref)
        self.links.unlink(ref, mutual=False)

    def _check_own(self, sender: Sender, ref: Any) -> None:
        """Raise ValueError if a link is not to the sender itself: it could end this actor."""
        peer = self._mailbox.find(sender.address)
        process = process_of(ref) if isinstance(ref, Ref) else None
        if peer is None or process is None or peer.pid not in (0, process.pid):
            raise ValueError("an actor links others to itself alone")

    def _serve_answer(self, _: Sender, answer: Any) -> None:
        """Pass on what another process has answered to a call of this actor."""
        match answer:
            case [int(address), int(number), int(kind), term] if kind in {REPLY, RAISE}:
                self._mailbox.answer(self._mailbox.find(address), kind, number, term)
            case _:
                self.log.warning("%r: ignores a malformed answer, to be passed on", self.ref)

    def _serve_system(self, sender: Sender, request: Any) -> None:
        if isinstance(request, list) and request[:1] == ["operate"]:
            self.server._operate(sender, request[1:])  # noqa: SLF001 - a hook for this loop alone
        else:
            self._attempt(sender, self._system.serve, request)

    def _serve_subscribe(self, sender: Sender, topic: Any) -> None:
        try:
            self._streams.add(topic, sender.address, sender.number)
        except ValueError as error:
            self.refuse(sender, error)

    def _serve_seen(self, sender: Sender, count: Any) -> None:
        if isinstance(count, int):
            self._streams.seen(sender.address, sender.number, count)

    def _serve_forget(self, sender: Sender, number: Any) -> None:
        if isinstance(number, int):
            self._streams.remove(sender.address, number)
            self._monitors.remove(sender.address, number)

    def _note(self, kind: str, term: Any) -> None:
        """Count a message, and tell whoever traces this actor."""
        self._quiet_since = None
        self._counts[kind] += 1
        if self._streams.tracing:
            self._streams.publish(TRACE, lambda: traced(kind, term))

    def happened(self, event: Event) -> None:
        """Tell those who subscribed to this supervisor, or to one above."""
        self._streams.publish(SUPERVISION, lambda: event)
        self.parent.happened(event)

    def _then(self, callback: str, result: Any) -> None:
        """Do what a callback asks for besides a reply.

        Raises:
            TypeError: it asks for nothing that it may.
        """
        while isinstance(result, Continue):
            self._is_kept = False
            self._keep()
            callback, result = "handle_continue", self.server.handle_continue(result.argument)
        check_result(callback, result)
        if isinstance(result, Stop):
            self.exit(result.reason)

    def _answer(self, sender: Sender, kind: int, term: Any) -> bool:
        """Answer a request of a caller; tell whether that was still there."""
        return self._mailbox.answer(self._mailbox.find(sender.address), kind, sender.number, term)

    def _caller_gone(self, peer: Peer) -> None:
        """Forget what the caller of a connection that has ended wanted to be told."""
        self._monitors.forget(peer.number)
        self._streams.forget(peer.number)

    def _attempt(self, sender: Sender, function: Callable[[Any], Any], argument: Any) -> None:
        """Reply with a function's result, or with its error, which does not end the actor."""
        try:
            self.reply(sender, function(argument))
        except (OSError, ActorError, ValueError, TypeError, OverflowError) as error:
            self.refuse(sender, error)

    # -- for GenServer's methods ----------------------------------------------------------------

    def reply(self, sender: Sender, value: Any, *, last: bool = False) -> bool:
        """Answer a call of this actor, or of another; tell whether the caller was still there.

        Args:
            sender: who has called.
            value: the reply.
            last: whether this actor ends after it, as far as ``_reason`` does not say so.
        """
        is_own = sender.actor == self.process
        kind = LAST if last or self._reason is not None else REPLY
        # Packed first: what cannot be told has not happened. Then kept: who has the reply relies on
        # it. After a crash nothing is: the callback that failed has changed nothing.
        data = self._mailbox.packed(kind, sender.number, value) if is_own else b""
        if self.kept is not None and self.error is None:
            self.kept.save()
        self._counts["reply"] += 1
        if self._streams.tracing:
            self._streams.publish(TRACE, lambda: traced("reply", value))
        if not is_own:
            return sender.reply(value)
        return self._mailbox.send(self._mailbox.find(sender.address), data)

    def refuse(self, sender: Sender, error: Exception) -> None:
        """Answer a call by an error, of ``errors.CARRIED`` or described, that the caller raises."""
        if self.kept is not None and self.error is None:
            self.kept.save()  # as before a reply: who has the answer may rely on what was changed
        travels = carried(error) and codec.portable(error) is error
        try:
            self._answer(sender, RAISE, error if travels else RemoteError.of(error))
        except ValueError:  # it is as long as a message may be, without what goes around it
            self._answer(sender, RAISE, RemoteError.of(error))

    def send_after(self, seconds: float, message: Any) -> Timer:
        """Deliver a message later."""
        return self.call_later(seconds, lambda: self.inform(message))

    def inform(self, message: Any) -> None:
        """Deliver a message to this actor itself."""
        self._inbox.append(lambda: self._serve_info(message))

    def call_soon(self, callback: Callable[[], object]) -> None:
        """Call a function from the loop, as the next message. Any thread may call this."""
        self._inbox.append(lambda: (callback(), None)[1])
        if threading.get_ident() != self._thread and self._wakeup >= 0:
            os.eventfd_write(self._wakeup, 1)  # the loop may wait for an event

    def expect_other_threads(self) -> None:
        """Let ``call_soon`` of another thread wake the loop from now on."""
        if self._wakeup < 0:
            self._wakeup = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self.add_reader(self._wakeup, self._woken)

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wakeup)

    def call_every(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call a function from the loop again and again."""

        def call() -> None:
            callback()
            if not timer.cancelled:
                self._timers.add_again(timer, seconds)

        timer = self._timers.add(seconds, call)
        return timer

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call a function from the loop later."""
        return self._timers.add(seconds, callback)

    def keeping(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Return a callback of the actor's own as the loop calls it: what it changes is written.

        Raises:
            TypeError: it is an async function, which nobody would await.
        """
        if inspect.iscoroutinefunction(callback):
            raise TypeError(f"{callback!r} is an async function: an actor calls plain ones back")
        if self.kept is None:
            return callback

        def call() -> None:
            callback()
            self._keep()

        return call

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        """Poll a descriptor for reading."""
        self.poll(fd, callback, select.EPOLLIN)

    def add_writer(self, fd: int, callback: Callable[[], None]) -> None:
        """Poll a descriptor for writing."""
        self._register(fd, select.EPOLLOUT | (select.EPOLLIN if fd in self._readers else 0))
        self._writers[fd] = callback

    def poll(self, fd: int, callback: Callable[[], None], mask: int) -> None:
        """Call back at events of epoll_ctl(2) on a descriptor: errors and hang-ups, too."""
        self._register(fd, mask | (select.EPOLLOUT if fd in self._writers else 0))
        self._readers[fd] = callback

    def _register(self, fd: int, mask: int) -> None:
        try:
            self._epoll.register(fd, mask)
        except FileExistsError:
            self._epoll.modify(fd, mask)

    def remove_reader(self, fd: int) -> None:
        """Poll a descriptor no longer, unless for writing."""
        if self._readers.pop(fd, None) is not None:
            self._unregister(fd, select.EPOLLOUT if fd in self._writers else 0)

    def remove_writer(self, fd: int) -> None:
        """Poll a descriptor no longer, unless for reading."""
        if self._writers.pop(fd, None) is not None:
            self._unregister(fd, select.EPOLLIN if fd in self._readers else 0)

    def _unregister(self, fd: int, rest: int) -> None:
        with contextlib.suppress(OSError):  # it was closed, and so left the set by itself
            if rest:
                self._epoll.modify(fd, rest)
            else:
                self._epoll.unregister(fd)

    def linked_ended(self, message: Exit) -> None:
        """A linked actor has ended: be told, or end with it, unless its end was normal."""
        if self.server.trap_exit:
            self.inform(message)
        elif message.reason != NORMAL:
            self.exit(message.reason)

    # -- owners --------------------------------------------------------------------------------

    def _add_owner(self, pid: int) -> None:
        if not isinstance(pid, int):
            raise TypeError(f"a pid is a number, not {pid!r:.200}")
        self.owners.add(linux.process(pid))

    def _serve_leave(self, sender: Sender, owner: Any) -> None:
        """An owner is about to exit, and waits until what belonged to it has gone."""
        leaving = [process for process in self.owners if list(process) == owner]
        for process in leaving:
            self.owners.remove(process)
            self._had_owners = True
        if not leaving:
            self.reply(sender, None)
            return
        if not self.owners:
            self._monitors.add(sender.address, sender.number)  # if that ends this actor
        self.server._owner_left(leaving[0], lambda: self.reply(sender, None))  # noqa: SLF001 - a hook for this loop alone

    def belong_to(self, program: linux.Process, pidfd: int) -> None:
        """Belong to the program that has started this actor, until it ends or execs another."""
        self.owners.add(program, pidfd)
        image = linux.image(program.pid)

        def left() -> None:
            if program in self.owners:
                self.owners.remove(program)
                self._owner_ended(program)

        def hung_up() -> None:
            if linux.image(program.pid) != image:  # otherwise it has closed all its descriptors
                left()

        self.parent.watch_end(left, hung_up)

    def _owner_ended(self, owner: linux.Process) -> None:
        self._had_owners = True
        self.server._owner_left(owner, lambda: None)  # noqa: SLF001 - a hook for this loop alone

    _REQUESTS: ClassVar[dict[int, Callable[[Actor, Sender, Any], None]]] = {
        MONITOR: _serve_monitor,
        STOP: _serve_stop,
        OWN: _serve_own,
        LEAVE: _serve_leave,
        LINK: _serve_link,
        UNLINK: _serve_unlink,
        ANSWER: _serve_answer,
        SYSTEM: _serve_system,
        SUBSCRIBE: _serve_subscribe,
        SEEN: _serve_seen,
        FORGET: _serve_forget,
    }

    @property
    def context(self) -> zmq.Context[zmq.Socket[bytes]]:
        """The ZeroMQ context of this process, for sockets of the actor's own.

        The actor's end destroys it, after ``terminate``. Sockets that are still open are closed
        then, with a LINGER of two seconds.
        """
        if self._context is None:
            import zmq  # noqa: PLC0415 - libzmq starts threads and takes memory, and few need it

            self._context = zmq.Context(1)
        return self._context

    @property
    def has_started(self) -> bool:
        """Whether ``init`` has succeeded."""
        return self._started

    @property
    def reason(self) -> Reason | None:
        """Why this ends, if it does."""
        return self._reason

    def close(self) -> None:
        """Close what the end of a process would close, for who goes on after the actor's end."""
        self.links.close()
        self._mailbox.leave()
        self._epoll.close()
        if self._wakeup >= 0:
            os.close(self._wakeup)

    @property
    def left_by_owners(self) -> bool:
        """Whether this actor had owners, and all of them have ended."""
        return self._had_owners and not self.owners


def _nobody() -> None:
    """Let a process that an actor's own code has forked be no actor.

    If it returns from the callback, it ends. Otherwise it would serve the actor's descriptors.
    """
    if Actor.current is not None:
        Actor.current.exit(NORMAL)
    Actor.current = None
    futures.actor_calls_back(None)


os.register_at_fork(after_in_child=_nobody)


def _able_to_travel(reason: Reason) -> Reason:
    """Return the reason, or why it cannot be told: it travels on the channel, and in replies."""
    try:
        size = len(codec.pack(reason))
    except (TypeError, ValueError) as error:
        return RemoteError.of(error)
    if size > SIZE // 2:
        return RemoteError("ValueError", f"the exit reason has {size} bytes, too many to be told")
    return reason


def end_process(status: int) -> NoReturn:
    """End this process without what an interpreter's exit would do to the parent's objects.

    What it has printed is written, unless nobody reads it: a pipe that is full would be waited for.
    """

    def interrupt(*_: object) -> NoReturn:
        raise TimeoutError

    with contextlib.suppress(*RAISED):
        signal.signal(signal.SIGALRM, interrupt)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
        signal.setitimer(signal.ITIMER_REAL, _FLUSH, _FLUSH)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(*RAISED):
            stream.flush()
    os._exit(status)
