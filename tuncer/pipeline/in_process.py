"""A pipeline run in the calling process: ``Pipeline.test``. No device, no root, no other process.

It runs the same stages, shares and counters as the workers do, batch after batch, so that the same
packets always give the same result.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from supervisor.lowlevel import load_reference, pack_exact, unpack
from tuncer.pipeline import engine, shards
from tuncer.pipeline.ends import Pcap
from tuncer.pipeline.engine import Runner, end_all, run_all
from tuncer.pipeline.feeding import captured
from tuncer.pipeline.plan import Plan
from tuncer.pipeline.records import Item, Routed
from tuncer.pipeline.stage import Stage, kept_of
from tuncer.pipeline.statistics import StageCounts
from tuncer.protocol.packet import Packet


class Tested(NamedTuple):
    """What ``Pipeline.test`` returns."""

    sinks: dict[str, list[Packet]]
    """What each sink has got. Without any sink, "out" has what came out of the last stage."""
    stages: list[StageCounts]
    """What each stage has counted."""
    errors: list[tuple[str, Packet | None, BaseException]]
    """Which stage has failed, for which packet, and why."""
    lost: int
    """Packets that were in hand at a kill, with ``on_kill="skip"``."""
    objects: dict[str, list[Any]]
    """The ``Stage`` objects, of each worker, by the stage's name."""


class _Worker:
    """One shard of a segment."""

    def __init__(self, run: _Run, segment: int, shard: int) -> None:
        self._run, self._segment, self._shard = run, segment, shard
        self._kept = pack_exact([])
        self._counters: list[list[int]] = []
        self._begin()

    def _begin(self) -> None:
        """Make the stages' objects, as a process that has just started does."""
        run = self._run
        names = frozenset(sink.name for sink in run.plan.sinks)
        self.stages: list[Stage] = []
        self.objects: dict[str, Stage] = {}
        self.runners: list[Runner] = []
        made = []
        for told in run.plan.segments[self._segment].stages:
            found = load_reference(told.start)
            if told.is_class:
                stage = found()
                self.stages.append(stage)
                self.objects[told.name] = stage
                made.append((stage, told))
                found = stage.handle_batch
            failed = run.noting(told.name)
            batch = told.is_class or told.batch
            self.runners.append(Runner(told.name, found, batch, told.on_error, failed, names))
        for runner, counters in zip(self.runners, self._counters, strict=False):
            runner.counters[:] = counters
        for stage, kept in zip(self.stages, unpack(self._kept), strict=False):
            vars(stage).update(kept)
            stage.was_restored = bool(stage.kept)
        for stage, told in made:
            stage.init(*told.args, **told.kwargs)
        self._commit()

    def _commit(self) -> None:
        self._kept = pack_exact([kept_of(stage) for stage in self.stages])
        self._counters = [list(runner.counters) for runner in self.runners]

    def end(self) -> list[Item]:
        """Return what the stages give after all packets."""
        return end_all(self.runners, self.objects)

    def take(self, items: list[Item]) -> list[Item]:
        """Return what the stages make of packets, over a kill if there is to be one."""
        if self._run.is_killed(self._segment):
            run_all(self.runners, list(items))  # in vain
            self._begin()
            if self._run.plan.segments[self._segment].on_kill == "skip":
                self._run.lost += len(items)
                return []
        found = run_all(self.runners, list(items))
        self._commit()
        return found


class _Run:
    """A pipeline that is being run."""

    def __init__(self, plan: Plan, kill: Mapping[str, int]) -> None:
        """Begin.

        Raises:
            ValueError: there is no stage that is to be killed.
        """
        self.plan = plan
        self.errors: list[tuple[str, Packet | None, BaseException]] = []
        self.lost = 0
        self._batches = [0] * len(plan.segments)
        self._kills: dict[int, set[int]] = {}
        for name, batch in kill.items():
            self._kills.setdefault(_segment_of(plan, name), set()).add(batch)
        chain = len(plan.segments) - bool(plan.exclusive)
        self.workers = [
            [_Worker(self, number, shard) for shard in range(plan.segments[number].workers)]
            for number in range(chain)
        ]
        self._turns = [itertools.count() for _ in range(chain)]
        self._share = [self._sharing(number) for number in range(chain)]
        self.sinks: dict[str, list[Packet]] = {sink.name: [] for sink in plan.sinks} or {"out": []}

    def noting(self, stage: str) -> Any:
        """Return what notes a stage's failures."""
        return lambda packet, error: self.errors.append((stage, packet, error))

    def is_killed(self, segment: int) -> bool:
        """Tell whether a worker of a segment is killed with the batch that it has in hand."""
        self._batches[segment] += 1
        return self._batches[segment] in self._kills.get(segment, ())

    def _sharing(self, segment: int) -> Any:
        told = self.plan.segments[segment]
        if told.by == "flow":
            return shards.by_flow(told.workers)
        if told.by in {"any", "ordered"}:
            return lambda items: shards.to_one(
                next(self._turns[segment]) % told.workers, told.workers, items
            )
        return shards.by_key(told.workers, load_reference(told.by), self._without_key(segment))

    def _without_key(self, segment: int) -> Any:
        """Return what takes the packets for which the function of a segment's ``by=`` raises."""
        told = self.plan.segments[segment].stages[0]

        def failed(packet: Packet, error: Exception) -> Item | None:
            found = engine.without_key(packet, error, told.name, told.on_error)
            self.errors.append((told.name, packet, error))
            return found

        return failed

    def take(self, items: list[Item], segment: int = 0) -> None:
        """Pass packets through a segment, and all behind it."""
        for worker, share in zip(self.workers[segment], self._share[segment](items), strict=True):
            if not share:
                continue
            self._pass_on(worker.take(share), segment)

    def end(self) -> None:
        """Have the stages give what they give after all packets."""
        for segment, workers in enumerate(self.workers):
            for worker in workers:
                self._pass_on(worker.end(), segment)

    def _pass_on(self, items: list[Item], segment: int) -> None:
        if segment + 1 < len(self.workers):
            self.take(items, segment + 1)
        else:
            self._deliver(items)

    def _deliver(self, items: list[Item]) -> None:
        default = next(iter(self.sinks))
        for item in items:
            name, packet = item if isinstance(item, Routed) else (default, item)
            self.sinks[name].append(packet)

    def result(self) -> Tested:
        """Return what came of it."""
        stages, objects = [], {}
        for workers, segment in zip(self.workers, self.plan.segments, strict=False):
            for number, told in enumerate(segment.stages):
                counters = [worker.runners[number].counters for worker in workers]
                stages.append(StageCounts(told.name, *map(sum, zip(*counters, strict=True))))
            classes = [told.name for told in segment.stages if told.is_class]
            for number, name in enumerate(classes):
                objects[name] = [worker.stages[number] for worker in workers]
        return Tested(self.sinks, stages, self.errors, self.lost, objects)


def _segment_of(plan: Plan, stage: str) -> int:
    for number, segment in enumerate(plan.segments):
        if any(told.name == stage for told in segment.stages):
            return number
    raise ValueError(f"there is no stage {stage!r} to be killed")


def _packets(source: Any) -> Iterator[Packet]:
    """Yield the packets of a capture file, or of any iterable of packets and bytes."""
    if isinstance(source, Pcap):
        yield from captured(source)
        return
    for number, given in enumerate(source):  # their numbers are their times: nothing is by chance
        yield given if isinstance(given, Packet) else Packet(bytes(given), number, number, "test")


def run(plan: Plan, source: Iterable[Any] | Pcap, kill: Mapping[str, int], batch: int) -> Tested:
    """Run a pipeline; see ``Pipeline.test``."""
    running = _Run(plan, kill)
    packets = _packets(source)
    while items := list(itertools.islice(packets, batch)):
        running.take(list(items))
    running.end()
    return running.result()
