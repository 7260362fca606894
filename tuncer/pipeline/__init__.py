"""Packet pipelines: packets through stages, in supervised processes that share memory.

edge = Pipeline("edge", Port("lan0"), [parse, Flows.spec(workers=2, by="flow")], Port("wan0"))
running = edge.start_link()
"""

from tuncer.pipeline.ends import Feed, Pcap, Port, Zmq
from tuncer.pipeline.in_process import Tested
from tuncer.pipeline.pipeline import Pipeline
from tuncer.pipeline.pipeline_ref import PipelineRef, StageRow
from tuncer.pipeline.records import Routed
from tuncer.pipeline.stage import Packets, Stage, StageSpec, stage, to
from tuncer.pipeline.statistics import (
    EdgeCounts,
    SegmentCounts,
    SinkCounts,
    SourceCounts,
    StageCounts,
    Statistics,
)
from tuncer.pipeline.tracing import TracedPacket, TraceStep
from tuncer.protocol.headers import flow_text

__all__ = [
    "EdgeCounts",
    "Feed",
    "Packets",
    "Pcap",
    "Pipeline",
    "PipelineRef",
    "Port",
    "Routed",
    "SegmentCounts",
    "SinkCounts",
    "SourceCounts",
    "Stage",
    "StageCounts",
    "StageRow",
    "StageSpec",
    "Statistics",
    "Tested",
    "TraceStep",
    "TracedPacket",
    "Zmq",
    "flow_text",
    "stage",
    "to",
]
