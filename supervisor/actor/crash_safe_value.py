"""A value that survives the process: in a memfd, of which the fd store keeps a duplicate.

A new value goes to the unused half of the file. Then one write switches to that half. So a process
that is killed between the two leaves the former value whole.
"""

from __future__ import annotations

import os
import struct
from typing import Any

from supervisor.protocol import codec

_HEAD = struct.Struct("=II")  # which half, and how many bytes
_START = 4096
_HALF = codec.LIMIT  # bytes of a packed value at most: the file has holes, and takes what is used


def create(value: Any = None) -> int:
    """Return a memfd that holds a value."""
    fd = os.memfd_create("supervisor-value", os.MFD_CLOEXEC)
    os.ftruncate(fd, _START + 2 * _HALF)
    if value is not None:
        save(fd, value)
    return fd


def load(fd: int) -> Any:
    """Return the value; None if there was none yet.

    Raises:
        ValueError: somebody else has written to the file.
    """
    head = os.pread(fd, _HEAD.size, 0)
    if len(head) < _HEAD.size:
        raise ValueError("the memfd of a value has been cut")
    half, size = _HEAD.unpack(head)
    return codec.unpack(os.pread(fd, size, _START + half * _HALF)) if size else None


def save(fd: int, value: Any) -> None:
    """Replace the value.

    Raises:
        TypeError, ValueError: it cannot be packed, or has more than 16 MiB packed.
        OSError: there is no memory for it.
    """
    save_packed(fd, codec.pack(value))


def save_packed(fd: int, data: bytes) -> None:
    """Replace the value by one that ``codec`` has packed already. Raises OSError as ``save``."""
    half = 1 - _HEAD.unpack(os.pread(fd, _HEAD.size, 0))[0]
    _write(fd, data, _START + half * _HALF)
    os.pwrite(fd, _HEAD.pack(half, len(data)), 0)


def _write(fd: int, data: bytes, place: int) -> None:
    written = 0
    while written < len(data):  # a lack of memory cuts it short: the next one tells
        written += os.pwrite(fd, data[written:], place + written)
