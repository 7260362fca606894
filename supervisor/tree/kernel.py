"""What the kernel knows of actors: memory, unread bytes in mailboxes, supervisors' marks."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections import Counter

from supervisor import linux

_SOCK_DIAG_BY_FAMILY = 20
_REQUEST_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_SHOW = 0x01 | 0x10  # UDIAG_SHOW_NAME, UDIAG_SHOW_RQLEN
_NAME, _RQLEN = 0, 4  # UNIX_DIAG_NAME, UNIX_DIAG_RQLEN
_ESTABLISHED = 1
_HEADER = struct.Struct("=IHHII")
_QUERY = struct.Struct("=BBHIIIII")
_FOUND = struct.Struct("=BBBBIII")
_ATTRIBUTE = struct.Struct("=HH")


def unread_bytes() -> dict[str, int]:
    """Return how many bytes wait in the sockets of this network namespace, by the socket's path.

    A mailbox's connections have its path. Source: sock_diag(7), ``linux/unix_diag.h``.

    Returns:
        Nothing if the kernel does not tell.
    """
    found: Counter[str] = Counter()
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 4) as sock:
            query = _QUERY.pack(socket.AF_UNIX, 0, 0, 1 << _ESTABLISHED, 0, _SHOW, 0, 0)
            size = _HEADER.size + len(query)
            sock.send(_HEADER.pack(size, _SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP, 1, 0) + query)
            while _take(sock.recv(1 << 20), found):
                pass
    except OSError:
        return {}
    return dict(found)


def _take(data: bytes, found: Counter[str]) -> bool:
    """Take a part of the answer; return whether more is to come."""
    place = 0
    while place < len(data):
        size, kind, *_ = _HEADER.unpack_from(data, place)
        if kind in (_NLMSG_ERROR, _NLMSG_DONE):
            return False
        path, unread = _read(data[place + _HEADER.size + _FOUND.size : place + size])
        if path:
            found[path] += unread
        place += (size + 3) & ~3
    return True


def _read(attributes: bytes) -> tuple[str, int]:
    path, unread, place = "", 0, 0
    while place + _ATTRIBUTE.size <= len(attributes):
        size, kind = _ATTRIBUTE.unpack_from(attributes, place)
        content = attributes[place + _ATTRIBUTE.size : place + size]
        if kind == _NAME:
            path = content.rstrip(b"\0").decode(errors="replace")
        elif kind == _RQLEN:
            (unread,) = struct.unpack_from("=I", content)
        place += max((size + 3) & ~3, _ATTRIBUTE.size)
    return path, unread


def memory(pid: int) -> int | None:
    """Return a process's share of memory, in bytes (PSS); None if it may not be known."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup", "rb") as file:
        for line in file:
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
    return None


def is_supervisor(pid: int) -> bool:
    """Tell whether a process is a supervisor, by the memfd that each has open."""
    return _memfd(pid, linux.SUPERVISOR_MARK) is not None


def unserved_bytes(pid: int) -> int | None:
    """Return the bytes of messages that an actor has read and not served yet, as it tells itself.

    Returns:
        None if this user may not look at it.
    """
    path = _memfd(pid, linux.MAILBOX_GAUGE)
    if path is None:
        return None
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return int.from_bytes(file.read(8), "little")
    return None


def _memfd(pid: int, name: str) -> str | None:
    """Return the path of a memfd of this name that a process has open."""
    mark = f"/memfd:{name} (deleted)"
    with contextlib.suppress(OSError):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            path = f"/proc/{pid}/fd/{fd}"
            with contextlib.suppress(OSError):
                if os.readlink(path) == mark:
                    return path
    return None


def uptime(process: linux.Process) -> float:
    """Return the seconds since a process began; its start is in clock ticks since the boot."""
    with open("/proc/uptime", encoding="ascii") as file:
        now = float(file.read().split()[0])
    return max(0.0, now - process.start / os.sysconf("SC_CLK_TCK"))


def title(pid: int) -> str:
    """Return the name that a process has given itself (PR_SET_NAME)."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/comm", encoding="utf-8") as file:
        return file.read().rstrip("\n")
    return ""
