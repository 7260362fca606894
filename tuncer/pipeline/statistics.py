"""What is counted in a pipeline. Pure, but for the memory that it reads.

On every edge: put = taken + waiting. At every worker: what it has taken = what its first stage has
taken + passed (on their way to a sink, past the stages) + lost + quarantined. At every stage:
taken + made = out + dropped + failed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from tuncer.pipeline import plan
from tuncer.pipeline.arena import Arena
from tuncer.pipeline.engine import COUNTERS
from tuncer.pipeline.plan import Plan


class StageCounts(NamedTuple):
    """Packets of a stage, of all its workers: taken + made = out + dropped + failed."""

    name: str
    taken: int
    made: int
    """Returned beyond one for each that was taken."""
    out: int
    dropped: int
    """On purpose."""
    failed: int
    """The stage raised an exception."""


class SourceCounts(NamedTuple):
    """Packets of a source."""

    name: str
    read: int
    missed: int
    """That the pipeline was too slow for: they are not in ``read``."""


class SinkCounts(NamedTuple):
    """Packets of a sink."""

    name: str
    written: int
    failed: int


class EdgeCounts(NamedTuple):
    """Packets between two segments: put = taken + waiting."""

    producer: str
    consumer: str
    put: int
    taken: int
    shed: int
    """With ``full="drop"``: there was no room. They are not in ``put``."""
    bytes: int
    """That wait."""

    @property
    def waiting(self) -> int:
        """Packets that wait, or that the consumer has in hand."""
        return self.put - self.taken


class SegmentCounts(NamedTuple):
    """Packets of the workers of a segment."""

    name: str
    taken: int
    passed: int
    """On their way to a sink, past the segment's stages."""
    lost: int
    """In hand at a kill, with ``on_kill="skip"``."""
    quarantined: int
    unassigned: int
    """That no worker of the next stage got, as the function of its ``by=`` raised an exception."""


class Statistics(NamedTuple):
    """What was counted since the pipeline's start, over all restarts."""

    sources: list[SourceCounts]
    segments: list[SegmentCounts]
    stages: list[StageCounts]
    edges: list[EdgeCounts]
    sinks: list[SinkCounts]


def counted(of: Plan, memory: Arena) -> list[list[list[Any]]]:
    """Return the fields of ``Statistics``, as a term that travels."""
    words = _words(of, memory)
    return [
        _sources(of, words),
        _segments(of, words),
        _stages(of, words),
        _edges(of, words),
        _sinks(of, words),
    ]


def made_of(term: list[list[list[Any]]]) -> Statistics:
    """Return the statistics that a term tells."""
    kinds = (SourceCounts, SegmentCounts, StageCounts, EdgeCounts, SinkCounts)
    return Statistics(
        *([kind(*row) for row in rows] for kind, rows in zip(kinds, term, strict=True))
    )


def _words(of: Plan, memory: Arena) -> list[list[int]]:
    """Return the words of all workers.

    Consumers are read before their producers: so nothing seems to be taken before it was put.
    """
    numbers = reversed(range(len(of.places)))
    return [memory.page(number).read() for number in numbers][::-1]


def _sources(of: Plan, words: list[list[int]]) -> list[list[Any]]:
    return [
        [source.name, words[number][plan.READ], words[number][plan.MISSED]]
        for number, source in enumerate(of.sources)
    ]


def _segments(of: Plan, words: list[list[int]]) -> list[list[Any]]:
    found: list[list[Any]] = [[segment.id, 0, 0, 0, 0, 0] for segment in of.segments]
    for number, (segment, _) in enumerate(of.places):
        slot, its = of.slot(number), words[number]
        taken = its[plan.READ]
        taken += sum(its[slot.input(one) + plan.TAKEN] for one in range(slot.inputs))
        counters = (plan.PASSED, plan.LOST, plan.QUARANTINED, plan.UNASSIGNED)
        more = (taken, *(its[counter] for counter in counters))
        row = found[segment]
        row[1:] = [before + one for before, one in zip(row[1:], more, strict=True)]
    return found


def _stages(of: Plan, words: list[list[int]]) -> list[list[Any]]:
    found = []
    for number, segment in enumerate(of.segments):
        workers = [w for w, place in enumerate(of.places) if place.segment == number]
        for position, stage in enumerate(segment.stages):
            sums = [0] * len(COUNTERS)
            for worker in workers:
                at = of.slot(worker).stage(position)
                counters = words[worker][at : at + len(COUNTERS)]
                sums = [one + more for one, more in zip(sums, counters, strict=True)]
            found.append([stage.name, *sums])
    return found


def _edges(of: Plan, words: list[list[int]]) -> list[list[Any]]:
    found = []
    for edge in of.edges:
        outputs, inputs = of.outputs(edge.producer), of.inputs(edge.consumer)
        at = of.slot(edge.producer).output(outputs.index(edge))
        head, put, shed = words[edge.producer][at : at + 3]
        at = of.slot(edge.consumer).input(inputs.index(edge))
        position, done, taken = words[edge.consumer][at : at + 3]
        del done
        names = of.id(edge.producer), of.id(edge.consumer)
        found.append([*names, put, taken, shed, max(0, head - position)])
    return found


def _sinks(of: Plan, words: list[list[int]]) -> list[list[Any]]:
    found = {sink.name: [sink.name, 0, 0] for sink in of.sinks}
    for number, (segment, _) in enumerate(of.places):
        for position, sink in enumerate(of.sinks_of(segment)):
            at = of.slot(number).sink(position)
            row = found[sink.name]
            row[1] += words[number][at + plan.WRITTEN]  # type: ignore[operator]
            row[2] += words[number][at + plan.FAILED]  # type: ignore[operator]
    return list(found.values())
