"""References to pipelines: what can be asked of one that runs."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from supervisor import (
    CallTimeout,
    NoProcess,
    NoReply,
    ProcessDown,
    Ref,
    SupervisorRef,
    multi_call,
)
from supervisor.lowlevel import decode_ref, encode_ref, extend_codec, retry_of
from tuncer.pipeline import feeding, tracing
from tuncer.pipeline.ends import Pcap
from tuncer.pipeline.plan import Plan
from tuncer.pipeline.stage import Stage
from tuncer.pipeline.statistics import Statistics, made_of
from tuncer.pipeline.tracing import TracedPacket, TraceStep
from tuncer.protocol.codec_types import PIPELINE_REF
from tuncer.protocol.packet import Packet

_Given = ParamSpec("_Given")
_Reply = TypeVar("_Reply")
_Stage = TypeVar("_Stage", bound=Stage)

_DEADLINE = 10.0  # seconds


class StageRow(NamedTuple):
    """What ``which_stages`` tells of a stage."""

    name: str
    segment: str
    """The stages of a segment run in the same processes."""
    start: str
    """``module:qualname`` of the function or class."""
    workers: list[Ref]
    """Those that run now."""


class PipelineRef(SupervisorRef):
    """A reference to a pipeline that runs: to its supervisor."""

    __slots__ = ()

    def stats(self) -> Statistics:
        """Return what was counted since the start, over all restarts of workers."""
        return made_of(self.call(["statistics"], timeout=None))

    def wait(self, timeout: float | None = None) -> None:
        """Wait until all sources have ended, and everything they have read was done with.

        The workers stay: their stages can be called until ``stop``.

        Raises:
            CallTimeout: that has not come in so many seconds.
            ProcessDown: the pipeline's supervisor has ended. Below another supervisor it may be
                back soon: then wait again.
        """
        self.call(["wait"], timeout=timeout)

    def feed(self, packets: Iterable[Packet | bytes] | Pcap) -> int:
        """Have the pipeline take packets: one whose source is a ``Feed``.

        It waits while the pipeline has no room. Over kills of the pipeline's workers no packet is
        lost, and none is taken twice.

        Args:
            packets: any iterable, also one that has no end; bytes are IP packets. Or a capture.

        Returns:
            How many there were: what came of them in the source's process is committed.

        Raises:
            ValueError: the pipeline's source is none that others feed.
            BrokenPipeError: the pipeline ends.
            NoProcess, ProcessDown: it has ended, and nobody has taken its place for 30 seconds.
            TypeError: something is neither a packet nor bytes.
            CaptureError: the capture is damaged.
            Exception: what the iterable raises, after all that it has given was taken.
        """
        return feeding.feed(self._fed(), packets)

    def end_feed(self) -> None:
        """Say that no more packets come, of anybody: the source ends, and ``wait`` returns.

        Raises:
            NoProcess, ProcessDown: as ``feed``.
        """
        feeding.end(self._fed())

    def _fed(self) -> str:
        """Return the pipeline's name.

        Raises:
            ValueError: its source is none that others feed.
        """
        plan = Plan.of(self.call(["plan"], timeout=None))
        if not any(source.kind == "feed" for source in plan.sources):
            raise ValueError(f"nobody feeds {plan.name!r}: its source is no Feed()")
        return plan.name

    def drain(self) -> None:
        """Have the sources end; what they have read goes through the pipeline."""
        self.call(["drain"], timeout=None)

    def stop(  # type: ignore[override]
        self, deadline: float | None = _DEADLINE
    ) -> Statistics:
        """End the sources, wait until what they have read was done with, and end the pipeline.

        Args:
            deadline: seconds for that; None waits as long as it takes.

        Returns:
            What was counted in the end. ``waiting`` of its edges is what the deadline has cut off.

        Raises:
            NoProcess: it has ended already.
            ProcessDown: it ended meanwhile.
        """
        self.drain()
        with contextlib.suppress(CallTimeout):
            self.wait(deadline)
        self.call(["stopping"], timeout=None)  # from now on no worker takes or delivers anything
        found = self.stats()
        super().stop()
        return found

    def trace_packets(self, count: int = 5, timeout: float = 10.0) -> list[TracedPacket]:
        """Follow the next packets through the pipeline: what becomes of them, where and when.

        A packet is known by its device, queue and number. So what a stage makes of it is followed,
        if that has the same number, as ``packet._replace(data=...)`` has.

        Args:
            count: packets, 1 to 64.
            timeout: seconds until they have left the pipeline.

        Returns:
            The packets in the order in which they were read; fewer, or some that are not done, if
            the time was too short.

        Raises:
            ValueError, TypeError: not so many, or no time.
            RuntimeError: somebody else traces the pipeline.
        """
        tracing.check(count, timeout)
        found = self.call(["trace", count, float(timeout)], timeout=timeout + _DEADLINE)
        if found is None:
            raise RuntimeError(f"somebody else traces {self}")
        return [
            TracedPacket(device, seq, text, read, [TraceStep(*step) for step in steps], done)
            for device, seq, text, read, steps, done in found
        ]

    def which_stages(self) -> list[StageRow]:
        """Return the stages in their order, with the references of their workers."""
        plan = Plan.of(self.call(["plan"], timeout=None))
        refs = {row.id: row.ref for row in self.which_children()}
        found = []
        for number, segment in enumerate(plan.segments):
            ids = [plan.id(w) for w, place in enumerate(plan.places) if place.segment == number]
            workers = [ref for ref in map(refs.get, ids) if ref is not None]
            found += [StageRow(s.name, segment.id, s.start, workers) for s in segment.stages]
        return found

    def gather(
        self,
        method: Callable[Concatenate[_Stage, _Given], _Reply | NoReply],
        /,
        *args: _Given.args,
        **kwargs: _Given.kwargs,
    ) -> list[_Reply]:
        """Call a method, marked by ``handler``, of all workers of a stage; return their replies.

        It waits for workers that are being restarted. ``within(retry=seconds).gather(...)`` also
        asks again where a worker has ended during the call, for so many seconds.

        Args:
            method: of the stage's class.
            *args: the method's.
            **kwargs: the method's.

        Raises:
            LookupError: no stage of the pipeline has the method, or more than one.
            Exception: what a worker has answered instead of a reply, or ProcessDown.
        """
        ids = self._workers_of(method)
        deadline = time.monotonic() + retry_of(self)
        replies: dict[str, _Reply] = {}
        while len(replies) < len(ids):
            asked = {self.child(one): one for one in ids if one not in replies}
            found = multi_call(asked, method, *args, **kwargs)
            replies |= {asked[ref]: reply for ref, reply in found.replies}
            for _, error in found.errors:
                is_final = not isinstance(error, (ProcessDown, NoProcess))
                if is_final or time.monotonic() >= deadline:
                    raise error
        return [replies[one] for one in ids]

    def _workers_of(self, method: Callable[..., Any]) -> list[str]:
        """Return the ids of the workers of the stage that has a method.

        Raises:
            LookupError: none has, or more than one.
        """
        plan = Plan.of(self.call(["plan"], timeout=None))
        found = [
            number
            for number, segment in enumerate(plan.segments)
            for stage in segment.stages
            if _has(stage.start, method)
        ]
        if len(found) != 1:
            name = getattr(method, "__qualname__", method)
            raise LookupError(f"{len(found)} stages of this pipeline have {name!r}: call a worker")
        return [plan.id(w) for w, place in enumerate(plan.places) if place.segment == found[0]]


def _has(start: str, method: Callable[..., Any]) -> bool:
    """Tell whether a stage's class, if this process knows it, has a method."""
    module, _, path = start.partition(":")
    found: Any = sys.modules.get(module)
    if found is None and module in {"__main__", "__mp_main__"}:
        found = sys.modules.get("__main__")
    for part in path.split("."):
        found = getattr(found, part, None)
    return isinstance(found, type) and getattr(found, method.__name__, None) is method


extend_codec(PIPELINE_REF, PipelineRef, encode_ref, lambda fields: decode_ref(fields, PipelineRef))
