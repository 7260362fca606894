"""Packets that other processes give to a pipeline's source: what is said, and what was taken. Pure.

Whoever feeds a pipeline sends a request with packets, and waits for its answer before it sends the
next one. The source answers when what came of all these packets is committed. If the source is
killed meanwhile, the request is sent again. The source knows by the producer's name and the number
of the first packet which of them it has taken already: so none comes twice.
"""

from __future__ import annotations

from typing import Any, NamedTuple

FEED = "pipeline feed"
"""The first part of a request."""

PACKETS, BYTES = 256, 1 << 20
"""Of a request, at most; one packet may have more bytes."""

_PRODUCERS = 256  # of which a source knows how far they were taken
_NAME = 100  # bytes of a producer's name
_NUMBER_BITS = 48  # of a position: the next packet's number; above them the epoch
_NUMBERS = (1 << _NUMBER_BITS) - 1
_EPOCHS = 1 << 64 - _NUMBER_BITS


def name_of(pipeline: str) -> str:
    """Return the name under which the worker of a pipeline's feed is registered."""
    return f"{pipeline} feed"


class Request(NamedTuple):
    """Packets for a pipeline; none: no more will come, of anybody."""

    producer: bytes
    """Who sends them: a name that no other producer has."""
    epoch: int
    """In another epoch nothing that was sent before comes again."""
    number: int
    """Of the first packet, as the producer counts in this epoch."""
    record: bytes
    """The packets, as of ``records``."""

    def term(self) -> list[Any]:
        """Return the term that travels."""
        return [FEED, *self]


END = Request(b"", 0, 0, b"")
"""Says that no more packets come."""


def is_request(term: Any) -> bool:
    """Tell whether a term is a request, well-formed or not."""
    return isinstance(term, list) and bool(term) and term[0] == FEED


def requested(term: list[Any]) -> Request:
    """Return the request of a term.

    Raises:
        ValueError: it is malformed.
    """
    match term:
        case [_, bytes() as producer, int() as epoch, int() as number, bytes() as record] if (
            len(producer) <= _NAME and epoch >= 0 and number >= 0
        ):
            return Request(producer, epoch, number, record)
    raise ValueError(f"this feeds no pipeline: {term!r:.100}")


class Taken:
    """How far the packets of each producer were taken: the latest producers', so many."""

    def __init__(self, known: dict[bytes, list[int]] | None = None) -> None:
        self.known = known or {}
        """By producer: the epoch, and the number of the next packet."""

    def already(self, request: Request) -> int:
        """Return how many packets before the one with a higher number than these were taken."""
        epoch, number = self.known.get(request.producer, (-1, 0))
        return max(0, number - request.number) if epoch == request.epoch else 0

    def take(self, request: Request, number: int) -> None:
        """Note that the packets of a producer were taken, up to this number."""
        self.known.pop(request.producer, None)
        self.known[request.producer] = [request.epoch, number]
        if len(self.known) > _PRODUCERS:
            del self.known[next(iter(self.known))]


class Position(NamedTuple):
    """What a sink that feeds another pipeline commits."""

    epoch: int
    number: int

    def word(self) -> int:
        """Return it as one word."""
        return self.epoch << _NUMBER_BITS | self.number

    @classmethod
    def of(cls, word: int) -> Position:
        """Return the position of a word."""
        return cls(word >> _NUMBER_BITS, word & _NUMBERS)

    def behind(self, packets: int) -> Position:
        """Return the position behind so many packets more."""
        return self._replace(number=self.number + packets)

    def after_a_gap(self) -> Position:
        """Return the position after packets that may have been delivered, and are given up.

        They are not sent again, so that those which follow must not be taken for them.
        """
        return Position((self.epoch + 1) % _EPOCHS, self.number)
