"""A value that survives the process: in a memfd, of which the fd store keeps a duplicate.

A new value goes to the unused half of the file. Then one write switches to that half. So a process
that is killed between the two leaves the former value whole.
"""

from __future__ import annotations

import os
import struct
from typing import Any

import msgpack

_HEAD = struct.Struct("=II")  # which half, and how many bytes
HALF = 1 << 20
"""Bytes that a value has at most, packed."""
_START = 4096


def create(value: Any = None) -> int:
    """Return a memfd that holds a value."""
    fd = os.memfd_create("tuncer-value", os.MFD_CLOEXEC)
    os.ftruncate(fd, _START + 2 * HALF)
    if value is not None:
        save(fd, value)
    return fd


def load(fd: int) -> Any:
    """Return the value; None if there was none yet."""
    half, size = _HEAD.unpack(os.pread(fd, _HEAD.size, 0))
    return msgpack.unpackb(os.pread(fd, size, _START + half * HALF)) if size else None


def save(fd: int, value: Any) -> None:
    """Replace the value.

    Raises:
        ValueError: it has more than 1 MiB, packed.
        TypeError: it cannot be packed.
    """
    data = msgpack.packb(value)
    if len(data) > HALF:
        raise ValueError(f"a value has {HALF} bytes at most, packed, not {len(data)}")
    half = 1 - _HEAD.unpack(os.pread(fd, _HEAD.size, 0))[0]
    os.pwrite(fd, data, _START + half * HALF)
    os.pwrite(fd, _HEAD.pack(half, len(data)), 0)
