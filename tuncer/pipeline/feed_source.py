"""The source of a pipeline that other processes feed."""

from __future__ import annotations

import hashlib
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tuncer.pipeline import records
from tuncer.pipeline.feed import Request, Taken, requested
from tuncer.pipeline.records import in_bytes
from tuncer.pipeline.sources import Source
from tuncer.protocol.packet import Packet

_DAMAGED = (struct.error, ValueError, IndexError, TypeError, UnicodeDecodeError)


@dataclass
class _Waiting:
    """A request that was not answered yet."""

    request: Request
    packets: list[Packet]
    answer: Callable[[str], object]
    taken: int = field(default=0)


class FeedSource(Source):
    """Packets of other processes. How far each of them was taken is kept, with the position."""

    is_shared = True

    def __init__(self, position: int, identity: int, kept: dict[bytes, list[int]] | None) -> None:
        super().__init__(position, identity)
        self._taken = Taken(kept)
        self._waiting: deque[_Waiting] = deque()
        self._done: list[_Waiting] = []
        self._ends: list[Callable[[str], object]] = []

    def kept(self) -> Any:
        """Return what is committed beside the position."""
        return self._taken.known

    def accept(self, term: list[Any], answer: Callable[[str], object]) -> None:
        """Take a request; the answer is "", or why its packets will not be taken.

        Raises:
            ValueError: it is malformed.
        """
        request = requested(term)
        if not request.record:
            self._ends.append(answer)
            return
        try:
            packets = records.decode(memoryview(request.record))
        except _DAMAGED as error:
            raise ValueError(f"this feeds no pipeline: {error!r:.100}") from None
        if not all(isinstance(packet, Packet) for packet in packets):
            raise ValueError("this feeds no pipeline: packets that go to sinks")
        self._waiting.append(_Waiting(request, packets, answer))  # type: ignore[arg-type]

    def read(self, most: int, most_bytes: int) -> list[Packet] | None:
        """Return packets of one request: in a hurry, of the producer that is wanted."""
        waiting = self._next()
        if waiting is None:
            return None if self._ends and not self._waiting else []
        found = waiting.packets[waiting.taken : waiting.taken + most]
        found = found[: in_bytes(found, most_bytes)]
        waiting.taken += len(found)
        request = waiting.request
        self._taken.take(request, request.number + waiting.taken)
        self.of = _hash(request.producer)
        self.position += len(found)
        if waiting.taken == len(waiting.packets):
            self._waiting.remove(waiting)
            self._done.append(waiting)
        return found

    def _next(self) -> _Waiting | None:
        """Return the next request of which there are packets that were not taken yet."""
        for waiting in list(self._waiting):
            if self.hurry and _hash(waiting.request.producer) != self.wanted:
                continue
            waiting.taken = max(waiting.taken, self._taken.already(waiting.request))
            if waiting.taken < len(waiting.packets):
                return waiting
            self._waiting.remove(waiting)  # all of it was committed by a predecessor
            waiting.answer("")
        return None

    def committed(self) -> None:
        """Answer the requests whose packets were all committed."""
        for waiting in self._done:
            waiting.answer("")
        self._done.clear()

    def ended(self) -> None:
        """Refuse what was not taken: the pipeline ends."""
        for waiting in self._waiting:
            waiting.answer("the pipeline ends")
        for answer in self._ends:
            answer("")
        self._waiting.clear()
        self._ends.clear()

    def fileno(self) -> int:
        """Return -1: requests come as messages."""
        return -1


def _hash(producer: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(producer, digest_size=7).digest(), "big")
