"""A pipeline in the test's own process."""

from pathlib import Path

import pipelines
import pytest
from pipelines import Count, number_in, source, udp

from tuncer.pipeline import Pcap, Pipeline, stage
from tuncer.pipeline.engine import StageError
from tuncer.protocol import pcapng

PACKETS = [udp(n) for n in range(1000)]


def test_what_the_sinks_get() -> None:
    sinks = {"rest": pipelines.nothing, "alarm": pipelines.nothing}
    stages = [pipelines.to_alarm, pipelines.odd_only, Count.spec(workers=2, by="flow")]
    found = Pipeline("p", source, stages, sinks).test(PACKETS)
    assert [number_in(p.data) for p in found.sinks["alarm"]] == list(range(0, 1000, 10))
    assert sorted(number_in(p.data) for p in found.sinks["rest"]) == list(range(1, 1000, 2))
    assert found.stages[1] == ("odd_only", 900, 0, 500, 400, 0)
    assert sum(sum(one.seen.values()) for one in found.objects["count"]) == 500
    assert found.errors == []


@pytest.mark.parametrize("by", ["flow", "any", "ordered", pipelines.key])
def test_a_kill_changes_nothing_that_is_kept(by: object) -> None:
    described = Pipeline("p", source, [Count.spec(workers=3, by=by)])
    killed = described.test(PACKETS, kill={"count": 5}, batch=50)
    whole = described.test(PACKETS, batch=50)
    assert killed.sinks == whole.sinks
    assert killed.stages == whole.stages
    assert [one.seen for one in killed.objects["count"]] == [
        one.seen for one in whole.objects["count"]
    ]
    assert [one.restored for one in killed.objects["count"]].count(True) == 1


def test_a_kill_with_skip_loses_the_batch() -> None:
    found = Pipeline("p", source, [stage(pipelines.same, on_kill="skip")]).test(
        PACKETS, kill={"same": 2}, batch=100
    )
    assert found.lost == 100
    assert [number_in(p.data) for p in found.sinks["out"]] == [*range(100), *range(200, 1000)]


def test_failures_are_told() -> None:
    found = Pipeline("p", source, [pipelines.fails_at_seven]).test(PACKETS)
    assert [name for name, _, _ in found.errors] == ["fails_at_seven"] * 10
    with pytest.raises(StageError):
        Pipeline("p", source, [stage(pipelines.fails_at_seven, on_error="crash")]).test(PACKETS)
    with pytest.raises(ValueError, match="there is no stage 'x' to be killed"):
        Pipeline("p", source, []).test(PACKETS, kill={"x": 1})


def test_a_capture_file(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    path.write_bytes(pcapng.section() + pcapng.interface("lab0", 101) + pcapng.packet(0, 5, udp(3)))
    (packet,) = Pipeline("p", source).test(Pcap(path)).sinks["out"]
    assert (packet.data, packet.timestamp, packet.device) == (udp(3), 5, "lab0")
