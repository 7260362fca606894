"""An actor's mailbox: one ZeroMQ ROUTER socket on a path that belongs to this process alone.

On a path that outlives its process, messages for the dead would reach its successor.
"""

import contextlib
from typing import Any

import zmq

from supervisor import runtime, wire
from supervisor.errors import BadMessage, NoProcess
from supervisor.linux import Process
from supervisor.protocol import EVENT, MAILBOX, RAISE

_BACKLOG = 1024  # connections that wait to be accepted, at most net.core.somaxconn
_FAREWELL = 2000  # ms that the last replies may take to leave

Message = tuple[bytes, int, int, Any, Any]
"""Who sent it, its kind, its number (0: no answer is expected), its term, who waits for it."""


class Mailbox:
    """Receives messages and sends answers."""

    def __init__(self, process: Process) -> None:
        self._path = runtime.mailbox(process)
        self._path.unlink(missing_ok=True)  # of a process of a former boot with the same numbers
        self.context = zmq.Context(1)
        self._socket = self.context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, _FAREWELL)
        self._socket.setsockopt(zmq.BACKLOG, _BACKLOG)
        self._socket.setsockopt(zmq.MAXMSGSIZE, wire.LIMIT + 64)
        # Room for the answers to all that one caller may have sent, and then ceased to read.
        self._socket.setsockopt(zmq.SNDHWM, 2 * MAILBOX)
        # Without it a reply for which there is no room would be dropped without a word.
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.bind(f"ipc://{self._path}")

    def fileno(self) -> int:
        """Return the descriptor to poll. It is edge-triggered: receive until there is nothing."""
        return int(self._socket.getsockopt(zmq.FD))

    def receive(self) -> Message | None:
        """Return the next message, or None when there is none.

        Raises:
            BadMessage: what came is no message of ours; its sender has been told.
        """
        try:
            sender = self._socket.recv(zmq.NOBLOCK)
        except zmq.Again:
            return None
        # Two receives cost half of a recv_multipart. A stranger may send any number of parts.
        data = self._socket.recv()
        if self._socket.getsockopt(zmq.RCVMORE):
            while self._socket.getsockopt(zmq.RCVMORE):
                self._socket.recv()
            raise self._refused(sender, "it has several parts")
        try:
            kind, number, term, *chain = wire.unpack(data)
        except (ValueError, TypeError) as error:
            raise self._refused(sender, str(error)) from None
        if type(kind) is not int or type(number) is not int:
            raise self._refused(sender, "it is not [kind, number, term]")
        if chain and not _is_chain(*chain):
            raise self._refused(sender, "who waits for it is no list of pids and start times")
        return sender, kind, number, term, chain

    def _refused(self, sender: bytes, why: str) -> BadMessage:
        error = BadMessage(f"this is a mailbox of actors, and that was no message of theirs: {why}")
        self.answer(sender, RAISE, 0, error)
        return error

    def answer(self, sender: bytes, kind: int, number: int, term: Any) -> bool:
        """Send an answer; return False if its receiver has gone, or does not read.

        A caller has a bounded number of messages in a mailbox, fewer than there is room for
        answers: only who does not keep to this is not answered.

        Raises:
            TypeError, ValueError: the term cannot travel.
        """
        try:
            return self.offer(sender, kind, number, term)
        except NoProcess:
            return False

    def offer(self, sender: bytes, kind: int, number: int, term: Any) -> bool:
        """Send an answer; return False if its receiver does not read.

        Raises:
            NoProcess: the receiver has gone.
            TypeError, ValueError: the term cannot travel.
        """
        data = wire.pack_message(kind, number, term)
        try:
            self._socket.send(sender, zmq.SNDMORE | zmq.NOBLOCK)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            raise NoProcess("who has asked has gone") from None
        self._socket.send(data, zmq.NOBLOCK)
        return True

    def probe(self, sender: bytes) -> None:
        """See whether somebody is still there, by an answer that nobody has asked for.

        Raises:
            NoProcess: nobody is.
        """
        self.offer(sender, EVENT, 0, None)

    def close(self) -> None:
        """Remove the path, let the last answers leave, within a bound, and close."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
        self.context.destroy(_FAREWELL)  # with the actor's own sockets, if it has left any


def _is_chain(numbers: Any, *rest: Any) -> bool:
    return not rest and isinstance(numbers, list) and all(type(n) is int for n in numbers)
