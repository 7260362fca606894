"""A caller's end of a connection to a mailbox: what the kernel knows of it, and its credit."""

from __future__ import annotations

import contextlib
import enum
import errno
import functools
import os
import socket
import struct
import termios
import time
from collections import deque
from collections.abc import Callable
from fcntl import ioctl

from supervisor import linux
from supervisor.errors import KILLED, MailboxFull, NoProcess, Reason, reason_of
from supervisor.linux import Process
from supervisor.protocol import codec, framing, restoration, runtime_dir
from supervisor.protocol.flow_control import Credit
from supervisor.protocol.message_kinds import SERVED

_BACKLOG = 5  # seconds that the mailbox of an actor which is stopped may not accept a connection
_DYING = 1.0  # seconds at most from the end of a connection to its process's
_END = object()


class Lack(enum.Enum):
    """What a message lacks that cannot be sent now."""

    CALLS = "there are as many calls under way as may be"
    CREDIT = "the mailbox's bound is reached"
    BUFFER = "the kernel has no room for it"
    DESCRIPTORS = "the user has as many descriptors under way as may be"


class CallerSocket:
    """A connected socket, and the answers that have been read from it."""

    def __init__(self, process: Process, new: Callable[[], socket.socket]) -> None:
        """Connect a new socket to a process's mailbox.

        Raises:
            NoProcess: the process has ended.
            MailboxFull: it has not accepted a connection in time.
            OSError: its mailbox cannot be reached.
        """
        self._process = process
        self._sock = new()
        try:
            path = str(runtime_dir.mailbox(process))
            self._connect(path)
            self._check_who_listens(path)
        except BaseException:
            self._sock.close()
            raise
        self._inline = framing.longest_inline(self._sock)
        self.credit = Credit()
        self.arrived: deque[bytes] = deque()
        """Answers that have been read, and not been taken."""
        self._frames = framing.frames(codec.LIMIT)
        read = functools.partial(self._sock.recv, framing.CHUNK, framing.FLAGS)
        # Each step of this reads a chunk and feeds it, within one call of C.
        self._reading = map(self._frames.feed, iter(read, b""))

    def _connect(self, path: str) -> None:
        pid, deadline = self._process.pid, time.monotonic() + restoration.PATIENCE
        try:
            while not self._try_to_connect(path):
                # If the process lives, it restores a mailbox that somebody has removed with the
                # directory; or it has closed its mailbox, and is about to end.
                if not linux.alive(self._process):
                    raise NoProcess(f"process {pid} has ended")
                if time.monotonic() > deadline:
                    raise NoProcess(f"process {pid} does not listen at {path}")
                time.sleep(restoration.STEP)
        except BlockingIOError:
            raise MailboxFull(f"process {pid} accepts no connection") from None
        except OSError as error:
            text = f"the mailbox of process {pid} cannot be reached: {error.strerror}"
            if isinstance(error, PermissionError):
                text += ": it belongs to another user; a program that gives up its privileges calls"
                text += " its actors once before that, and connections stay"
            raise OSError(error.errno, text, path) from None

    def _try_to_connect(self, path: str) -> bool:
        """Connect; return False if nobody listens."""
        self._sock.settimeout(0)
        try:
            self._sock.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except BlockingIOError:  # the backlog is full
            self._connect_later(path)
        return True

    def _check_who_listens(self, path: str) -> None:
        """Refuse a process that has made the runtime directory after a removal, to get messages."""
        pid, listens = self._process.pid, framing.peer_of(self._sock)[0]
        if listens != pid:
            raise NoProcess(f"process {pid} does not listen at {path}, but process {listens} does")

    def _connect_later(self, path: str) -> None:
        """Wait, up to ``_BACKLOG`` seconds, for room in the backlog of the mailbox (SO_SNDTIMEO).

        After a signal Python's ``connect`` may return though the socket is not connected. So
        getpeername(2) tells whether it is.
        """
        deadline = time.monotonic() + _BACKLOG
        self._sock.settimeout(None)
        while (seconds := deadline - time.monotonic()) > 0:
            patience = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6) + 1)  # struct timeval
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)
            self._sock.connect(path)
            with contextlib.suppress(OSError):
                self._sock.getpeername()
                return
        raise BlockingIOError(errno.EAGAIN, "the backlog is full")

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return self._sock.fileno()

    def send(self, kind: int, data: bytes) -> Lack | None:
        """Send a packed message, or return what it lacks.

        Raises:
            BrokenPipeError, ConnectionResetError: the actor has closed the connection.
        """
        size, credit = len(data), self.credit
        end = credit.sent_bytes + size
        if (credit.sent >= credit.most or end > credit.most_bytes) and kind in SERVED:
            return Lack.CREDIT
        try:
            if size <= self._inline:
                self._sock.send(data, framing.FLAGS)
            else:
                framing.send_long(self._sock, data)
        except BlockingIOError as error:
            return Lack.DESCRIPTORS if error.errno == errno.ETOOMANYREFS else Lack.BUFFER
        credit.sent += 1
        credit.sent_bytes = end
        return None

    def read(self) -> bool:
        """Read a chunk of answers, and tell whether that was the end.

        Raises:
            BlockingIOError: there is nothing.
        """
        try:
            end = next(self._reading, _END) is _END
        except ConnectionResetError:  # told after all that was sent, if something was left unread
            end = True
        self.collect()
        return end

    def collect(self) -> None:
        """Add to ``arrived`` what has been read in whole."""
        self.arrived.extend(self._frames)

    def has_hung_up(self) -> bool:
        """Tell whether the other side has closed its end."""
        return framing.has_hung_up(self._sock)

    def is_idle(self, *, unread: bool) -> bool:
        """Tell whether the actor has served what was sent, as far as it has told.

        Args:
            unread: although some of it may not have been read yet (SIOCOUTQ of unix(7)).
        """
        if not self.credit.is_whole():
            return False
        return unread or ioctl(self._sock, termios.TIOCOUTQ, b"\0" * 4) == b"\0" * 4

    def reason(self) -> Reason | None:
        """After end of file: return the reason by the exit status of the process.

        This waits up to a second for the process's end. When a process exits, the kernel first
        closes its sockets, and a moment later reports its end to those who wait for it.

        Returns:
            None if the process lives on, and only the connection was closed.
        """
        linux.wait_if_dying(self._process, _DYING)
        pidfd, status = framing.peer_pidfd(self._sock), None
        with contextlib.suppress(ProcessLookupError):  # it was reaped already
            pidfd = linux.open_process(self._process) if pidfd is None else pidfd
            try:
                if not linux.ended(pidfd):
                    return None
                status = linux.exit_status(pidfd, self._process.pid)
            finally:
                os.close(pidfd)
        # A killed process leaves its socket, and perhaps nobody else removes it. The path holds
        # pid and start time, so it cannot be another process's.
        with contextlib.suppress(OSError):
            runtime_dir.mailbox(self._process).unlink(missing_ok=True)
        return KILLED if status is None else reason_of(os.waitstatus_to_exitcode(status))

    def close(self) -> None:
        """Close it. What was sent arrives."""
        self._sock.close()
