"""The sink of a pipeline that feeds another one, of this program or of another."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from supervisor import CallFuture, MailboxFull, NoProcess, ProcessDown, named
from tuncer.pipeline import records
from tuncer.pipeline.feed import BYTES, PACKETS, Position, Request, name_of
from tuncer.pipeline.records import in_bytes
from tuncer.pipeline.sinks import Sink
from tuncer.protocol.packet import Packet

log = logging.getLogger("tuncer")

_AGAIN = 0.05  # seconds until a pipeline that is away is looked for again


def requests(
    producer: bytes, position: Position, packets: Sequence[Packet]
) -> Iterator[tuple[Request, int]]:
    """Yield the requests that give packets to a pipeline, and how many packets each has."""
    left = list(packets)
    while left:
        some = left[:PACKETS]
        some = some[: in_bytes(some, BYTES)]
        record = b"".join(records.encode(some).parts)
        yield Request(producer, *position, record), len(some)
        position = position.behind(len(some))
        left = left[len(some) :]


class FeedSink(Sink):
    """Another pipeline. It commits packets before this one does, and knows which it has taken.

    Packets that this worker gives again after a kill are known there by their numbers. So it must
    give the same ones in the same order, or begin another epoch.

    While it is away, or has no room, the packets wait here, and the worker takes no others.
    """

    is_numbered = True

    def __init__(
        self, position: int, name: str, pipeline: str, producer: bytes, wake: Callable[[], None]
    ) -> None:
        super().__init__()
        self.position = position
        self._name, self._pipeline = name, pipeline
        self._producer, self._wake = producer, wake
        self._left: deque[Request] | None = None
        self._future: CallFuture | None = None
        self._is_away = False

    def offer(self, packets: Sequence[Packet]) -> bool:
        """Have the other pipeline take packets; tell whether it has committed all of them."""
        if self._left is None:
            told = requests(self._producer, Position.of(self.position), packets)
            self._left = deque(request for request, _ in told)
        while self._left:
            if self._future is None and not self._send(self._left[0]):
                return False
            assert self._future is not None
            if not self._future.done():
                return False
            if not self._answered():
                return False
            self._left.popleft()
        return True

    def _send(self, request: Request) -> bool:
        there = named(name_of(self._pipeline))
        try:
            self._future = there.call_async(request.term(), timeout=0)
        except (NoProcess, MailboxFull) as error:
            self._away(str(error))
            return False
        self._future.add_done_callback(lambda _: self._wake())
        return True

    def _answered(self) -> bool:
        """Tell whether the packets of the present request were taken."""
        future, self._future = self._future, None
        assert future is not None
        try:
            refused = future.result(0)
        except (NoProcess, ProcessDown) as error:
            refused = str(error)
        if refused:
            self._away(refused)
            return False
        if self._is_away:
            log.warning("sink %r: pipeline %r takes packets again", self._name, self._pipeline)
        self._is_away = False
        return True

    def _away(self, why: str) -> None:
        if not self._is_away:
            where = (self._name, self._pipeline)
            log.warning("sink %r: pipeline %r takes no packets: they wait: %s", *where, why)
        self._is_away = True

    def delay(self) -> float | None:
        """Return when to look for a pipeline that is away."""
        return _AGAIN if self._future is None else None

    def deliver(self, packets: Sequence[Packet]) -> int:
        """Move the position behind packets that were taken."""
        self.position = Position.of(self.position).behind(len(packets)).word()
        self._left = None
        return 0

    def given_up(self) -> None:
        """Begin another epoch: the other pipeline may have taken some of them."""
        self.position = Position.of(self.position).after_a_gap().word()
