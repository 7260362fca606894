"""Packets that are followed through pipelines of real processes."""

import itertools
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pipelines
import pytest
from actors import Counter
from pipelines import Count, udp
from processes import PATIENCE, TUNCER, eventually, run

from supervisor import NoProcess, ProcessDown
from tuncer import Packet
from tuncer.pipeline import Feed, Pcap, Pipeline, PipelineRef, stage


def numbered(number: int) -> Packet:
    return Packet(udp(number), number, 0, "feed")


@contextmanager
def fed(pipeline: Pipeline, packets: Iterator[Packet] | None = None) -> Iterator[PipelineRef]:
    """Run a pipeline through which packets go, without an end."""
    running = pipeline.start_link()
    stopped = threading.Event()

    def feed() -> None:
        given = map(numbered, itertools.count()) if packets is None else packets
        with suppress(BrokenPipeError, NoProcess, ProcessDown):  # the test has failed
            running.feed(itertools.takewhile(lambda _: not stopped.is_set(), given))

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        yield running
    finally:
        stopped.set()
        running.drain()
        thread.join(PATIENCE)
        running.stop()


def ways(running: PipelineRef, count: int) -> list[list[tuple[str, str]]]:
    found = running.trace_packets(count, PATIENCE)
    assert len(found) == count
    assert all(packet.done for packet in found)
    return [[(step.where, step.verdict) for step in packet.steps] for packet in found]


def test_the_way_through_every_stage(tmp_path: Path) -> None:
    sinks = {"out": Pcap(tmp_path / "out"), "alarm": Pcap(tmp_path / "alarm")}
    stages = [pipelines.odd_only, pipelines.twice, Count.spec(workers=2, by="flow")]
    stages += [stage(pipelines.to_alarm_at_multiples_of_5)]
    with fed(Pipeline("p", Feed(), stages, sinks)) as running:
        for packet in running.trace_packets(10, PATIENCE):
            way = [(step.where, step.verdict) for step in packet.steps]
            assert way[0] == ("feed", "read")
            assert packet.summary.startswith("36 bytes, udp 10.0.0.1:100")
            assert packet.done
            if packet.seq % 2 == 0:
                assert way[1:] == [("odd_only", "dropped")]
                continue
            assert way[1:3] == [("odd_only", "passed"), ("twice", "made 2")]
            worker = packet.steps[4].worker
            is_alarm = packet.seq % 5 == 0
            assert way[3:] == [
                (worker, "put"),
                ("source-1", "taken"),
                ("count", "passed"),
                ("to_alarm_at_multiples_of_5", "2 to alarm" if is_alarm else "passed"),
                ("sinks-1", "put"),
                (worker, "taken"),
                ("alarm" if is_alarm else "out", "written"),
            ]
            times = [step.time for step in packet.steps]
            assert times == sorted(times)
            assert times[0] == 0


def test_what_becomes_of_failures() -> None:
    stages = [
        stage(pipelines.fails_at_seven),
        stage(pipelines.same, workers=2, by=pipelines.key_fails_at_three),
    ]
    with fed(Pipeline("p", Feed(), stages)) as running:
        verdicts = {}
        while len(verdicts) < 3:
            for packet in running.trace_packets(64, PATIENCE):
                at = packet.seq % 100
                if at in {3, 7, 9}:
                    last = packet.steps[-1]
                    verdicts[at] = (last.where, last.verdict, last.note)
    assert verdicts[7] == ("fails_at_seven", "failed", "ValueError: seven")
    assert verdicts[3] == ("same", "unassigned", "by=: ValueError('three')")
    assert verdicts[9][:2] == ("same", "passed")


def test_over_kills_each_step_comes_once() -> None:
    stages = [pipelines.same, Count.spec(workers=2, by="flow"), pipelines.same_too]
    with fed(Pipeline("p", Feed(), stages, intensity=1000)) as running:
        for _ in range(20):
            rows = [row for row in running.which_children() if row.ref is not None]
            victim = rows[len(rows) // 2].ref
            assert victim is not None
            threading.Timer(0.002, pipelines.blow, (victim,)).start()
            for way in ways(running, 20):
                assert len(way) == len(set(way)) == 6


def test_a_failure_without_a_text_is_told() -> None:
    with fed(Pipeline("p", Feed(), [pipelines.fails_unspeakably])) as running:
        notes = {p.steps[-1].note for p in running.trace_packets(2, PATIENCE)}
        assert notes == {
            "pipelines.fails_unspeakably.<locals>.Unspeakable: <exception str() failed>",
            "ValueError: bad \\udcff",
        }
        assert running.stats().segments[0].quarantined == 0


def test_the_command_leaves_other_actors_alone() -> None:
    other = Counter.start_link(name="other")
    command = [TUNCER, "trace", "other"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "tuncer: 'other' is no pipeline\n")
    assert other.call("get") == 0


def test_what_kills_its_worker_is_seen_to_be_quarantined() -> None:
    numbers = iter([*range(60), 77, *range(100, 130)])
    gate = threading.Event()

    def packets() -> Iterator[Packet]:
        assert gate.wait(PATIENCE)
        yield from map(numbered, numbers)
        time.sleep(1)

    stages = [stage(pipelines.kills_at_77, workers=1)]
    with fed(Pipeline("p", Feed(), stages), packets()) as running:
        threading.Timer(0.2, gate.set).start()
        found = running.trace_packets(64, PATIENCE)
        (bad,) = [packet for packet in found if packet.steps[-1].verdict == "quarantined"]
    assert bad.seq == 77
    assert bad.steps[-1].note == "its worker was killed"


def test_shed_packets(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    stages = [pipelines.Gate.spec(str(gate), workers=1)]
    with fed(Pipeline("p", Feed(), stages, full="drop", log_bytes=1 << 18)) as running:
        eventually(lambda: running.stats().edges[0].shed)
        for packet in running.trace_packets(3, 1.0):
            assert [step.verdict for step in packet.steps] == ["read", "shed"]
            assert packet.done
        gate.touch()


def test_too_few_packets_and_two_who_trace() -> None:
    running = Pipeline("p", Feed(), [pipelines.same]).start_link()
    assert running.trace_packets(1, 0.05) == []
    first: list[Any] = []
    tracer = threading.Thread(target=lambda: first.append(running.trace_packets(2, 1.0)))
    tracer.start()

    def refused() -> bool:
        try:
            running.trace_packets(1, 0.01)
        except RuntimeError as error:
            return "somebody else traces" in str(error)
        return False

    eventually(refused)
    running.feed([udp(1)])
    tracer.join(PATIENCE)
    assert [len(found) for found in first] == [1]
    for wrong in (0, 65, True, "5"):
        with pytest.raises((TypeError, ValueError), match="a trace is of"):
            running.trace_packets(wrong)  # type: ignore[arg-type]
    for never in (float("inf"), float("nan"), -1, True, "5"):
        with pytest.raises((TypeError, ValueError), match="a trace takes"):
            running.trace_packets(1, never)  # type: ignore[arg-type]
    running.stop()


def test_the_command(tmp_path: Path) -> None:
    with fed(Pipeline("lab", Feed(), [pipelines.odd_only], Pcap(tmp_path / "out"))):
        said = run(TUNCER, "trace", "lab", "4")
        assert said.count("36 bytes, udp 10.0.0.1:100") == 8
        assert said.count("written") == said.count("dropped") == 2
        (one,) = json.loads(run(TUNCER, "trace", "lab", "1", "--json"))
        assert one["done"] is True
        assert one["steps"][0]["verdict"] == "read"
    command = [TUNCER, "trace", "lab", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "tuncer: there is no pipeline 'lab'\n")
