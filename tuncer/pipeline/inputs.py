"""The inputs of a worker: the logs of the workers before it, as far as it has committed them."""

from __future__ import annotations

from collections.abc import Sequence

from tuncer.pipeline import edge_log, plan, records
from tuncer.pipeline.arena import Arena
from tuncer.pipeline.hand import Hand
from tuncer.pipeline.plan import Edge, Plan


class Inputs:
    """The inputs of a worker; of one that has a source there are none."""

    def __init__(self, of: Plan, number: int, arena: Arena, words: list[int]) -> None:
        """Begin.

        Args:
            of: the pipeline's plan.
            number: the worker's.
            arena: the pipeline's memory.
            words: that the worker's next commit puts in force.
        """
        self._edges = of.inputs(number)
        self._slot, self._words = of.slot(number), words
        self._logs = [arena.log(edge.log) for edge in self._edges]
        self._pages = [arena.page(edge.producer) for edge in self._edges]
        self._places = [_place_of_head(of, edge) for edge in self._edges]
        self._heads = [0] * len(self._edges)
        self._next = 0
        before = of.segments[max(0, of.places[number].segment - 1)]
        self._restores_order = before.by == "ordered" and before.workers > 1

    def producer(self, number: int) -> int:
        """Return the worker that writes an input."""
        return self._edges[number].producer

    def is_waited_for(self, number: int) -> bool:
        """Tell whether the writer of an input waits for room. Asked after a commit."""
        return self._pages[number].is_waiting()

    def take(self, of: int, most: int) -> Hand | None:
        """Take packets of one input: of that one, of the one whose turn it is, or of the next.

        Args:
            of: of which input; -1: of any.
            most: how many, at most.
        """
        count = len(self._edges)
        if of >= 0:
            order: Sequence[int] = [of]
        elif self._restores_order:
            order = [self._words[plan.TURN] % count]
        else:
            order = [(self._next + n) % count for n in range(count)]
        for number in order:
            at = self._slot.input(number)
            if self._words[at + plan.POSITION] < self._head(number):
                self._next = number + 1
                return self._taken(number, at, most)
        return None

    def _head(self, number: int) -> int:
        """Return how far an input was written."""
        if self._heads[number] <= self._words[self._slot.input(number) + plan.POSITION]:
            self._heads[number] = self._pages[number].read(self._places[number], 1)[0]
        return self._heads[number]

    def _taken(self, number: int, at: int, most: int) -> Hand:
        position, done = self._words[at + plan.POSITION], self._words[at + plan.DONE]
        record, after = edge_log.read(self._logs[number], position)
        head = records.head_of(record)
        items = records.decode(record, done, most) if head.packets else []
        done += len(items)
        is_last = done == head.packets
        return Hand(
            items,
            number,
            after if is_last else position,
            0 if is_last else done,
            head.ticket,
            is_last=is_last and head.is_last,
        )

    def count(self, hand: Hand) -> None:
        """Write how far packets were taken into the words that are to be committed."""
        words, at = self._words, self._slot.input(hand.input)
        words[at + plan.POSITION], words[at + plan.DONE] = hand.position, hand.done
        words[at + plan.TAKEN] += len(hand.items)
        if hand.is_last:
            words[plan.TURN] = hand.ticket + 1

    def have_ended(self) -> bool:
        """Tell whether the workers before this one have ended: after that they write nothing."""
        return all(page.read(plan.ENDED, 1)[0] for page in self._pages)

    def are_read(self) -> bool:
        """Tell whether everything was taken that is there now."""
        self._heads = [0] * len(self._edges)
        numbers = range(len(self._edges))
        return all(self._head(n) <= self._words[self._slot.input(n)] for n in numbers)


def _place_of_head(of: Plan, edge: Edge) -> int:
    """Return where in the slot of an input's producer stands how far it was written."""
    outputs = of.outputs(edge.producer)
    return of.slot(edge.producer).output(outputs.index(edge)) + plan.HEAD
