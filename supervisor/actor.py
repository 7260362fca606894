"""The process of an actor: one loop over mailbox, supervisor's channel, timers, descriptors."""

from __future__ import annotations

import contextlib
import errno
import heapq
import itertools
import logging
import os
import select
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, NoReturn

import zmq

from supervisor import connection, linux, registry, wire
from supervisor.channel import SIZE, Channel
from supervisor.connection import Pending
from supervisor.errors import (
    NORMAL,
    SHUTDOWN,
    ActorError,
    BadMessage,
    NoProcess,
    Reason,
    RemoteError,
    Shutdown,
    carried,
    is_orderly,
)
from supervisor.mailbox import Mailbox
from supervisor.owners import Owners
from supervisor.protocol import (
    CALL,
    CAST,
    DOWN,
    DROP,
    EXIT,
    FAILED,
    IGNORE,
    INFO,
    LEAVE,
    MONITOR,
    OWN,
    PING,
    PONG,
    RAISE,
    READY,
    REPLY,
    SHUT,
    STOP,
    STORE,
    STORED,
)
from supervisor.ref import Down, Ref
from supervisor.results import Continue, Ignore, NoReply, Sender, Server, Starting, Stop

_BATCH = 64  # messages between two looks at timers and descriptors
_LINGERING = 10_000  # messages answered, at most, after the decision to end


@dataclass(order=True)
class Timer:
    """A message to be delivered, or a function to be called, at a time."""

    when: float
    order: int
    callback: Callable[[], None] = field(compare=False)
    cancelled: bool = field(default=False, compare=False)


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
        supervised: bool = True,
    ) -> None:
        self.process = linux.process(os.getpid())
        self.ref = cls.reference(self.process, name)
        self.stored = stored
        self.channel = channel
        self._supervised = supervised
        self._mailbox = Mailbox(self.process)
        self._poller = select.poll()
        self._readers: dict[int, Callable[[], None]] = {}
        self._timers: list[Timer] = []
        self._order = itertools.count()
        self._inbox: deque[Callable[[], None]] = deque()
        self._orders: deque[list[Any]] = deque()
        self._monitors: list[tuple[bytes, int]] = []
        self.owners = Owners(self, self._owner_ended)
        self._had_owners = False
        self._registered = False
        self._started = False
        self._reason: Reason | None = None
        self._status = 0
        self.server = cls._new(self)
        self.add_reader(self._mailbox.fileno(), lambda: None)  # the loop itself receives
        if channel is not None:
            self.add_reader(channel.fileno(), self._read_channel)

    # -- life ----------------------------------------------------------------------------------

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
        """Start, serve until the end, and return the exit status: 0 for an orderly end."""
        Actor.current = self
        try:
            if self.ref.name is not None:
                registry.register(self.ref.name, self.process)
                self._registered = True
            result = self.server.init(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is why the start failed
            self.fail(error if isinstance(error, ActorError) else RemoteError.of(error))
        else:
            self._inbox.append(lambda: self._begin(result))
        while self._reason is None:
            try:
                self._loop()
            except Exception as error:  # noqa: BLE001 - a callback's: it ends this actor, not the program
                self._crash(error)
        return self._finish(self._reason)

    def _begin(self, result: Any) -> None:
        if isinstance(result, Ignore):
            self._tell(IGNORE)
            self._reason = NORMAL
        elif isinstance(result, Stop):
            self.fail(result.reason)
        elif not isinstance(result, Starting):
            self.ready()
            self._then(result)

    def ready(self) -> None:
        """Tell whoever started this actor that it serves now."""
        self._started = True
        self._tell(READY, self.ref)
        if not self._supervised:
            self._close_channel()  # it was for the start alone: a program is no supervisor

    def fail(self, reason: Any) -> None:
        """Tell whoever started this actor that it does not start, and end."""
        self._tell(FAILED, _able_to_travel(reason))
        self._reason = SHUTDOWN if isinstance(reason, Exception) else reason

    def exit(self, reason: Reason, status: int = 0) -> None:
        """End when the present callback has returned; an orderly end with this exit status."""
        if self._reason is None:
            self._reason, self._status = reason, status

    def _crash(self, error: BaseException) -> None:
        remote = RemoteError.of(error)
        self.log.error("%r ends: %s", self.ref, remote)
        self.exit(remote)

    def _finish(self, reason: Reason) -> int:
        reason = _able_to_travel(reason)
        if self._started:
            try:
                self.server.terminate(reason)
            except Exception as error:  # noqa: BLE001
                self.log.error("%r: terminate failed: %s", self.ref, RemoteError.of(error))  # noqa: TRY400
        if self._registered and self.ref.name is not None:
            registry.unregister(self.ref.name, self.process)
        # Whoever has asked already learns the reason; who asks from now on, that nobody is there.
        for sender, number in self._monitors:
            self._mailbox.answer(sender, DOWN, number, reason)
        for _ in range(_LINGERING):
            try:
                message = self._mailbox.receive()
            except BadMessage:
                continue
            if message is None:
                break
            sender, _, number, _ = message
            if number:
                self._mailbox.answer(sender, DOWN, number, reason)
        self._tell(EXIT, reason)
        self._mailbox.close()
        connection.close_all()
        return self._status if is_orderly(reason) else 1

    def _tell(self, *message: Any) -> None:
        """Tell the one who started this actor, if it is still there to hear."""
        if self.channel is not None:
            with contextlib.suppress(BrokenPipeError):
                self.channel.send(*message)

    # -- the loop ------------------------------------------------------------------------------

    def _loop(self) -> None:
        while self._reason is None:
            quiet = self._serve_mailbox()
            if self._reason is not None:
                return
            for fd, _ in self._poller.poll(self._patience() if quiet else 0):
                # An earlier callback of this round may have removed a later one.
                callback = self._readers.get(fd)
                if callback is not None and self._reason is None:
                    callback()
            self._fire_timers()

    def _serve_mailbox(self) -> bool:
        """Serve a batch of messages; return whether there are no more.

        Nothing may use the mailbox's socket between its "no more" and the poll: the socket's
        descriptor is edge-triggered, and an edge taken here would not wake the poll.
        """
        for _ in range(_BATCH):
            if self._reason is not None:
                return True
            if self._inbox:
                self._inbox.popleft()()
                continue
            try:
                message = self._mailbox.receive()
            except BadMessage as error:
                self.log.warning("%r: %s", self.ref, error)
                continue
            if message is None:
                return not self._inbox
            self._dispatch(*message)
        return False

    def _patience(self) -> float | None:
        """Return how many milliseconds the poll may wait."""
        while self._timers and self._timers[0].cancelled:
            heapq.heappop(self._timers)
        if not self._timers:
            return None
        remaining = (self._timers[0].when - time.monotonic()) * 1000 + 1
        return min(max(0.0, remaining), linux.LONGEST_POLL)

    def _fire_timers(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0].when <= now and self._reason is None:
            timer = heapq.heappop(self._timers)
            if not timer.cancelled:
                timer.callback()

    def _dispatch(self, address: bytes, kind: int, number: int, term: Any) -> None:
        if kind == CALL:
            self._call(Sender(address, number), term)
        elif kind == CAST:
            self._then(self.server.handle_cast(term))
        elif kind == INFO:
            self._then(self.server.handle_info(term))
        elif kind == MONITOR:
            self._monitors.append((address, number))
        elif kind == STOP:
            self._monitors.append((address, number))
            orderly = isinstance(term, (str, Shutdown, Exception))
            self.server._order_to_stop(term if orderly else Shutdown(term))
        elif kind == LEAVE:
            self._leave(Sender(address, number), term)
        elif kind == OWN:
            self._answer(Sender(address, number), self._add_owner, term)
        else:
            self.log.warning("%r: a message of unknown kind %r", self.ref, kind)

    def _call(self, sender: Sender, request: Any) -> None:
        try:
            result = self.server.handle_call(request, sender)
            if not isinstance(result, NoReply):
                value = result.reply if isinstance(result, (Stop, Continue)) else result
                self.reply(sender, value)
        except Exception as error:
            self._mailbox.answer(sender.address, RAISE, sender.number, RemoteError.of(error))
            raise
        self._then(result, replied=True)

    def _then(self, result: Any, replied: bool = False) -> None:
        """Do what a callback asks for besides a reply."""
        while isinstance(result, Continue):
            result = self.server.handle_continue(result.argument)
            replied = False
        if isinstance(result, Stop):
            self.exit(result.reason)
        elif result is not None and not isinstance(result, NoReply) and not replied:
            self.log.debug("%r: a callback's result is ignored: %.200r", self.ref, result)

    def _answer(self, sender: Sender, function: Callable[[Any], Any], argument: Any) -> None:
        """Reply with a function's result, or with its error, which does not end the actor."""
        try:
            self.reply(sender, function(argument))
        except (OSError, ActorError, ValueError, TypeError) as error:
            self.refuse(sender, error)

    # -- for GenServer's methods ----------------------------------------------------------------

    def reply(self, sender: Sender, value: Any) -> bool:
        """Answer a call; tell whether the caller was still there."""
        return self._mailbox.answer(sender.address, REPLY, sender.number, value)

    def refuse(self, sender: Sender, error: Exception) -> None:
        """Answer a call by an error, of ``errors.CARRIED`` or described, that the caller raises."""
        term = error if carried(error) else RemoteError.of(error)
        self._mailbox.answer(sender.address, RAISE, sender.number, term)

    def send_after(self, seconds: float, message: Any) -> Timer:
        """Deliver a message later."""
        return self.call_later(seconds, lambda: self._inform(message))

    def _inform(self, message: Any) -> None:
        self._inbox.append(lambda: self._then(self.server.handle_info(message)))

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call a function from the loop later."""
        timer = Timer(time.monotonic() + seconds, next(self._order), callback)
        heapq.heappush(self._timers, timer)
        return timer

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        """Watch a descriptor."""
        self._readers[fd] = callback
        self._poller.register(fd, select.POLLIN)

    def remove_reader(self, fd: int) -> None:
        """No longer watch a descriptor."""
        if self._readers.pop(fd, None) is not None:
            self._poller.unregister(fd)

    def monitor(self, ref: Ref) -> None:
        """Have a Down delivered when another actor ends."""
        try:
            there = ref._connection()
        except NoProcess:
            self._inform(Down(ref, 0, "noproc"))
            return

        def ended(pending: Pending) -> None:
            self._inform(Down(ref, there.process.pid, pending.reason()))

        there.ask(MONITOR, None, time.monotonic() + 5.0, ended)

        def serve() -> None:
            there.serve()
            if there.dead:
                self.remove_reader(there.fileno())
                self.remove_reader(there.pidfd)

        self.add_reader(there.fileno(), serve)
        self.add_reader(there.pidfd, serve)

    # -- owners --------------------------------------------------------------------------------

    def _add_owner(self, pid: int) -> None:
        if not isinstance(pid, int):
            raise TypeError(f"a pid is a number, not {pid!r:.200}")
        self.owners.add(linux.process(pid))

    def _leave(self, sender: Sender, owner: Any) -> None:
        """An owner is about to exit, and waits until what belonged to it has gone."""
        leaving = [process for process in self.owners if list(process) == owner]
        for process in leaving:
            self.owners.remove(process)
            self._had_owners = True
        if not leaving:
            self.reply(sender, None)
            return
        if not self.owners:
            self._monitors.append((sender.address, sender.number))  # if that ends this actor
        self.server._owner_left(leaving[0], lambda: self.reply(sender, None))

    def _owner_ended(self, owner: linux.Process) -> None:
        self._had_owners = True
        self.server._owner_left(owner, lambda: None)

    @property
    def context(self) -> zmq.Context[zmq.Socket[bytes]]:
        """The ZeroMQ context of this process, for sockets of the actor's own.

        It ends with the actor, after ``terminate``, and waits for their LINGER.
        """
        return self._mailbox.context

    @property
    def left_by_owners(self) -> bool:
        """Whether this actor had owners, and all of them have ended."""
        return self._had_owners and not self.owners

    @property
    def supervised(self) -> bool:
        """Whether a supervisor is at the other end of the channel."""
        return self._supervised and self.channel is not None

    # -- the supervisor's channel --------------------------------------------------------------

    def _read_channel(self) -> None:
        while self.channel is not None:
            try:
                received = self._orders.popleft() if self._orders else self._receive()
            except EOFError:
                self._close_channel()  # the supervisor has ended: the kernel is about to kill this
                return
            if received is None:
                return
            if received[0] == SHUT:
                self.server._order_to_stop(received[1])
            elif received[0] == PING:
                self.channel.offer(PONG)

    def _close_channel(self) -> None:
        if self.channel is not None:
            self.remove_reader(self.channel.fileno())
            self.channel.close()
            self.channel = None

    def _receive(self) -> list[Any] | None:
        assert self.channel is not None  # noqa: S101
        received = self.channel.receive()
        return None if received is None else received[0]

    def store_fd(self, path: tuple[str, ...], fd: int) -> None:
        """Deposit a descriptor with the supervisor, and wait until it has it."""
        if not path[-1] or not all(isinstance(part, str) for part in path):
            raise ValueError(f"a stored descriptor has a name, not {path[-1]!r}")
        self._exchange(STORE, path, fd)

    def drop_fd(self, path: tuple[str, ...]) -> None:
        """Take a descriptor, or all below this path, out of the supervisor's store.

        It is not waited for: a supervisor that is stopped does so when it is continued.
        """
        if self.supervised:
            self._tell(DROP, path)

    def _exchange(self, word: str, path: tuple[str, ...], *fds: int) -> None:
        if not self.supervised:
            problem = "there is no supervisor to store a descriptor with"
            raise OSError(errno.ENOTCONN, problem, path[-1])
        assert self.channel is not None  # noqa: S101
        try:
            self.channel.send(word, path, fds=fds)
            while True:
                answer, _ = self.channel.receive(wait=True)  # type: ignore[misc]
                if answer[0] == STORED:
                    break
                self._orders.append(answer)
        except (BrokenPipeError, EOFError):
            raise OSError(errno.ENOTCONN, "the supervisor has ended", path[-1]) from None
        if answer[1] is not None:
            raise OSError(errno.ENOSPC, answer[1], path[-1])
        if self._orders:
            self.call_later(0, self._read_channel)


def _able_to_travel(reason: Reason) -> Reason:
    """Return the reason, or why it cannot be told: it travels on the channel, and in replies."""
    try:
        size = len(wire.pack(reason))
    except (TypeError, ValueError) as error:
        return RemoteError.of(error)
    if size > SIZE // 2:
        return RemoteError("ValueError", f"the exit reason has {size} bytes, too many to be told")
    return reason


def end_process(status: int) -> NoReturn:
    """End this process without what an interpreter's exit would do to the parent's objects."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(status)
