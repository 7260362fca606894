"""How messages travel on the Unix stream socket between a caller and a mailbox (unix(7)).

A message of a caller is a term of msgpack. The kernel takes it whole or not at all, since it fits
one socket buffer; so neither a full mailbox, nor a signal's handler, nor an exception leaves half
of it behind. A longer message waits in a memfd: its size is sent in its place, and its descriptor
goes along (SCM_RIGHTS).

An actor's answers, whose loop can wait, are of any length. Each is a frame: a msgpack bin with the
packed answer in it. A caller takes frames apart within one call of C, in which no signal's handler
runs, and decodes an answer after that.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import select
import socket
import struct

import msgpack

from supervisor.protocol import codec

FLAGS = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
RECEIVE = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
INLINE = 32 << 10
"""Bytes of a message at most that a caller sends as it is."""
CHUNK = 64 << 10
"""Bytes that are read at a time."""

_BUFFER = 32 << 20  # bytes; the kernel doubles it, for what a buffer takes besides its content
_SO_SNDBUFFORCE = 32  # of asm-generic/socket.h: beyond net.core.wmem_max, with CAP_NET_ADMIN
_SO_PEERPIDFD = 77  # of asm-generic/socket.h, since Linux 6.5
_CREDENTIALS = struct.Struct("iII")  # struct ucred of unix(7): pid, uid, gid
_SHORT = 256  # a bin of less has a head of two bytes
_SHORT_HEADS = [bytes([0xC4, size]) for size in range(_SHORT)]
_HEAD = struct.Struct(">BI")  # of a bin 32
_HEADS = 64  # bytes at least that the kernel leaves free of half a buffer
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


def new_socket() -> socket.socket:
    """Return a socket whose buffer holds what one sender may have in a mailbox.

    An ordinary user gets as much as ``net.core.wmem_max`` allows, see socket(7).
    """
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    enlarge(made)
    return made


def enlarge(sock: socket.socket) -> None:
    """Let a socket's buffer hold what one sender may have in a mailbox, as far as allowed."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _BUFFER)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)


def peer_of(sock: socket.socket) -> tuple[int, int]:
    """Return pid and uid of the process that has connected, or listens, as of that moment."""
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(data)
    return pid, uid


def peer_pidfd(sock: socket.socket) -> int | None:
    """Return a pidfd of the process that listens; None if the kernel cannot, or it has gone."""
    try:
        fd = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError:
        return None
    os.set_inheritable(fd, False)
    return fd


def has_hung_up(sock: socket.socket) -> bool:
    """Tell whether the other side has closed its end: what it has sent may still be unread."""
    poller = select.poll()
    poller.register(sock, select.POLLRDHUP)
    return bool(poller.poll(0))


def frame(data: bytes) -> bytes:
    """Return the frame of a packed answer."""
    size = len(data)
    return _SHORT_HEADS[size] + data if size < _SHORT else _HEAD.pack(0xC6, size) + data


def frames(longest: int) -> msgpack.Unpacker:
    """Return an iterator over the packed answers in what is fed to it; it refuses all but frames.

    Args:
        longest: bytes of an answer at most.
    """
    return msgpack.Unpacker(
        max_buffer_size=longest + 2 * CHUNK,
        max_bin_len=longest,
        max_str_len=0,
        max_array_len=0,
        max_map_len=0,
        max_ext_len=0,
    )


def longest_inline(sock: socket.socket) -> int:
    """Return the bytes of a message at most that the kernel takes as a whole.

    It makes one buffer of up to 32 KiB, and no larger than half of what a socket may have; that is
    less only where ``net.core.wmem_max`` is very small.
    """
    buffer = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    return min(INLINE, buffer // 2 - 2 * _HEADS)


def send_long(sock: socket.socket, data: bytes) -> None:
    """Send a message that is too long to be sent as it is: all of it, or nothing.

    Raises:
        BlockingIOError: there is no room for it, or (ETOOMANYREFS) for its descriptor.
        BrokenPipeError, ConnectionResetError: the other side has closed the connection.
    """
    fd = os.memfd_create("message", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        _fill(fd, data)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))
        sock.sendmsg([codec.pack(len(data))], [rights], FLAGS)
    except OSError as error:
        if error.errno == errno.ETOOMANYREFS:  # this user's descriptors under way, of unix(7)
            raise BlockingIOError(*error.args) from error
        raise
    finally:
        os.close(fd)


def _fill(fd: int, data: bytes) -> None:
    if os.write(fd, data) != len(data):  # RLIMIT_FSIZE holds for memfds too
        raise OSError(errno.EFBIG, f"a message of {len(data)} bytes is over RLIMIT_FSIZE")


def descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """Return the descriptors that have come with what was received, by ``recvmsg``."""
    fds = array.array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    return list(fds)


def read_long(size: object, fd: int) -> bytes:
    """Return a message from the memfd that came with its size, and close that.

    Raises:
        ValueError: the descriptor is no memfd that keeps its content, or the size is not its own.
    """
    try:
        if type(size) is not int or not 0 < size <= codec.LIMIT:
            raise ValueError(f"a message in a memfd has at most {codec.LIMIT} bytes")
        # Of anything but a memfd, a pipe or a terminal say, a read could wait for ever.
        if fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
            raise ValueError("the memfd of a message is not sealed")
        data = os.pread(fd, size, 0)
    except OSError as error:
        raise ValueError(f"the descriptor of a message is no memfd: {error}") from error
    finally:
        os.close(fd)
    if len(data) != size:
        raise ValueError(f"a message of {size} bytes has {len(data)}")
    return data
