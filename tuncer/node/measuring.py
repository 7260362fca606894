"""What is measured of this user's devices, actors and pipelines, as metrics.

There are no labels that change with a restart: no pids, no times. What has gone is not told any
longer. A device's worker and a pipeline's supervisor are asked once, other actors not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

from supervisor import ActorError, named
from supervisor.tree import Node, snapshot
from tuncer.node.device_rows import SILENT, DeviceRow, device_rows
from tuncer.node.openmetrics import Family

_PATIENCE = 2.0  # seconds that a pipeline may take to answer


def measured() -> list[Family]:
    """Return all metrics as they are now.

    Raises:
        OSError: the runtime directory cannot be used.
    """
    roots = snapshot()
    return [
        *of_devices(device_rows(roots, seconds=0)),
        *of_actors(roots),
        *of_pipelines(dict(_pipelines(roots))),
    ]


class _Measure(NamedTuple):
    """One metric of a thing."""

    name: str
    kind: Literal["counter", "gauge"]
    told: str
    value: Callable[[Any], float | None]
    """Returns the value of a thing; None: it has none now."""
    unit: str = ""


def _families(
    measures: Iterable[_Measure], label: str, things: Mapping[str, Any]
) -> Iterator[Family]:
    """Yield metrics of things, by their names."""
    for name, kind, told, value, unit in measures:
        values = ((who, value(thing)) for who, thing in things.items())
        samples = [({label: who}, float(number)) for who, number in values if number is not None]
        yield Family(name, kind, told, samples, unit)


# -- devices ---------------------------------------------------------------------------------------

_OF_DEVICES = (
    _Measure(
        "tuncer_device_answers",
        "gauge",
        "Whether the device's worker answers.",
        lambda row: row.state != SILENT,
    ),
    _Measure(
        "tuncer_device_up",
        "gauge",
        "Whether the device is up, and has a carrier.",
        lambda row: None if row.state == SILENT else row.state == "up",
    ),
    _Measure(
        "tuncer_device_read_packets",
        "counter",
        "Packets that the kernel sent through the device, and that its workers have read.",
        lambda row: row.read,
    ),
    _Measure(
        "tuncer_device_read_bytes",
        "counter",
        "Bytes of those packets.",
        lambda row: row.read_bytes,
        "bytes",
    ),
    _Measure(
        "tuncer_device_written_packets",
        "counter",
        "Packets that were written to the device.",
        lambda row: row.sent,
    ),
    _Measure(
        "tuncer_device_written_bytes",
        "counter",
        "Bytes of those packets.",
        lambda row: row.sent_bytes,
        "bytes",
    ),
    _Measure(
        "tuncer_device_subscribers",
        "gauge",
        "Subscribers of the device.",
        lambda row: row.subscribers,
    ),
    _Measure(
        "tuncer_device_lag_packets",
        "gauge",
        "Packets that the slowest lossless subscriber is behind.",
        lambda row: row.behind,
    ),
    _Measure(
        "tuncer_device_restarts",
        "counter",
        "Restarts of the device's workers.",
        lambda row: row.restarts,
    ),
)


def of_devices(rows: Iterable[DeviceRow]) -> list[Family]:
    """Return the metrics of devices. Pure."""
    things = {row.name: row for row in rows}
    lost = [
        ({"device": name, "place": place}, float(number))
        for name, row in things.items()
        for place, number in (row.lost or {}).items()
    ]
    told = "Packets that did not get through, by place."
    return [
        *_families(_OF_DEVICES, "device", things),
        Family("tuncer_device_lost_packets", "counter", told, lost),
    ]


# -- actors ----------------------------------------------------------------------------------------

_OF_ACTORS = (
    _Measure(
        "tuncer_actor_runs",
        "gauge",
        "Whether the actor runs.",
        lambda node: node.state == "running",
    ),
    _Measure(
        "tuncer_actor_restarts",
        "counter",
        "Restarts of the actor, since its supervisor began.",
        lambda node: node.restarts,
    ),
    _Measure(
        "tuncer_actor_mailbox_bytes",
        "gauge",
        "Bytes of messages that the actor has not served yet.",
        lambda node: node.mailbox,
        "bytes",
    ),
    _Measure(
        "tuncer_actor_memory_bytes",
        "gauge",
        "Memory of the actor's process (PSS).",
        lambda node: node.memory,
        "bytes",
    ),
)


def of_actors(roots: Iterable[Node]) -> list[Family]:
    """Return the metrics of actors: by their places in the trees. Pure."""
    return list(_families(_OF_ACTORS, "actor", dict(_named(roots))))


def _named(nodes: Iterable[Node], above: str = "") -> Iterator[tuple[str, Node]]:
    """Yield actors with the ids on the way to them; a number tells those of the same id apart."""
    seen: dict[str, int] = {}
    for node in nodes:
        seen[node.id] = seen.get(node.id, 0) + 1
        again = f"#{seen[node.id]}" if seen[node.id] > 1 else ""
        path = f"{above}{node.id}{again}"
        yield path, node
        yield from _named(node.children, f"{path}/")


# -- pipelines -------------------------------------------------------------------------------------


def _pipelines(roots: Iterable[Node]) -> Iterator[tuple[str, Any]]:
    """Yield the pipelines of the trees, and what they have counted."""
    for root in roots:
        for node in root.all():
            if node.start.endswith(":PipelineSupervisor") and node.name is not None:
                from tuncer.pipeline import PipelineRef  # noqa: PLC0415 - not every node has one

                try:
                    yield node.name, named(node.name, PipelineRef).within(_PATIENCE).stats()
                except ActorError:  # it is being restarted, or hangs
                    continue


_PIPELINE_COUNTERS = {
    "sources": ("source", ("read", "missed")),
    "segments": ("process", ("taken", "passed", "lost", "quarantined", "unassigned")),
    "stages": ("stage", ("taken", "made", "out", "dropped", "failed")),
    "sinks": ("sink", ("written", "failed")),
}
"""By the field of the statistics: a label, and the counters."""


def of_pipelines(told: Mapping[str, Any]) -> list[Family]:
    """Return the metrics of pipelines, from their ``Statistics`` by name. Pure."""
    families = []
    for field, (label, counters) in _PIPELINE_COUNTERS.items():
        for counter in counters:
            samples = [
                ({"pipeline": name, label: row.name}, float(getattr(row, counter)))
                for name, statistics in told.items()
                for row in getattr(statistics, field)
            ]
            name = f"tuncer_pipeline_{label}_{counter}_packets"
            meaning = f"Packets, by {label}: {counter}, as docs/pipelines.md explains it."
            families.append(Family(name, "counter", meaning, samples))
    edges = [
        ({"pipeline": name, "from": row.producer, "to": row.consumer}, row)
        for name, statistics in told.items()
        for row in statistics.edges
    ]
    return [
        *families,
        Family(
            "tuncer_pipeline_edge_shed_packets",
            "counter",
            "Packets for which there was no room.",
            [(labels, float(row.shed)) for labels, row in edges],
        ),
        Family(
            "tuncer_pipeline_edge_waiting_packets",
            "gauge",
            "Packets that wait between two processes.",
            [(labels, float(row.waiting)) for labels, row in edges],
        ),
        Family(
            "tuncer_pipeline_edge_waiting_bytes",
            "gauge",
            "Bytes that they take.",
            [(labels, float(row.bytes)) for labels, row in edges],
            "bytes",
        ),
    ]
