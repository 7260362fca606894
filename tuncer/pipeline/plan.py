"""What a pipeline consists of, as its processes know it: names and numbers alone. Pure.

Stages that run in one process are a segment. Segment 0 has the sources, one in each of its workers.
Each worker of a segment has a log to each worker of the next one. All of it travels in a message.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from dataclasses import dataclass
from typing import Any, NamedTuple

from tuncer.pipeline.arena import Layout, WorkerShape
from tuncer.pipeline.engine import COUNTERS


@dataclass(frozen=True)
class StagePlan:
    """A stage."""

    name: str
    start: str
    """``module:qualname``."""
    is_class: bool
    batch: bool
    args: list[Any]
    kwargs: dict[str, Any]
    on_error: str
    keeps: bool


@dataclass(frozen=True)
class EndPlan:
    """A source or a sink."""

    name: str
    kind: str
    options: dict[str, Any]


@dataclass(frozen=True)
class Segment:
    """Stages that run in one process, and how many such processes there are."""

    id: str
    workers: int
    by: str
    """As of ``StageSpec``; a function as ``module:qualname``."""
    stages: tuple[StagePlan, ...]
    on_kill: str
    backoff: list[float] | None
    watchdog: float | None


class Place(NamedTuple):
    """Where a worker stands."""

    segment: int
    shard: int


class Edge(NamedTuple):
    """A log from a worker to one of the next segment."""

    log: int
    producer: int
    consumer: int


# Words of a worker's slot: these, then those of inputs, outputs, stages and sinks.
(
    ENDED,
    KEPT_HALF,
    KEPT_SIZE,
    TICKET,
    TURN,
    SOURCE_POSITION,
    SOURCE_IDENTITY,
    READ,
    MISSED,
    PASSED,
    LOST,
    QUARANTINED,
    UNASSIGNED,
    TRACE,
    TRACE_KEYS,
    TRACE_SIZE,
) = range(16)
_FIXED = 16
POSITION, DONE, TAKEN = range(3)
HEAD, PUT, SHED = range(3)
WRITTEN, FAILED, SINK_POSITION = range(3)
_OF_INPUT = _OF_OUTPUT = _OF_SINK = 3


class Slot(NamedTuple):
    """Where the words of a worker's slot lie."""

    inputs: int
    outputs: int
    stages: int
    sinks: int

    def input(self, number: int) -> int:
        """Return where begin POSITION, DONE (packets of the record there), TAKEN (packets)."""
        return _FIXED + _OF_INPUT * number

    def output(self, number: int) -> int:
        """Return where begin HEAD, PUT (packets), SHED (packets)."""
        return self.input(self.inputs) + _OF_OUTPUT * number

    def stage(self, number: int) -> int:
        """Return where begin the counters of a stage."""
        return self.output(self.outputs) + len(COUNTERS) * number

    def sink(self, number: int) -> int:
        """Return where begin WRITTEN, FAILED (packets), SINK_POSITION."""
        return self.stage(self.stages) + _OF_SINK * number

    @property
    def size(self) -> int:
        """How many words there are."""
        return self.sink(self.sinks)


@dataclass(frozen=True)
class Plan:
    """A pipeline."""

    name: str
    full: str
    log_bytes: int
    quarantine: str | None
    sources: tuple[EndPlan, ...]
    segments: tuple[Segment, ...]
    sinks: tuple[EndPlan, ...]
    exclusive: tuple[str, ...]
    """The sinks that are in the last segment, of one worker, which has nothing but sinks."""

    def term(self) -> dict[str, Any]:
        """Return this as a term that travels."""
        return dataclasses.asdict(self)

    @classmethod
    def of(cls, term: dict[str, Any]) -> Plan:
        """Return the plan of a term."""
        segments = tuple(
            Segment(**{**one, "stages": tuple(StagePlan(**stage) for stage in one["stages"])})
            for one in term["segments"]
        )
        ends = {what: tuple(EndPlan(**one) for one in term[what]) for what in ("sources", "sinks")}
        exclusive = tuple(term["exclusive"])
        return cls(**{**term, **ends, "segments": segments, "exclusive": exclusive})

    # -- workers -----------------------------------------------------------------------------------

    @functools.cached_property
    def places(self) -> list[Place]:
        """Each worker's place; workers are numbered from the sources on."""
        return [
            Place(number, shard)
            for number, segment in enumerate(self.segments)
            for shard in range(segment.workers)
        ]

    def number(self, segment: int, shard: int) -> int:
        """Return the number of a worker."""
        return sum(one.workers for one in self.segments[:segment]) + shard

    def id(self, worker: int) -> str:
        """Return what the supervisor calls a worker."""
        segment, shard = self.places[worker]
        return f"{self.segments[segment].id}-{shard + 1}"

    # -- edges -------------------------------------------------------------------------------------

    @functools.cached_property
    def edges(self) -> list[Edge]:
        """All logs."""
        pairs = (
            (self.number(number, one), self.number(number + 1, other))
            for number, (before, after) in enumerate(itertools.pairwise(self.segments))
            for one in range(before.workers)
            for other in range(after.workers)
        )
        return [Edge(log, *pair) for log, pair in enumerate(pairs)]

    def inputs(self, worker: int) -> list[Edge]:
        """Return the logs that a worker reads."""
        return [edge for edge in self.edges if edge.consumer == worker]

    def outputs(self, worker: int) -> list[Edge]:
        """Return the logs that a worker writes."""
        return [edge for edge in self.edges if edge.producer == worker]

    # -- sinks -------------------------------------------------------------------------------------

    def sinks_of(self, segment: int) -> list[EndPlan]:
        """Return the sinks that are in a segment's workers."""
        last = len(self.segments) - 1
        if segment == last and self.exclusive:
            return [sink for sink in self.sinks if sink.name in self.exclusive]
        if segment == (last - 1 if self.exclusive else last):
            return [sink for sink in self.sinks if sink.name not in self.exclusive]
        return []

    # -- memory ------------------------------------------------------------------------------------

    def keeps(self, place: Place) -> bool:
        """Tell whether a worker keeps state: that of its stages, or of its source."""
        if place.segment == 0 and self.sources[place.shard].kind == "feed":
            return True
        return any(stage.keeps for stage in self.segments[place.segment].stages)

    def next_by(self, place: Place) -> str | None:
        """Return how a worker shares packets out: ``by`` of the next segment, if it has several."""
        following = self.segments[place.segment + 1 : place.segment + 2]
        return following[0].by if following and following[0].workers > 1 else None

    def slot(self, worker: int) -> Slot:
        """Return where the words of a worker's slot lie."""
        segment = self.places[worker].segment
        return Slot(
            len(self.inputs(worker)),
            len(self.outputs(worker)),
            len(self.segments[segment].stages),
            len(self.sinks_of(segment)),
        )

    @functools.cached_property
    def layout(self) -> Layout:
        """How the pipeline's memory is laid out."""
        shapes = tuple(
            WorkerShape(
                self.slot(worker).size,
                self.keeps(place),
                self.next_by(place) == "flow",
                len(self.sinks_of(place.segment)),
            )
            for worker, place in enumerate(self.places)
        )
        return Layout(shapes, len(self.edges), self.log_bytes)
