"""Sources and sinks in a worker, opened as the pipeline's plan says."""

from __future__ import annotations

import errno
from typing import Any

from tuncer.pipeline.capture_files import Limits
from tuncer.pipeline.feed_sink import FeedSink
from tuncer.pipeline.feed_source import FeedSource
from tuncer.pipeline.plan import EndPlan
from tuncer.pipeline.sinks import FunctionSink, PcapSink, PortSink, Sink
from tuncer.pipeline.sources import FunctionSource, PcapSource, PortSource, Source, ZmqSource
from tuncer.pipeline.zmq_sink import Given, ZmqSink


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


def sink(plan: EndPlan, position: int, pipeline: bytes, given: Given) -> Sink:
    """Return a sink that goes on behind what was committed.

    Args:
        plan: of the sink.
        position: that was committed.
        pipeline: what distinguishes this pipeline from all others.
        given: by the worker that has the sink.

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
        return ZmqSink(position, options, pipeline, given)
    if plan.kind == "function":
        return FunctionSink(plan.name, options["start"])
    if plan.kind == "pipeline":
        producer = pipeline + plan.name.encode()
        return FeedSink(position, plan.name, options["name"], producer, given.wake)
    raise OSError(errno.EINVAL, f"there is no kind of sink {plan.kind!r}")
