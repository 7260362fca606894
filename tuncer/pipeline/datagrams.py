"""The flows of datagrams that came in fragments, in a pipeline's memory: a hash table.

Only the first fragment of a datagram tells its flow, so whoever shares packets out by flow has to
remember it. Here it survives a kill. What is stored is true of a packet, whatever becomes of the
transaction, so it is not part of the commit.

The table is set-associative: a datagram's hash says in which set it is, and a set has eight ways.
First in a set are the digests of its datagrams, 0 in a way that is empty; then when each was
stored; then the flows, each behind its length.
"""

from __future__ import annotations

import hashlib
import time

_SETS, WAYS = 512, 8
_WORD = 8  # bytes of a digest, and of a time
_FLOW = 48  # bytes for a flow, with its length
_TIMES, _FLOWS = WAYS * _WORD, 2 * WAYS * _WORD  # where they begin in a set
_SET = _FLOWS + WAYS * _FLOW
SIZE = _SETS * _SET
"""Bytes of the table. Those that were never used take no memory."""


class SharedDatagrams:
    """What ``headers.FlowsOfDatagrams`` is, in memory that a successor maps as well.

    A datagram displaces the oldest one of a full set. A kill in the middle of a store leaves the
    way empty.
    """

    def __init__(self, memory: memoryview, key: bytes) -> None:
        """Take memory of ``SIZE`` bytes, zeros at first; this process alone writes it.

        Args:
            memory: the table.
            key: a secret of the pipeline: nobody else can choose datagrams that share a set.
        """
        self._memory, self._key = memory, key

    def get(self, datagram: bytes) -> bytes | None:
        """Return the flow of a datagram, if it is known."""
        digest, at = place_of(datagram, self._key)
        way = self._way(digest, at)
        if way is None:
            return None
        start = at + _FLOWS + way * _FLOW
        size = min(self._memory[start], _FLOW - 1)
        return bytes(self._memory[start + 1 : start + 1 + size])

    def put(self, datagram: bytes, flow: bytes) -> None:
        """Take note of the flow of a datagram."""
        digest, at = place_of(datagram, self._key)
        way = self._way(digest, at)
        if way is None:
            way = self._way(bytes(_WORD), at)
        if way is None:
            way = min(range(WAYS), key=lambda one: self._time(at, one))
        memory, place = self._memory, at + way * _WORD
        memory[place : place + _WORD] = bytes(_WORD)
        now = time.monotonic_ns().to_bytes(_WORD, "little")
        memory[place + _TIMES : place + _TIMES + _WORD] = now
        start = at + _FLOWS + way * _FLOW
        memory[start : start + 1 + len(flow)] = bytes([len(flow)]) + flow
        memory[place : place + _WORD] = digest

    def _way(self, digest: bytes, at: int) -> int | None:
        """Return which way of a set has a digest."""
        digests = bytes(self._memory[at : at + _TIMES])
        return next((n for n in range(WAYS) if digests.startswith(digest, n * _WORD)), None)

    def _time(self, at: int, way: int) -> int:
        place = at + _TIMES + way * _WORD
        return int.from_bytes(self._memory[place : place + _WORD], "little")


def place_of(datagram: bytes, key: bytes) -> tuple[bytes, int]:
    """Return the digest of a datagram, which is not 0, and where its set begins."""
    digest = hashlib.blake2b(datagram, digest_size=_WORD, key=key).digest()
    at = int.from_bytes(digest, "little") % _SETS * _SET
    return digest if any(digest) else b"\1" + digest[1:], at
