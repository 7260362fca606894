"""The outputs of a worker: the logs of the workers behind it, among which it shares packets out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from supervisor.lowlevel import load_reference
from tuncer.pipeline import edge_log, plan, records, shards
from tuncer.pipeline.arena import Arena
from tuncer.pipeline.datagrams import SharedDatagrams
from tuncer.pipeline.hand import NOTHING, Hand
from tuncer.pipeline.plan import Edge, Plan
from tuncer.pipeline.records import Item, Record
from tuncer.pipeline.tracing import Trace
from tuncer.protocol.packet import Packet

Wanted = list[tuple[int, list[Record]]]
"""Outputs, and records that are to be written to them."""


class Outputs:
    """The outputs of a worker; of one of the last segment there are none."""

    def __init__(
        self,
        of: Plan,
        number: int,
        arena: Arena,
        words: list[int],
        without_key: Callable[[Packet, Exception], Item | None],
    ) -> None:
        """Begin.

        Args:
            of: the pipeline's plan.
            number: the worker's.
            arena: the pipeline's memory.
            words: that the worker's next commit puts in force.
            without_key: takes a packet for which the function of ``by=`` raises; what it returns
                goes on instead.
        """
        self._plan = of
        self._edges = of.outputs(number)
        self.consumers = [edge.consumer for edge in self._edges]
        """The workers that read the outputs, in the order of these."""
        self._slot, self._words = of.slot(number), words
        self._logs = [arena.log(edge.log) for edge in self._edges]
        self._pages = [arena.page(edge.consumer) for edge in self._edges]
        self._places = [_place_of_tail(of, edge) for edge in self._edges]
        segment = of.places[number].segment
        own = of.segments[segment]
        self.is_ordered = own.by == "ordered" and own.workers > 1
        """Whether the next segment restores an order by the tickets of what this worker takes."""
        self._gives_tickets = False
        self._datagrams = SharedDatagrams(arena.page(number).datagrams, arena.identity)
        self._share = self._sharing(of.next_by(of.places[number]), without_key)

    def _sharing(
        self, by: str | None, without_key: Callable[[Packet, Exception], Item | None]
    ) -> Callable[[Sequence[Item]], shards.Shares]:
        """Return what shares packets out among the workers of the next segment."""
        workers = len(self._edges)
        if workers == 0:
            return lambda _: []
        if by is None or by == "any":
            return self._to_any
        if by == "ordered":
            self._gives_tickets = True
            return self._to_next
        if by == "flow":
            return shards.by_flow(workers, self._datagrams)
        return shards.by_key(workers, load_reference(by), without_key)

    def _to_any(self, items: Sequence[Item]) -> shards.Shares:
        """Give packets to the worker that has the least to do."""
        workers = len(self._edges)
        least = min(range(workers), key=self._filled) if workers > 1 else 0
        return shards.to_one(least, workers, items)

    def _to_next(self, items: Sequence[Item]) -> shards.Shares:
        """Give packets to the worker whose turn it is."""
        workers = len(self._edges)
        return shards.to_one(self._words[plan.TICKET] % workers, workers, items)

    # -- records -----------------------------------------------------------------------------------

    def records_of(self, hand: Hand, items: list[Item], trace: Trace | None) -> Wanted:
        """Return which records go to which output.

        Args:
            hand: of which the packets have come.
            items: what goes on.
            trace: of this transaction, if anybody traces it.

        Raises:
            ValueError: an output has no room for so much at once, at any time.
        """
        ticket, is_last = 0, True
        if self._gives_tickets:
            ticket = self._words[plan.TICKET]
        elif self.is_ordered:
            ticket, is_last = hand.ticket, hand.is_last
        # An order is restored by tickets: the last one of its ticket is told, though it is empty.
        is_told = self.is_ordered and hand.is_last and hand.input != NOTHING
        shares = self._share(items)
        if trace is not None:
            trace.shared_out(shares)
        return [
            (number, self._encoded(share, ticket, is_last=is_last))
            for number, share in enumerate(shares)
            if share or is_told
        ]

    def _encoded(self, items: list[Item], ticket: int, *, is_last: bool) -> list[Record]:
        """Return records of packets, each of which fits into an empty log.

        Raises:
            ValueError: all of them together do not.
        """
        most = edge_log.most(self._plan.log_bytes)
        found = [records.encode(items, ticket, is_last=is_last)]
        if found[0].size > most and len(items) > 1:
            half = len(items) // 2
            found = self._encoded(items[:half], ticket, is_last=False)
            found += self._encoded(items[half:], ticket, is_last=is_last)
        if edge_log.needed_for([record.size for record in found]) > self._plan.log_bytes:
            raise ValueError(
                f"{sum(record.size for record in found)} bytes are to go on at once, and an edge of"
                f" {self._plan.log_bytes} bytes takes half of that for sure: give the pipeline more"
                " log_bytes="
            )
        return found

    # -- room --------------------------------------------------------------------------------------

    def full(self, wanted: Wanted) -> set[int]:
        """Return the outputs that have no room yet for what is to be written to them."""
        return {number for number, several in wanted if not self._has_room(number, several)}

    def _has_room(self, number: int, several: list[Record]) -> bool:
        begin = head = self._words[self._slot.output(number) + plan.HEAD]
        capacity = self._plan.log_bytes
        for record in several:
            head += edge_log.needed(record.size, head, capacity)
        return head - begin <= capacity - self._filled(number)

    def _filled(self, number: int) -> int:
        """Return how many bytes in an output its consumer has not done with."""
        position = self._pages[number].read(self._places[number], 1)[0]
        return self._words[self._slot.output(number) + plan.HEAD] - position

    # -- writing -----------------------------------------------------------------------------------

    def write(self, wanted: Wanted, shed: set[int], trace: Trace | None) -> None:
        """Write records behind the heads that others see; what is to be shed is counted."""
        words = self._words
        if self._gives_tickets and wanted:
            words[plan.TICKET] += 1
        for number, several in wanted:
            at, edge = self._slot.output(number), self._edges[number]
            packets = sum(record.packets for record in several)
            if trace is not None:
                trace.put(number, self._plan.id(edge.consumer), is_shed=number in shed)
            if number in shed:
                words[at + plan.SHED] += packets
                continue
            for record in several:
                head = words[at + plan.HEAD]
                words[at + plan.HEAD] = edge_log.write(
                    self._logs[number], head, record.parts, record.size
                )
            words[at + plan.PUT] += packets


def _place_of_tail(of: Plan, edge: Edge) -> int:
    """Return where in the slot of an output's consumer stands how far it was read."""
    inputs = of.inputs(edge.consumer)
    return of.slot(edge.consumer).input(inputs.index(edge)) + plan.POSITION
