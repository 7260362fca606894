"""Sources and sinks in a worker, opened as the pipeline's plan says."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

from supervisor import GenServer
from tuncer.pipeline.capture_files import Limits
from tuncer.pipeline.feed_sink import FeedSink
from tuncer.pipeline.feed_source import FeedSource
from tuncer.pipeline.plan import EndPlan
from tuncer.pipeline.sinks import FunctionSink, PcapSink, PortSink, Sink
from tuncer.pipeline.sources import FunctionSource, PcapSource, PortSource, Source, ZmqSource
from tuncer.pipeline.zmq_sink import ZmqSink


def source(plan: EndPlan, position: int, identity: int, kept: Any) -> Source:
    """Return a source that goes on behind what was committed.

    Raises:
        OSError, ValueError: it cannot be read.
    """
    options = plan.options
    if plan.kind == "port":
        return PortSource(position, identity, options)
    if plan.kind == "pcap":
        return PcapSource(position, identity, options["path"], timed=options["timed"])
    if plan.kind == "zmq":
        return ZmqSource(position, identity, options["endpoint"], options["topic"])
    if plan.kind == "function":
        return FunctionSource(position, identity, plan.name, options["start"])
    if plan.kind == "feed":
        return FeedSource(position, identity, kept)
    raise OSError(errno.EINVAL, f"there is no kind of source {plan.kind!r}")


def sink(
    plan: EndPlan, position: int, pipeline: bytes, worker: GenServer, wake: Callable[[], None]
) -> Sink:
    """Return a sink that goes on behind what was committed.

    Args:
        plan: of the sink.
        position: that was committed.
        pipeline: what distinguishes this pipeline from all others.
        worker: that has the sink: its loop polls what the sink opens.
        wake: has the worker look whether it can go on.

    Raises:
        OSError: it cannot be written.
    """
    options = plan.options
    if plan.kind == "port":
        return PortSink(options)
    if plan.kind == "pcap":
        limits = Limits(options["bytes"], options["seconds"], options["snaplen"])
        return PcapSink(position, options["path"], limits)
    if plan.kind == "zmq":
        return ZmqSink(position, options["endpoint"], options["topic"], pipeline, worker)
    if plan.kind == "function":
        return FunctionSink(plan.name, options["start"])
    if plan.kind == "pipeline":
        producer = pipeline + plan.name.encode()
        return FeedSink(position, plan.name, options["name"], producer, wake)
    raise OSError(errno.EINVAL, f"there is no kind of sink {plan.kind!r}")
