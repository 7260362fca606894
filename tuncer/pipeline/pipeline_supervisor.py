"""The supervisor of a pipeline: it makes the memory, and starts devices and workers.

It runs none of the user's code, and passes no packets on. What it tells of the pipeline it reads in
the memory.
"""

from __future__ import annotations

import contextlib
import logging
import os
from typing import Any, ClassVar, NamedTuple

from supervisor import Backoff, ChildSpec, NoReply, Ref, Sender, Supervisor
from supervisor.errors import RAISED
from supervisor.lowlevel import Timer, give_up, load_reference, provide_fd, provided_fd
from tuncer.client.create import child_spec
from tuncer.pipeline import arena, feed, plan, tracing
from tuncer.pipeline.arena import Arena, Wanted
from tuncer.pipeline.pipeline_ref import PipelineRef
from tuncer.pipeline.plan import Plan
from tuncer.pipeline.sinks import check_quarantine
from tuncer.pipeline.statistics import counted
from tuncer.pipeline.tracing import TracedPacket
from tuncer.pipeline.worker import ARENA, DONE, Worker, wake_name

log = logging.getLogger("tuncer")

_ID = "pipeline"
"""Whose store, among those of the children, has what is the supervisor's own."""


class PipelineSupervisor(Supervisor):
    """Starts the workers of a pipeline, and restarts them."""

    reference: ClassVar[type[Ref]] = PipelineRef

    def init(  # type: ignore[override]
        self, term: dict[str, Any], devices: list[list[Any]], intensity: int, period: float
    ) -> Any:
        """Begin to start the workers, the last segment's first.

        Args:
            term: the pipeline's plan.
            devices: arguments and options of ``child_spec``, of each device to be made.
            intensity: restarts of workers that are borne within ``period`` seconds.
            period: seconds.
        """
        self._plan, self._term = Plan.of(term), term
        self._awaiting: list[Sender] = []
        self._tracing: _Tracing | None = None
        self._import()
        if self._plan.quarantine is not None:
            check_quarantine(self._plan.quarantine)
        self._provide()
        workers = [self._worker(number) for number in range(len(self._plan.places))]
        ports = [child_spec(*args, **options) for args, options in devices]
        result = super().init([*ports, *reversed(workers)], intensity=intensity, period=period)
        self._memory.trace(0)  # a predecessor's is over
        self.add_reader(self._done, self._look)
        return result

    def _import(self) -> None:
        """Import the stages' modules, so that forks of this process find them imported.

        A worker that cannot import one says so.
        """
        for segment in self._plan.segments:
            for stage in segment.stages:
                with contextlib.suppress(*RAISED):
                    load_reference(stage.start)

    # -- what the workers share --------------------------------------------------------------------

    def _provide(self) -> None:
        """Make the memory and the eventfds, unless a former incarnation has; share them out."""
        layout = self._plan.layout
        former = provided_fd(self, _ID, ARENA)
        # One that was stopped, and not killed, has done with what is in its memory.
        self._is_anew = former is None or Arena(former, layout).stopped
        memory = self._shared(ARENA, lambda: arena.create(layout))
        self._memory = Arena(memory, layout)
        self._done = self._shared(DONE, _eventfd)
        workers = range(len(self._plan.places))
        self._wakes = [self._shared(wake_name(number), _eventfd) for number in workers]
        for number in workers:
            neighbours = {number}
            for edge in (*self._plan.inputs(number), *self._plan.outputs(number)):
                neighbours |= {edge.producer, edge.consumer}
            given = {ARENA: memory, DONE: self._done}
            given |= {wake_name(other): self._wakes[other] for other in neighbours}
            for name, fd in given.items():
                child = self._plan.id(number)
                if provided_fd(self, child, name) is None or self._is_anew:
                    provide_fd(self, child, name, os.dup(fd))

    def _shared(self, name: str, make: Any) -> int:
        """Return a descriptor that the supervisor keeps itself, beside those of its children."""
        found = provided_fd(self, _ID, name)
        if found is None or self._is_anew:
            found = make()
            provide_fd(self, _ID, name, found)
        return found

    def _worker(self, number: int) -> ChildSpec:
        place = self._plan.places[number]
        segment = self._plan.segments[place.segment]
        is_fed = place.segment == 0 and self._plan.sources[place.shard].kind == "feed"
        return ChildSpec(
            self._plan.id(number),
            Worker,
            (self._term, number),
            name=feed.name_of(self._plan.name) if is_fed else None,
            watchdog=segment.watchdog,
            backoff=None if segment.backoff is None else Backoff(*segment.backoff),
        )

    # -- requests ----------------------------------------------------------------------------------

    def handle_call(self, request: list[Any], sender: Sender) -> Any:
        """Serve the methods of ``PipelineRef``, and those of ``SupervisorRef``."""
        reply: Any = None
        match request:
            case ["statistics"]:
                reply = counted(self._plan, self._memory)
            case ["drain"]:
                self._drain()
            case ["stopping"]:
                self._memory.stop()
            case ["wait"]:
                self._awaiting.append(sender)
                self._look_for_end()
                reply = NoReply()
            case ["plan"]:
                reply = self._term
            case ["trace", int() as count, float() as seconds]:
                reply = self._trace(sender, count, seconds)
            case _:
                reply = super().handle_call(request, sender)
        return reply

    def _drain(self) -> None:
        """Have the sources end: what they have read goes through the pipeline."""
        self._memory.drain()
        for wake in self._wakes:
            os.eventfd_write(wake, 1)

    def _look(self) -> None:
        """See what a worker has told of: its end, steps of a trace, or that it cannot go on."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._done)
        pages = (self._memory.page(number) for number in range(len(self._plan.places)))
        unfit = next(filter(None, (page.unfit() for page in pages)), None)
        if unfit is not None:
            log.error("%r gives up: %s", self.ref, unfit)
            give_up(self, unfit)
            return
        self._look_for_end()
        if self._tracing is not None:
            found = self._traced(self._tracing)
            if tracing.is_over(found, self._tracing.packets):
                self._end_trace()

    def _look_for_end(self) -> None:
        """Answer those who wait, when all workers have done with everything."""
        workers = range(len(self._plan.places))
        if all(self._memory.page(number).read(plan.ENDED, 1)[0] for number in workers):
            for sender in self._awaiting:
                self.reply(sender, None)
            self._awaiting.clear()

    # -- traces ------------------------------------------------------------------------------------

    def _trace(self, sender: Sender, count: int, seconds: float) -> Any:
        """Have packets traced; reply when they have left the pipeline, or after so many seconds.

        The reply is None if somebody else traces the pipeline.
        """
        if self._tracing is not None:
            return None
        timer = self.call_later(seconds, self._end_trace)
        self._tracing = _Tracing(sender, count, self._memory.trace(count), timer)
        return NoReply()

    def _traced(self, trace: _Tracing) -> list[TracedPacket]:
        # From the last segment to the sources: see ``packets_of``.
        pages = [self._memory.page(number) for number in reversed(range(len(self._plan.places)))]
        steps = [step for page in pages for step in tracing.read_steps(page, trace.wanted.word)]
        return tracing.packets_of(steps)

    def _end_trace(self) -> None:
        trace, self._tracing = self._tracing, None
        if trace is None:
            return
        found = self._traced(trace)
        self._memory.trace(0)
        self.cancel_timer(trace.timer)
        self.reply(trace.sender, [_term(packet) for packet in found[: trace.packets]])


class _Tracing(NamedTuple):
    """A trace that is under way."""

    sender: Sender
    packets: int
    wanted: Wanted
    timer: Timer


def _term(packet: TracedPacket) -> list[Any]:
    return [*packet[:4], [list(step) for step in packet.steps], packet.done]


def _eventfd() -> int:
    return os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
