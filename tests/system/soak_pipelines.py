"""Hundreds of kills of a pipeline's processes under load: every packet is accounted for, once."""

import contextlib
import io
import os
import random
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pipelines
import pytest
from pipelines import Count, check_counts, in_file, source
from processes import PATIENCE, eventually
from traffic import number_of, send_numbered

import tuncer
from tuncer.pipeline import Feed, Pcap, Pipeline, PipelineRef, Port, stage
from tuncer.protocol import pcapng

KILLS = 200


def kill_workers(running: PipelineRef, seed: int, kills: int) -> None:
    rnd = random.Random(seed)
    done = 0
    while done < kills:
        rows = [row for row in running.which_children() if row.ref is not None]
        chosen = [row for row in rows if not row.id.startswith("device")]
        for row in rnd.sample(chosen, min(len(chosen), rnd.choice([1, 1, 1, 2]))):
            assert row.ref is not None
            with contextlib.suppress(Exception):
                os.kill(row.ref.pid, signal.SIGKILL)
                done += 1
        time.sleep(rnd.random() * 0.1)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("by", ["flow", "any", "ordered"])
@pytest.mark.parametrize("seed", [1, 2])
def test_kills_of_a_pipeline_from_a_function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: Any, seed: int
) -> None:
    monkeypatch.setenv("PACKETS", "100000")
    out, bad = tmp_path / "out.pcapng", tmp_path / "bad.pcapng"
    stages = [
        pipelines.same,
        Count.spec(workers=3, by=by),
        stage(pipelines.same, name="last", workers=1),
    ]
    running = Pipeline("p", source, stages, Pcap(out), quarantine=bad, intensity=1000).start_link()
    kill_workers(running, seed, KILLS)
    running.wait(300)
    stats = running.stats()
    check_counts(stats)
    quarantined = in_file(bad) if bad.exists() else []
    assert sorted(in_file(out) + quarantined) == list(range(100_000))
    counted = sum(sum(one.values()) for one in running.gather(Count.get))
    assert 100_000 - len(quarantined) <= counted <= 100_000
    if by == "ordered":
        assert in_file(out) == sorted(in_file(out))
    running.stop()


@pytest.mark.timeout(600)
def test_kills_of_a_pipeline_from_a_device(tmp_path: Path) -> None:
    out = tmp_path / "out.pcapng"
    port = Port("in0", addresses=["10.9.0.1/24"])
    stages = [Count.spec(workers=2, by="flow")]
    running = Pipeline("p", port, stages, Pcap(out), intensity=1000).start_link()
    with send_numbered("10.9.0.2", 10_000, 200_000) as sending:
        kill_workers(running, 1, KILLS)
        assert sending.wait(PATIENCE) == 0
    head = tuncer.attach("in0").statistics()["packets_read"]
    eventually(lambda: running.stats().sources[0].read == head, within=100)
    stats = running.stop(100)
    check_counts(stats)
    records = pcapng.read(io.BytesIO(out.read_bytes()))
    numbers = [n for record in records if (n := number_of(record.data)) is not None]
    quarantined = sum(segment.quarantined for segment in stats.segments)
    assert numbers == sorted(set(numbers))
    assert len(numbers) >= 200_000 - stats.sources[0].missed - quarantined


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [1, 2])
def test_kills_of_two_pipelines_and_what_a_program_feeds(tmp_path: Path, seed: int) -> None:
    """A program feeds a pipeline, and that another one: each packet arrives once."""
    out, bad = tmp_path / "out.pcapng", tmp_path / "bad.pcapng"
    flows = Count.spec(workers=2, by="flow")
    second = Pipeline("second", Feed(), [flows], Pcap(out), quarantine=bad, intensity=1000)
    below = second.start_link()
    stages = [stage(pipelines.same, workers=2)]
    above = Pipeline("first", Feed(), stages, second, quarantine=bad, intensity=1000).start_link()
    count = 300_000
    fed = threading.Thread(target=above.feed, args=(map(pipelines.udp, range(count)),))
    fed.start()
    kill_workers(above, seed, KILLS // 2)
    kill_workers(below, seed, KILLS // 2)
    fed.join(300)
    assert not fed.is_alive()
    for running in (above, below):
        running.end_feed()
        running.wait(60)
        check_counts(running.stats())
    quarantined = in_file(bad) if bad.exists() else []
    found = Counter(in_file(out) + quarantined)
    assert [n for n in range(count) if found[n] != 1] == []
    counted = sum(sum(one.values()) for one in below.gather(Count.get))
    assert count - len(quarantined) <= counted <= count
    above.stop()
    below.stop()
