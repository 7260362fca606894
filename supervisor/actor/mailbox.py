"""An actor's mailbox: a listening Unix socket on a path that belongs to this process alone.

On a path that outlives its process, messages for the dead would reach its successor.
Each caller has one connection. What it has sent is read a chunk at a time, and served in turns with
the messages of others: a caller that floods the mailbox delays the others little. What the actor
has not read stays in the kernel's buffers, and slows its sender down.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import logging
import os
import resource
import select
import socket
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import msgpack

from supervisor import inherited
from supervisor.actor.mailbox_gauge import MailboxGauge
from supervisor.errors import BadMessage
from supervisor.linux import Process
from supervisor.protocol import codec, framing, runtime_dir
from supervisor.protocol.flow_control import Served
from supervisor.protocol.message_kinds import CREDIT, DOWN, MAILBOX, MAILBOX_BYTES, SERVED

log = logging.getLogger("supervisor")

_BACKLOG = 4096  # connections that wait to be accepted, at most net.core.somaxconn
_TURN = 16  # messages of one caller that are served before the next one's
_UNREAD = 1 << 20  # bytes of answers at which nothing is read of a caller until it reads them
_FAREWELL = 2.0  # seconds that the last answers to callers that do not read may take to leave
_SPARE = 8  # descriptors that are not used for connections
_RETRY = 1.0  # seconds until connections are accepted again after descriptors were short
_MOST_DESCRIPTORS = 64  # that one caller may have sent without a message that they belong to
_ANCILLARY = socket.CMSG_SPACE(_MOST_DESCRIPTORS * 4)
_NOTHING = object()
_NO_CHAIN: list[Any] = []


class Loop(Protocol):
    """An actor's loop."""

    def poll(self, fd: int, callback: Callable[[], None], mask: int) -> None:
        """Call back when a descriptor is ready."""

    def remove_reader(self, fd: int) -> None:
        """Poll it no longer."""

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Any:
        """Call a function later."""


class Held:
    """Messages of a process that a suspended actor has received and not served."""

    __slots__ = ("bytes", "messages")

    def __init__(self) -> None:
        self.messages = self.bytes = 0

    def add(self, sign: int, size: int) -> None:
        """Count one more, or by -1 one less."""
        self.messages += sign
        self.bytes += sign * size

    def is_beyond(self) -> bool:
        """Tell whether more is held than a caller can have sent within its credit.

        The bound is twice the credit. A caller may have closed an idle connection, of which a
        whole credit's messages are held, and have a whole credit again on a new connection.
        """
        return self.messages > 2 * MAILBOX or self.bytes > 2 * MAILBOX_BYTES


class Peer:
    """The connection of one caller."""

    def __init__(self, number: int, sock: socket.socket) -> None:
        self.number = number
        self.sock = sock
        self.pid, self.user = framing.peer_of(sock)
        self.terms = codec.terms(framing.INLINE, framing.CHUNK)
        self.read = 0
        """Bytes of the messages that were taken of it."""
        self.fed = 0
        """Bytes that came on the connection."""
        self.fds: deque[int] = deque()
        self.served = Served()
        self.held = Held()
        """Shared with other connections of the same process."""
        self.silent = True
        self.in_turn = False
        self.gone = False
        self.unsent = bytearray()
        """Answers for which the kernel had no room."""
        self.waits = False
        """Whether it was taken out of turn because it does not read its answers."""
        self.mask = 0
        """What the loop polls it for."""
        self.next: Peer | None = None
        """A later connection of the same process, whose messages come after all of these."""


Message = tuple[Peer, int, int, Any, list[Any]]
"""Who sent it, its kind, number (0: no answer is expected), term, and who waits for it."""


class Mailbox:
    """Receives messages and sends answers."""

    def __init__(
        self, process: Process, who: object, loop: Loop, gone: Callable[[Peer], None]
    ) -> None:
        """Listen; ``gone`` is called for each connection of ``who`` that has ended."""
        self._who = who
        self._path = runtime_dir.mailbox(process)
        self._path.unlink(missing_ok=True)  # of a process of a former boot with the same numbers
        self._loop = loop
        self._gone = gone
        self._numbers = itertools.count(1)
        self._peers: dict[int, Peer] = {}
        self._newest: dict[int, Peer] = {}
        self._held_of: dict[int, Held] = {}
        self._turns: deque[Peer] = deque()
        self._left = _TURN
        self._gauge = MailboxGauge()
        self._words = self._gauge.words
        self._waiting = 0
        """Bytes that were read and not served yet."""
        self._held: deque[tuple[Message, int]] = deque()
        """Messages that a suspended actor has received, and their bytes."""
        # Only root, and the user who has started this process, are served. The kernel keeps that
        # user in this socket's SO_PEERCRED, though the process may change its user later. Within a
        # user namespace the kernel translates both uids that are compared in the same way.
        self._of_this_user, other = socket.socketpair()
        other.close()
        self._listener = self._new_listener()
        self._listen()
        _open.add(self)

    # -- connections -------------------------------------------------------------------------------

    def _new_listener(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.settimeout(0)
            listener.bind(str(self._path))
            # Other users must not connect (connect(2) needs the write permission). Between bind
            # and chmod nobody can connect, as the socket does not listen yet. The umask may have
            # denied this user, too.
            self._path.chmod(0o600)
            self._node = os.lstat(self._path)
            listener.listen(_BACKLOG)
        except BaseException:
            listener.close()
            raise
        return listener

    def restore(self) -> None:
        """Listen at the path again, from which the socket was removed with the directory.

        What is there may be a copy of the socket, at which nobody listens.
        """
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.lstat(self._path), self._node):
                return
            self._path.unlink()
        former, self._listener = self._listener, self._new_listener()
        self._loop.remove_reader(former.fileno())
        with contextlib.suppress(OSError):
            while True:  # those who had connected already
                self._admit(former.accept()[0])
        former.close()
        self._listen()

    def _listen(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.poll(self._listener.fileno(), self._accept, select.EPOLLIN)

    def _accept(self) -> None:
        while True:
            try:
                self._check_descriptors()
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}:
                    raise
                self._cannot_accept(error)
                return
            self._admit(sock)

    def _admit(self, sock: socket.socket) -> None:
        sock.settimeout(0)
        self._add(Peer(next(self._numbers), sock))

    def _add(self, peer: Peer) -> None:
        if peer.user not in (0, framing.peer_of(self._of_this_user)[1]):
            text = "%r: a connection of process %d, user %d, is refused"
            log.warning(text, self._who, peer.pid, peer.user)
            peer.sock.close()
            return
        framing.enlarge(peer.sock)
        former, self._newest[peer.pid] = self._newest.get(peer.pid), peer
        self._peers[peer.number] = peer
        peer.held = self._held_of.setdefault(peer.pid, peer.held)
        # A caller may have closed an idle connection, and opened this one. This one is read only
        # after the former one has ended, so that the caller's messages keep their order. Processes
        # of another pid namespace all have pid 0 here, and cannot be told apart.
        if former is not None and peer.pid and framing.has_hung_up(former.sock):
            former.next = peer
        else:
            self._poll(peer)

    def _cannot_accept(self, error: OSError) -> None:
        """Close who has connected and said nothing; if there is nobody, accept later."""
        for peer in [peer for peer in self._peers.values() if peer.silent and peer.mask]:
            self._read(peer)  # it may have sent something since it was accepted
        silent = [peer for peer in self._peers.values() if peer.silent and peer.mask]
        for peer in silent:  # a caller that sends later gets EPIPE, and connects again
            self._close(peer, f"it has sent nothing, and others need its descriptor ({error})")
        if not silent:
            log.error("%r: no new connection for %g s: %s", self._who, _RETRY, error)
            self._loop.remove_reader(self._listener.fileno())
            self._loop.call_later(_RETRY, self._listen)

    def _check_descriptors(self) -> None:
        """Keep some descriptors for what comes with messages, which the kernel would drop."""
        probe = os.dup(self._listener.fileno())
        os.close(probe)
        if probe >= resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _SPARE:
            inherited.raise_descriptors()
        if probe >= resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _SPARE:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    def _poll(self, peer: Peer) -> None:
        """Read of a caller unless it has sent more than its credit, or does not read itself."""
        reads = not peer.held.is_beyond() and len(peer.unsent) <= _UNREAD
        mask = (select.EPOLLIN if reads else 0) | (select.EPOLLOUT if peer.unsent else 0)
        if peer.gone or mask == peer.mask:
            return
        peer.mask = mask
        if mask:
            ready = self._read if mask == select.EPOLLIN else self._ready
            self._loop.poll(peer.sock.fileno(), functools.partial(ready, peer), mask)
        else:  # epoll reports EPOLLHUP even for an empty mask: the loop would never wait again
            self._loop.remove_reader(peer.sock.fileno())

    def _ready(self, peer: Peer) -> None:
        if peer.unsent:
            self._flush(peer)
        if peer.mask & select.EPOLLIN:
            self._read(peer)

    def _read(self, peer: Peer) -> None:
        if peer.in_turn:  # what it has sent before is served first
            return
        try:
            data, ancillary, flags, _ = peer.sock.recvmsg(
                framing.CHUNK, _ANCILLARY, framing.RECEIVE
            )
        except BlockingIOError:
            return
        except ConnectionError:
            data, ancillary, flags = b"", [], 0
        if ancillary:
            peer.fds.extend(framing.descriptors(ancillary))
        if flags & socket.MSG_CTRUNC or len(peer.fds) > _MOST_DESCRIPTORS:
            text = "it has sent more descriptors than may be open here (RLIMIT_NOFILE), or be sent"
            self._close(peer, text)
            return
        if not data:
            self._close(peer)
            return
        try:
            peer.terms.feed(data)
        except msgpack.BufferFull:
            self.refuse(peer, f"it has more than {framing.INLINE} bytes")
            return
        peer.silent, peer.in_turn = False, True
        self._turns.append(peer)
        peer.fed += len(data)
        self._waiting += len(data)
        self._words[0] = self._waiting

    def _close(self, peer: Peer, why: str | None = None) -> None:
        """Close a connection; if that is not the caller's own doing, say why."""
        if peer.gone:
            return
        if why is not None:
            text = "%r: the connection of process %d is closed: %s"
            log.warning(text, self._who, peer.pid, why)
        peer.gone = True
        self._waiting -= peer.fed - peer.read  # messages that are held stay
        self._words[0] = self._waiting
        self._loop.remove_reader(peer.sock.fileno())
        peer.sock.close()
        if peer.in_turn and not peer.waits:
            self._left = _TURN if self._turns[0] is peer else self._left
            self._turns.remove(peer)
        while peer.fds:
            os.close(peer.fds.pop())
        del self._peers[peer.number]
        if self._newest.get(peer.pid) is peer:
            del self._newest[peer.pid]
            self._forget_held(peer)
        if peer.next is not None:
            self._poll(peer.next)
        self._gone(peer)

    # -- messages ----------------------------------------------------------------------------------

    def has_messages(self, *, suspended: bool) -> bool:
        """Tell whether there may be messages that ``receive`` returns without a look at sockets."""
        return bool(self._turns or (self._held and not suspended))

    def receive(self, *, suspended: bool) -> Message | None:
        """Return the next message that has been read, or None.

        Args:
            suspended: calls, casts and messages are held back, in their order.
        """
        if self._held and not suspended:
            return self._receive_held()
        turns = self._turns
        while turns:
            peer = turns[0]
            if peer.unsent and self._suspend_if_unread(peer):
                continue
            before = peer.read
            try:
                term = next(peer.terms, _NOTHING)
                if term is _NOTHING:
                    turns.popleft()
                    peer.in_turn, self._left = False, _TURN
                    continue
                message, size = _message(peer, term)
            except (BadMessage, *codec.MALFORMED) as error:
                self._waiting -= peer.read - before
                self.refuse(peer, str(error) or type(error).__name__)
                continue
            self._waiting -= peer.read - before
            self._left -= 1
            if not self._left:
                self._left = _TURN
                turns.rotate(-1)
            if suspended and message[1] in SERVED:
                self._hold(message, size)
                self._words[0] = self._waiting
                continue
            self._words[0] = self._waiting
            if peer.served.count(size):
                self._give_credit(peer)
            return message
        return None

    def _suspend_if_unread(self, peer: Peer) -> bool:
        """If a caller does not read its answers, take it out of turn; return whether it was so."""
        if len(peer.unsent) <= _UNREAD:
            return False
        self._turns.popleft()
        peer.waits, self._left = True, _TURN
        return True

    def _hold(self, message: Message, size: int) -> None:
        peer = message[0]
        peer.held.add(1, size)
        self._waiting += size
        self._held.append((message, size))
        self._poll(peer)

    def _receive_held(self) -> Message:
        message, size = self._held.popleft()
        peer = message[0]
        peer.held.add(-1, size)
        self._waiting -= size
        self._words[0] = self._waiting
        self._poll(peer)
        self._forget_held(peer)
        if peer.served.count(size):
            self._give_credit(peer)
        return message

    def _forget_held(self, peer: Peer) -> None:
        if not peer.held.messages and peer.pid not in self._newest:
            self._held_of.pop(peer.pid, None)

    def _give_credit(self, peer: Peer) -> None:
        """Tell a sender how much of what it has sent was served."""
        self.answer(peer, CREDIT, 0, peer.served.tell())

    def refuse(self, peer: Peer, why: str) -> None:
        """Close the connection of whoever has sent what no caller of this package sends."""
        self._close(peer, f"malformed data has come, which no program of this package sends: {why}")

    # -- answers -----------------------------------------------------------------------------------

    def find(self, number: int) -> Peer | None:
        """Return the connection of this number, if it is still there."""
        return self._peers.get(number)

    def answer(self, peer: Peer | None, kind: int, number: int, term: Any) -> bool:
        """Send an answer; return False if its receiver has gone.

        Raises:
            TypeError, ValueError: the term cannot travel.
        """
        return self.send(peer, self.packed(kind, number, term))

    @staticmethod
    def packed(kind: int, number: int, term: Any) -> bytes:
        """Pack an answer. Raises as ``answer``."""
        return framing.frame(codec.pack_message(kind, number, term))

    def send(self, peer: Peer | None, data: bytes) -> bool:
        """Send a packed answer; return False if its receiver has gone."""
        if peer is None or peer.gone:
            return False
        sent = 0
        if not peer.unsent:
            try:
                sent = peer.sock.send(data, framing.FLAGS)
            except BlockingIOError:
                pass
            except ConnectionError:  # its end is read later, after all that it has sent
                return False
        if sent < len(data):
            peer.unsent += data[sent:]
            self._poll(peer)
        return True

    def _flush(self, peer: Peer) -> None:
        """Send some of what there was no room for."""
        try:
            del peer.unsent[: peer.sock.send(peer.unsent[:_UNREAD], framing.FLAGS)]
        except BlockingIOError:
            pass
        except ConnectionError:
            peer.unsent.clear()
        if peer.waits and len(peer.unsent) <= _UNREAD:
            peer.waits = False
            self._turns.append(peer)
        self._poll(peer)

    # -- the end -----------------------------------------------------------------------------------

    def close(self, reason: Any) -> None:
        """Tell every caller why this actor ends, and let the last answers leave.

        From now on connect(2) fails by ENOENT or ECONNREFUSED. The callers' connections stay open
        until the process ends. So a caller that reads end of file knows that the process has ended.
        """
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # whoever waits to be accepted is told as well
            self._accept()
        self._loop.remove_reader(self._listener.fileno())
        self._listener.close()
        for peer in list(self._peers.values()):
            self.answer(peer, DOWN, 0, reason)
        deadline = time.monotonic() + _FAREWELL
        while unsent := [peer for peer in self._peers.values() if peer.unsent]:
            poller = select.poll()
            for peer in unsent:
                poller.register(peer.sock, select.POLLOUT)
            if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
                text = "%r: %d callers did not read their last answers"
                log.warning(text, self._who, len(unsent))
                break
            for peer in unsent:
                self._flush(peer)

    def leave(self) -> None:
        """Close what a fork of this process has inherited: it is not this actor."""
        self._listener.close()
        self._gauge.close()
        self._of_this_user.close()
        for peer in self._peers.values():
            peer.sock.close()


def _message(peer: Peer, term: Any) -> tuple[Message, int]:
    """Return a message, and its bytes.

    Raises:
        BadMessage, ValueError: it is none.
    """
    end = peer.terms.tell()
    size, peer.read = end - peer.read, end
    if type(term) is int:  # the size of one in a memfd
        if not peer.fds:
            raise BadMessage("the memfd of a long message is missing")
        size, term = term, codec.unpack(framing.read_long(term, peer.fds.popleft()))
    chain = _NO_CHAIN
    if type(term) is list and len(term) == 4:
        chain = term.pop()
    if type(term) is not list or len(term) != 3 or type(chain) is not list:
        raise BadMessage(
            "a message is [kind, number, term], or that and a list of waiting processes"
        )
    kind, number, term = term
    if type(kind) is not int or type(number) is not int:
        raise BadMessage("the kind and the number of a message are integers")
    if chain and not all(type(n) is int for n in chain):
        raise BadMessage("waiting processes are pairs of a pid and a start time")
    return (peer, kind, number, term, chain), size


_open: weakref.WeakSet[Mailbox] = weakref.WeakSet()


def _after_fork() -> None:
    # Otherwise the callers of an actor that is killed would not be told while a fork of it lives.
    for mailbox in list(_open):
        mailbox.leave()
    _open.clear()


os.register_at_fork(after_in_child=_after_fork)
