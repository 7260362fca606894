"""Metrics: Prometheus' own parser reads them, whatever the names."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from supervisor.tree import Node
from tuncer.node.device_rows import SILENT, DeviceRow
from tuncer.node.measuring import of_actors, of_devices, of_pipelines
from tuncer.node.openmetrics import Family, text
from tuncer.pipeline.statistics import (
    EdgeCounts,
    SegmentCounts,
    SinkCounts,
    SourceCounts,
    StageCounts,
    Statistics,
)

names = st.text(min_size=1, max_size=12)
numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers(0, 2**53)


def read(families: list[Family]) -> dict[str, dict[tuple[str, ...], float]]:
    """Return values by name and labels."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text(families)):
        for sample in family.samples:
            values = found.setdefault(sample.name, {})
            assert tuple(sample.labels.values()) not in values
            values[tuple(sample.labels.values())] = sample.value
    return found


@given(st.dictionaries(names.filter(str.isprintable), numbers), names)
def test_any_labels_and_values_are_read_back(values: dict[str, float], told: str) -> None:
    gauge = Family("a_gauge", "gauge", told, [({"who": who}, v) for who, v in values.items()])
    found = read([gauge])
    assert found.get("a_gauge", {}) == {(who,): value for who, value in values.items()}


def test_devices() -> None:
    rows = [
        DeviceRow("lab0", "up", read=5, lost={"kernel": 2, "write": 0}, restarts=1, behind=7),
        DeviceRow("hung0", SILENT),
    ]
    found = read(of_devices(rows))
    assert found["tuncer_device_answers"] == {("lab0",): 1, ("hung0",): 0}
    assert found["tuncer_device_up"] == {("lab0",): 1}
    assert found["tuncer_device_read_packets_total"] == {("lab0",): 5}
    assert found["tuncer_device_lost_packets_total"] == {
        ("lab0", "kernel"): 2,
        ("lab0", "write"): 0,
    }
    assert found["tuncer_device_restarts_total"] == {("lab0",): 1}
    assert found["tuncer_device_lag_packets"] == {("lab0",): 7}


def test_actors_of_the_same_id_are_told_apart() -> None:
    below = Node("a", "running", restarts=3, memory=9)
    roots = [Node("Supervisor", "running", children=[below]), Node("Supervisor", "silent")]
    found = read(of_actors(roots))
    assert found["tuncer_actor_runs"] == {
        ("Supervisor",): 1,
        ("Supervisor/a",): 1,
        ("Supervisor#2",): 0,
    }
    assert found["tuncer_actor_restarts_total"]["Supervisor/a",] == 3


def test_pipelines() -> None:
    statistics = Statistics(
        [SourceCounts("lab0", 10, 1)],
        [SegmentCounts("source", 10, 0, 2, 0, 0)],
        [StageCounts("count", 8, 0, 8, 0, 0)],
        [EdgeCounts("source-1", "count-1", 8, 6, 0, 99)],
        [SinkCounts("out", 6, 0)],
    )
    found: dict[str, Any] = read(of_pipelines({"edge": statistics}))
    assert found["tuncer_pipeline_source_missed_packets_total"] == {("edge", "lab0"): 1}
    assert found["tuncer_pipeline_process_lost_packets_total"] == {("edge", "source"): 2}
    assert found["tuncer_pipeline_stage_out_packets_total"] == {("edge", "count"): 8}
    assert found["tuncer_pipeline_sink_written_packets_total"] == {("edge", "out"): 6}
    waiting = ("edge", "source-1", "count-1")
    assert found["tuncer_pipeline_edge_waiting_packets"] == {waiting: 2}
    assert found["tuncer_pipeline_edge_waiting_bytes"] == {waiting: 99}
    assert read(of_pipelines({})) == {}
