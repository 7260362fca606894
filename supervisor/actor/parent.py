"""The actor's end of the channel to its parent: the supervisor or the program that has started it.

The channel to a supervisor stays open. The actor reports its start, its end and what happens below
it. The supervisor sends orders, and keeps descriptors. A program needs the channel for the start.
It stays open if the actor belongs to the program: if the program replaces itself by exec, the
kernel closes its end of the channel, whereas a pidfd of the program does not become readable.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from supervisor.actor import owners
from supervisor.errors import Reason
from supervisor.protocol import message_kinds
from supervisor.protocol.channel import Channel
from supervisor.protocol.message_kinds import DROP, HAPPENED, HELD, PONG, STORE, STORED
from supervisor.protocol.telemetry import Event


class Loop(owners.Loop, Protocol):
    """An actor's loop."""

    def poll(self, fd: int, callback: Callable[[], None], events: int) -> None:
        """Call back at events of epoll_ctl(2) on a descriptor."""

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Any:
        """Call a function later."""


class Parent:
    """The channel of an actor to the process that has started it."""

    def __init__(
        self,
        channel: Channel | None,
        loop: Loop,
        shut: Callable[[Reason], None],
        restore: Callable[[], None],
        *,
        supervises: bool,
    ) -> None:
        """Call ``shut`` at an order to end, and ``restore`` at an order to restore one's files."""
        self._restore = restore
        self._channel = channel
        self._supervises = supervises
        self._loop = loop
        self._shut = shut
        self._orders: deque[list[Any]] = deque()
        self._stores: deque[Callable[[str | None], None]] = deque()
        """Callbacks of the requests to store a descriptor, in their order."""
        self._left: Callable[[], None] | None = None
        self._hung_up: Callable[[], None] | None = None
        self.starts_again = False
        """Whether the supervisor ordered the end because it could not start itself. It may start
        again, with this actor and its stored descriptors."""
        if channel is not None:
            loop.add_reader(channel.fileno(), self._read)

    @property
    def supervises(self) -> bool:
        """Whether the parent is a supervisor, and still there."""
        return self._supervises and self._channel is not None

    def watch_end(self, left: Callable[[], None], hung_up: Callable[[], None]) -> None:
        """Call back when the program sends that it exits, or has closed its end of the channel."""
        self._left, self._hung_up = left, hung_up

    def tell(self, *message: Any) -> None:
        """Send the parent a message, if it is still there."""
        if self._channel is not None:
            with contextlib.suppress(OSError):
                self._flush(self._channel)  # in order: what was dropped before an end is dropped
                self._channel.send(*message)

    def serves_now(self, *message: Any) -> None:
        """Send the parent that the start is over."""
        self.tell(*message)
        if not self._supervises and self._hung_up is None:
            self._close()

    def held(self, *, by_debugger: bool) -> None:
        """Send the supervisor whether a debugger holds this actor up."""
        if self.supervises:
            self.tell(HELD, by_debugger)

    def happened(self, event: Event) -> None:
        """Pass an event on to the supervisor, if the channel has room for it."""
        if self.supervises and self._channel is not None:
            with contextlib.suppress(ValueError):  # too long a reason, or too deep a way
                self._channel.offer(HAPPENED, event)

    def store_fd(self, path: tuple[str, ...], fd: int) -> None:
        """Deposit a descriptor with the supervisor, and wait until it has it.

        Raises:
            OSError: there is none, or its store is full.
            ValueError: the path is none.
        """
        channel = self._supervisor(path)
        answers: list[str | None] = []
        try:
            self._flush(channel)
            channel.send(STORE, path, fds=(fd,))
            self._stores.append(answers.append)  # there is no answer to what could not be sent
            while not answers:
                self._on_stored(channel)
        except (BrokenPipeError, EOFError):
            raise OSError(errno.ENOTCONN, "the supervisor has ended", path[-1]) from None
        if self._orders:
            self._loop.call_later(0, self._read)
        if answers[0] is not None:
            raise OSError(errno.ENOSPC, answers[0], path[-1])

    @staticmethod
    def _flush(channel: Channel) -> None:
        """Send what waits for room.

        Raises:
            BrokenPipeError: the supervisor has ended.
        """
        while not channel.flush():
            if channel.has_hung_up():
                raise BrokenPipeError(errno.EPIPE, "the supervisor has ended")
            channel.wait_for_room()

    def store_fd_later(
        self, path: tuple[str, ...], fd: int, done: Callable[[str | None], None]
    ) -> None:
        """Deposit a descriptor, and call back from the loop when that is done, or why it is not.

        Raises:
            OSError: there is no supervisor, or no descriptor is left for a duplicate.
            ValueError: the path is none.
        """
        self._supervisor(path)
        self._send((STORE, path), (fd,))
        self._stores.append(done)  # there is no answer to what could not be sent

    def _supervisor(self, path: tuple[str, ...]) -> Channel:
        """Return the channel to the supervisor, to store something under this path."""
        if not path[-1] or not all(isinstance(part, str) for part in path):
            raise ValueError(f"a stored descriptor has a name, not {path[-1]!r}")
        if not self.supervises or self._channel is None:
            problem = "there is no supervisor to store a descriptor with"
            raise OSError(errno.ENOTCONN, problem, path[-1])
        return self._channel

    def _on_stored(self, channel: Channel) -> None:
        """Wait for an answer to a request to store; orders that come before are for the loop."""
        answer, _ = channel.receive(wait=True)  # type: ignore[misc]
        if answer[0] == STORED and self._stores:
            self._stores.popleft()(answer[1])
        else:
            self._orders.append(answer)

    def drop_fd(self, path: tuple[str, ...]) -> None:
        """Take a descriptor, or all below this path, out of the supervisor's store.

        It is not waited for: a supervisor that is stopped does so when it is continued.
        """
        if self.supervises:
            self._send((DROP, path), ())

    def _send(self, message: tuple[Any, ...], fds: tuple[int, ...]) -> None:
        """Send a word to the supervisor now, or when it has read others."""
        channel = self._channel
        if channel is not None and not channel.queue(*message, fds=fds):
            self._loop.poll(channel.fileno(), self._ready, select.EPOLLIN | select.EPOLLOUT)

    def _ready(self) -> None:
        channel = self._channel
        if channel is not None and channel.flush():
            self._loop.poll(channel.fileno(), self._read, select.EPOLLIN)
        self._read()

    def _read(self) -> None:
        while self._channel is not None:
            try:
                order = self._orders.popleft() if self._orders else self._receive(self._channel)
            except EOFError:
                if self._supervises:
                    # The supervisor has ended, and the kernel kills this process (PR_SET_PDEATHSIG
                    # of prctl(2)), unless a change of user has disarmed that signal: so kill here.
                    os.kill(os.getpid(), signal.SIGKILL)
                self._close()
                if self._hung_up is not None:
                    self._hung_up()
                return
            if order is None:
                return
            self._obey(order)

    def _obey(self, order: list[Any]) -> None:
        match order:
            case [message_kinds.STORED, refusal] if self._stores:
                self._stores.popleft()(refusal)
            case [message_kinds.SHUT, reason, starts_again]:
                self.starts_again = starts_again
                self._shut(reason)
            case [message_kinds.PING]:
                self._send((PONG,), ())
            case [message_kinds.RESTORE]:
                self._restore()
            case [message_kinds.LEFT] if self._left is not None:
                self._left()

    def _receive(self, channel: Channel) -> list[Any] | None:
        received = channel.receive()
        return None if received is None else received[0]

    def _close(self) -> None:
        if self._channel is not None:
            self._loop.remove_reader(self._channel.fileno())
            self._channel.close()
            self._channel = None
