"""Pipelines, as a program describes them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from supervisor import ChildSpec
from supervisor.lowlevel import check_intensity, pack_exact, reference_to
from tuncer.pipeline import feeding, in_process
from tuncer.pipeline.ends import (
    Feed,
    Pcap,
    Port,
    each_of,
    is_fed_by_program,
    ports_of,
    sink_plan,
    source_plans,
)
from tuncer.pipeline.in_process import Tested
from tuncer.pipeline.pipeline_ref import PipelineRef
from tuncer.pipeline.pipeline_supervisor import PipelineSupervisor
from tuncer.pipeline.plan import EndPlan, Plan, Segment, StagePlan
from tuncer.pipeline.stage import WAYS, Stage, StageSpec, check_name, specified
from tuncer.protocol.packet import Packet

_PAGE = 4096
_FEWEST_BYTES, _MOST_BYTES = 1 << 18, 1 << 30
_LOG_BYTES = 4 << 20


@dataclass(frozen=True)
class Pipeline:
    """Packets from a source through stages to sinks, in supervised processes.

    A stage without ``workers=`` runs in the process of the stage before it, or of the source.
    Between two processes there is a log in shared memory for each pair of workers. A worker that is
    killed is restarted, and goes on where it was: between workers no packet is lost, none comes
    twice, and those of a worker keep their order.

    Args:
        name: what the pipeline is called, and its supervisor registers.
        source: a ``Port``, a ``Pcap``, a ``Zmq``, a ``Feed``, a device, or a function that returns
            packets; or a list of these. Or any iterable of packets, and bytes of IP packets: the
            program feeds the pipeline from it, in a thread.
        stages: functions and ``Stage`` classes, some of them with options: see ``StageSpec``.
        sinks: by name, each a ``Port``, a ``Pcap``, a ``Zmq``, a device, a function of a packet,
            or another ``Pipeline``, whose source is a ``Feed``. What the last stage returns goes to
            the first one, but for what goes elsewhere by ``to``. A sink that is given alone is
            called "out". Without any, what comes out of the last stage is counted.
        full: what a worker does when the next one has no room. "wait": it reads no further
            packets, so that in the end the source waits; a live device then loses packets before
            the pipeline, counted. "drop": packets are shed, counted.
        log_bytes: room of each log, in bytes.
        intensity: restarts of workers that are borne within ``period`` seconds; one more, and the
            pipeline ends, as a supervisor does that gives up.
        period: seconds.
        quarantine: a file to which packets are appended that have killed their workers; None: they
            are counted and logged alone.

    Raises:
        TypeError, ValueError: what is wrong with it; nothing was started.
    """

    name: str
    source: Any
    stages: Sequence[Any] = ()
    sinks: Any = None
    full: Literal["wait", "drop"] = "wait"
    log_bytes: int = _LOG_BYTES
    quarantine: str | os.PathLike[str] | None = None
    intensity: int = 100
    period: float = 10.0
    _used_up: list[Any] = field(default_factory=list, init=False, repr=False, compare=False)
    """Sources that a start has begun to read, and that do not begin anew."""

    def __post_init__(self) -> None:
        check_name("the pipeline", self.name)
        if self.full not in {"wait", "drop"}:
            raise ValueError(f"full is 'wait' or 'drop', not {self.full!r:.100}")
        size = self.log_bytes
        if isinstance(size, bool) or not isinstance(size, int):
            raise TypeError(f"log_bytes is a number, not {size!r:.100}")
        if not _FEWEST_BYTES <= size <= _MOST_BYTES or size % _PAGE:
            raise ValueError(
                f"log_bytes is a multiple of {_PAGE}, {_FEWEST_BYTES} to {_MOST_BYTES}, not {size}"
            )
        check_intensity(f"pipeline {self.name!r}", self.intensity, self.period)
        self.plan()
        ports_of(self.source, self._named_sinks().values())

    def start_link(self) -> PipelineRef:
        """Start the pipeline, which ends when this process ends.

        Raises:
            StartFailed: a device or a worker does not start, and why.
            AlreadyRegistered: a pipeline of this name runs.
            ValueError: a former start has read its source, an iterator or a stream.
        """
        fed = [source for source in each_of(self.source) if is_fed_by_program(source)]
        for source in fed:
            if any(source is one for one in self._used_up):
                raise ValueError(
                    f"pipeline {self.name!r}: a former start has read {source!r:.100}: give it a"
                    " list, or a function, which begin anew"
                )
        found = PipelineSupervisor.start_link(*self._arguments(), name=self.name)
        for source in fed:
            if isinstance(source, Pcap) or iter(source) is source:
                self._used_up.append(source)
            feeding.feed_in_thread(self.name, source)
        return cast("PipelineRef", found)

    def child_spec(self, id: str | None = None, **options: Any) -> ChildSpec:  # noqa: A002 - OTP's word
        """Return the specification of the pipeline, for a supervisor of one's own.

        A pipeline that was stopped by ``PipelineRef.stop`` stays so: ``restart`` is "transient".

        Args:
            id: what that calls it; by default the pipeline's name.
            **options: as of ``ChildSpec``.

        Raises:
            TypeError: its source is an iterable, or a stream, of this program.
        """
        for source in each_of(self.source):
            if is_fed_by_program(source):
                raise TypeError(
                    f"pipeline {self.name!r}: {source!r:.100} lives in this program: give it a"
                    " source that every process can read, or Feed(), and feed it"
                )
        told: dict[str, Any] = {"restart": "transient", **options}
        arguments = self._arguments()
        return ChildSpec(id or self.name, PipelineSupervisor, arguments, name=self.name, **told)

    def test(
        self,
        source: Iterable[Packet | bytes] | Pcap,
        *,
        kill: Mapping[str, int] | None = None,
        batch: int = 256,
    ) -> Tested:
        """Run the pipeline in this process: for tests, without devices and without root.

        The same packets always give the same result. ``Stage`` objects have no process there:
        timers, messages and calls are not for them.

        Args:
            source: packets or bytes, instead of the pipeline's source; or a capture file.
            kill: by a stage's name, with which batch in hand one of its workers is killed: 1 is the
                first. What is kept is as it was before that batch, which is given again.
            batch: packets in a batch, at most.

        Raises:
            ValueError: there is no such stage.
            StageError: a stage with ``on_error="crash"`` has raised an exception.
            CaptureError: the file is no capture.
        """
        return in_process.run(self.plan(), source, kill or {}, batch)

    def _arguments(self) -> tuple[dict[str, Any], list[list[Any]], int, float]:
        ports = ports_of(self.source, self._named_sinks().values())
        devices = [_device(port) for port in ports.values()]
        return self.plan().term(), devices, self.intensity, self.period

    # -- the plan ----------------------------------------------------------------------------------

    def plan(self) -> Plan:
        """Return what the pipeline consists of, as its processes know it.

        Raises:
            TypeError, ValueError: what is wrong with it.
        """
        sources = tuple(source_plans(self.source))
        if isinstance(self.stages, (str, bytes)) or not isinstance(self.stages, Sequence):
            raise TypeError(f"stages are a list, not {self.stages!r:.100}")
        specs = [specified(one) for one in self.stages]
        sinks = tuple(self._sink(name, sink) for name, sink in self._named_sinks().items())
        if [source.kind for source in sources].count("feed") > 1:
            raise ValueError("a pipeline is fed by one source at most: give it a single Feed()")
        _check(specs, sinks)
        _check_files(sources, sinks, self.quarantine)
        _check_twice(sources, sinks)
        _check_ends(specs)
        groups: list[list[StageSpec]] = [[]]
        for spec in specs:
            if spec.workers is None:
                groups[-1].append(spec)
            else:
                groups.append([spec])
        segments = [_first_segment(groups[0], len(sources))]
        segments += [_segment(group) for group in groups[1:]]
        _check_order(segments, self.full)
        exclusive: tuple[str, ...] = ()
        if segments[-1].workers > 1:
            exclusive = tuple(sink.name for sink in sinks if sink.kind != "port")
        if exclusive:
            segments.append(Segment("sinks", 1, "any", (), "retry", None, None))
        quarantine = None if self.quarantine is None else os.path.abspath(self.quarantine)
        return Plan(
            self.name,
            self.full,
            self.log_bytes,
            quarantine,
            sources,
            tuple(segments),
            sinks,
            exclusive,
        )

    def _sink(self, name: str, sink: Any) -> EndPlan:
        """Return a sink. Raises as ``sink_plan``."""
        if isinstance(sink, Pipeline):
            if not any(isinstance(source, Feed) for source in each_of(sink.source)):
                raise ValueError(f"sink {name!r}: the source of {sink.name!r} is no Feed()")
            sink = Feed(sink.name)
        if isinstance(sink, Feed) and sink.pipeline == self.name:
            raise ValueError(f"sink {name!r}: a pipeline does not feed itself")
        return sink_plan(name, sink)

    def _named_sinks(self) -> dict[str, Any]:
        if self.sinks is None:
            return {}
        if isinstance(self.sinks, Mapping):
            for name in self.sinks:
                check_name("a sink", name)
            return dict(self.sinks)
        return {"out": self.sinks}


def _device(port: Port) -> list[Any]:
    """Return the arguments and options of ``child_spec`` for a device."""
    options = {"restart": "permanent", **port.options}
    for name in ("addresses", "routes"):
        if name in options:
            options[name] = [str(one) for one in options[name]]
    if port.queues != 1:
        options["queues"] = port.queues
    if "namespace" in options:
        options["namespace"] = port.described()["namespace"]
    return [[f"device {port.name}", port.name, int(port.flags)], options]


def _first_segment(specs: list[StageSpec], workers: int) -> Segment:
    stages = tuple(_stage(spec) for spec in specs)
    on_kill = specs[0].on_kill if specs else "retry"
    return Segment("source", workers, "any", stages, on_kill, *_limits(specs))


def _segment(specs: list[StageSpec]) -> Segment:
    first = specs[0]
    assert first.workers is not None
    by = first.by if isinstance(first.by, str) else reference_to(first.by)
    stages = tuple(_stage(spec) for spec in specs)
    return Segment(first.title, first.workers, by, stages, first.on_kill, *_limits(specs))


def _limits(specs: list[StageSpec]) -> tuple[list[float] | None, float | None]:
    """Return the backoff and the watchdog of a process: those of its first stage."""
    if not specs:
        return None, None
    backoff = specs[0].backoff
    return None if backoff is None else list(backoff), specs[0].watchdog


def _stage(spec: StageSpec) -> StagePlan:
    return StagePlan(
        spec.title,
        reference_to(spec.start),
        spec.is_class,
        spec.batch,
        list(spec.args),
        dict(spec.kwargs),
        spec.on_error,
        spec.is_class and bool(spec.start.kept),
    )


def _check(specs: list[StageSpec], sinks: tuple[EndPlan, ...]) -> None:
    """Check what only all stages and sinks together show.

    Raises:
        TypeError, ValueError: what is wrong.
    """
    names = [spec.title for spec in specs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two stages are called {twice!r}: give one of them a name=")
    for reserved in ("source", "sinks"):
        if reserved in names:
            raise ValueError(f"no stage is called {reserved!r}: give it a name=")
    known = {sink.name for sink in sinks}
    for spec in specs:
        if spec.on_error.startswith("to:") and spec.on_error[3:] not in known:
            raise ValueError(
                f"stage {spec.title!r}: on_error={spec.on_error!r}, but there is no such sink"
            )
        try:
            pack_exact([list(spec.args), dict(spec.kwargs)])
        except TypeError as error:
            raise TypeError(f"stage {spec.title!r}: an argument of init: {error}") from None


def _check_ends(specs: list[StageSpec]) -> None:
    """Check that no stage gives packets in the end whose place in an order nothing tells.

    Raises:
        ValueError: one does.
    """
    is_ordered = False
    for spec in specs:
        if spec.workers is not None:
            is_ordered = spec.by == "ordered" and spec.workers > 1
        if is_ordered and spec.is_class and spec.start.handle_end is not Stage.handle_end:
            raise ValueError(
                f"stage {spec.title!r}: what handle_end gives has no place in the order that"
                " by='ordered' restores"
            )


def _check_twice(sources: Sequence[EndPlan], sinks: Sequence[EndPlan]) -> None:
    """Check that no queue of a device is read twice, and no endpoint bound twice.

    Raises:
        ValueError: one is.
    """
    read = [
        (str(end.options["namespace"]), end.name, end.options["queue"])
        for end in sources
        if end.kind == "port"
    ]
    bound = [end.options["endpoint"] for end in sinks if end.kind == "zmq"]
    for what, found in (("a device is a source", read), ("an endpoint is a sink", bound)):
        twice = next((one for one in found if found.count(one) > 1), None)
        if twice is not None:
            raise ValueError(f"{what} twice: {twice}")


def _check_files(
    sources: Sequence[EndPlan], sinks: Sequence[EndPlan], quarantine: str | os.PathLike[str] | None
) -> None:
    """Check that no file is written twice, nor written and read.

    Raises:
        ValueError: one is.
    """
    written = [os.path.realpath(end.options["path"]) for end in sinks if end.kind == "pcap"]
    if quarantine is not None:
        written.append(os.path.realpath(quarantine))
    read = {os.path.realpath(end.options["path"]) for end in sources if end.kind == "pcap"}
    for path in written:
        if path in read:
            raise ValueError(f"{path} is a source and a sink")
        if written.count(path) > 1:
            raise ValueError(f"two sinks write the same file: {path}")


def _check_order(segments: list[Segment], full: str) -> None:
    """Check what order asks for.

    Raises:
        ValueError: it cannot be restored.
    """
    for before, segment in itertools.pairwise(segments):
        if segment.by == "ordered" and full == "drop":
            raise ValueError(
                f"stage {segment.id!r}: by='ordered' needs full='wait': where packets are shed, the"
                " order cannot be restored"
            )
        if segment.by == "ordered" and before.workers > 1:
            raise ValueError(
                f"stage {segment.id!r}: by='ordered' restores the order of one worker's packets,"
                f" and there are {before.workers} before it"
            )
        assert segment.by in WAYS or ":" in segment.by
