"""A log from one worker to another: one writer, one reader, no lock.

It is a part of the pipeline's memory. Positions are bytes since the pipeline's start. A record lies
at its position modulo the log's size, in one piece: if it does not fit before the end, a word says
that the next lap begins. The writer knows by the reader's committed position what it may overwrite,
and the reader by the writer's what is there; see ``arena``.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

_HEAD = struct.Struct("<Q")
_LAP = (1 << 64) - 1  # in place of a record's size: go on at the beginning


def needed(size: int, head: int, capacity: int) -> int:
    """Return the bytes that a record takes in the log, with what is left free before it.

    Args:
        size: of the record.
        head: where it is to begin.
        capacity: of the log.
    """
    whole = _HEAD.size + -(-size // 8) * 8
    left = capacity - head % capacity
    return whole if whole <= left else left + whole


def needed_for(sizes: Sequence[int]) -> int:
    """Return the bytes that records take at most, wherever the first of them begins.

    Before each of them as much may be left free, at the end of the log, as it takes itself.
    """
    wholes = [_HEAD.size + -(-size // 8) * 8 for size in sizes]
    return sum(wholes) + max(wholes, default=0)


def most(capacity: int) -> int:
    """Return the bytes of the longest record that always fits into an empty log."""
    return capacity // 2 - _HEAD.size


def write(log: memoryview, head: int, parts: Sequence[bytes | memoryview], size: int) -> int:
    """Write a record for which there is room; return the position behind it.

    Args:
        log: the log's memory.
        head: where the record is to begin.
        parts: its bytes.
        size: how many.
    """
    capacity = len(log)
    start = head % capacity
    whole = _HEAD.size + -(-size // 8) * 8
    if whole > capacity - start:
        _HEAD.pack_into(log, start, _LAP)
        head += capacity - start
        start = 0
    _HEAD.pack_into(log, start, size)
    place = start + _HEAD.size
    for part in parts:
        end = place + len(part)
        log[place:end] = part
        place = end
    return head + whole


def read(log: memoryview, position: int) -> tuple[memoryview, int]:
    """Return the record at a position, where it lies, and the position behind it."""
    capacity = len(log)
    start = position % capacity
    (size,) = _HEAD.unpack_from(log, start)
    if size == _LAP:
        position += capacity - start
        start = 0
        (size,) = _HEAD.unpack_from(log, start)
    place = start + _HEAD.size
    return log[place : place + size], position + _HEAD.size + -(-size // 8) * 8
