"""The sinks of a worker, by name: what goes to which of them, and how much of it got there."""

from __future__ import annotations

from collections.abc import Callable

from supervisor import GenServer
from tuncer.pipeline import opened, plan
from tuncer.pipeline.arena import Arena
from tuncer.pipeline.plan import Plan
from tuncer.pipeline.records import Item, Routed
from tuncer.pipeline.sinks import Sink
from tuncer.pipeline.tracing import Trace
from tuncer.pipeline.zmq_sink import Given
from tuncer.protocol.packet import Packet

Delivered = list[tuple[int, list[Packet]]]
"""Sinks, and what they get."""


class WorkerSinks:
    """The sinks of a worker; of one before the last segments there are none."""

    def __init__(
        self,
        of: Plan,
        number: int,
        words: list[int],
        arena: Arena,
        worker: GenServer,
        wake: Callable[[], None],
    ) -> None:
        """Open them, where a former incarnation has committed.

        Args:
            of: the pipeline's plan.
            number: the worker's.
            words: that the worker's next commit puts in force.
            arena: the pipeline's memory.
            worker: the worker.
            wake: has the worker look whether it can go on.

        Raises:
            OSError: one cannot be written.
        """
        self._slot, self._words = of.slot(number), words
        segment = of.places[number].segment
        self._exclusive = of.exclusive
        sent = arena.page(number).sent
        self._sinks: list[Sink] = []
        self.have_begun = False
        """Whether one begins elsewhere than where a predecessor has committed."""
        self._numbers: dict[str, int] = {}
        for position, told in enumerate(of.sinks_of(segment)):
            committed = words[self._slot.sink(position) + plan.SINK_POSITION]
            given = Given(worker, wake, sent[position : position + 1])
            sink = opened.sink(told, committed, arena.identity, given)
            self.have_begun |= sink.position != committed
            words[self._slot.sink(position) + plan.SINK_POSITION] = sink.position
            self._sinks.append(sink)
            self._numbers[told.name] = position
        self._names = list(self._numbers)
        first = of.sinks[0].name if of.sinks else None
        self._is_last = segment == len(of.segments) - 1 - bool(of.exclusive)
        self._default = first if self._is_last else None

    def sorted(self, items: list[Item]) -> tuple[Delivered, list[Item]]:
        """Return what goes to the sinks here, and what goes on to another worker."""
        if not items or not (self._is_last or self._sinks):
            return [], items
        default = self._numbers.get(self._default) if self._default is not None else None
        if default is not None and Routed not in set(map(type, items)):
            return [(default, items)], []  # type: ignore[list-item]  # packets alone
        found: dict[int, list[Packet]] = {}
        others: list[Item] = []
        for item in items:
            name, packet = item if isinstance(item, Routed) else (self._default, item)
            number = self._numbers.get(name) if name is not None else None
            if number is not None:
                found.setdefault(number, []).append(packet)
            elif name is not None and name in self._exclusive:
                others.append(Routed(name, packet))
        return list(found.items()), others

    def waiting(self, delivered: Delivered) -> Sink | None:
        """Return a sink that cannot take yet what is for it; None: all can."""
        for number, packets in delivered:
            if not self._sinks[number].offer(packets):
                return self._sinks[number]
        return None

    def deliver(self, delivered: Delivered, trace: Trace | None) -> None:
        """Deliver packets to sinks that do not number them: to functions, that is, among others.

        Those come first. What kills its worker there has not been given to a sink that numbers
        packets, which would have to be given the rest of them by the same numbers.
        """
        for number, packets in delivered:
            if not self._sinks[number].is_numbered:
                self._deliver(number, packets, trace)

    def deliver_numbered(self, delivered: Delivered, trace: Trace | None) -> None:
        """Deliver packets to sinks that number them: directly before the commit."""
        for number, packets in delivered:
            if self._sinks[number].is_numbered:
                self._deliver(number, packets, trace)

    def _deliver(self, number: int, packets: list[Packet], trace: Trace | None) -> None:
        words, sink, at = self._words, self._sinks[number], self._slot.sink(number)
        failed = sink.deliver(packets)
        words[at + plan.WRITTEN] += len(packets) - failed
        words[at + plan.FAILED] += failed
        words[at + plan.SINK_POSITION] = sink.position
        if trace is not None:
            trace.delivered(self._names[number], packets, failed)

    def given_up(self) -> bool:
        """Have the sinks forget what a predecessor may have offered; tell if that changes words."""
        is_changed = False
        for number, sink in enumerate(self._sinks):
            before = sink.position
            sink.given_up()
            is_changed |= sink.position != before
            self._words[self._slot.sink(number) + plan.SINK_POSITION] = sink.position
        return is_changed

    @property
    def are_numbered(self) -> bool:
        """Whether packets of a sink are known by their numbers to whoever gets them."""
        return any(sink.is_numbered for sink in self._sinks)

    def close(self) -> None:
        """Close all."""
        for sink in self._sinks:
            sink.close()
