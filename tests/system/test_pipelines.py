"""Pipelines of real processes: what comes out, in which order, and what kills leave."""

import contextlib
import io
import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pipelines
import pytest
from devices import TUN
from pipelines import Count, Fragile, Gate, Sums, check_counts, in_file, source, wait
from processes import PATIENCE, Run, eventually, kill
from traffic import send_numbered, send_one

import tuncer
from supervisor import ProcessDown, StartFailed, Supervisor, handler, named
from tuncer.pipeline import Feed, Pcap, Pipeline, PipelineRef, Port, Stage, StageSpec, Zmq, stage
from tuncer.pipeline.feed import name_of
from tuncer.protocol import pcapng


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "out.pcapng"


def test_stages_in_one_process(file: Path) -> None:
    stages = [pipelines.odd_only, pipelines.twice, stage(pipelines.backwards, batch=True)]
    running = Pipeline("p", source, stages, Pcap(file)).start_link()
    stats = wait(running)
    assert sorted(in_file(file)) == sorted([*range(1, 2000, 2), *range(1, 2000, 2)])
    assert [row[1:] for row in stats.stages] == [
        (2000, 0, 1000, 1000, 0),
        (1000, 1000, 2000, 0, 0),
        (2000, 0, 2000, 0, 0),
    ]
    assert stats.sinks == [("out", 2000, 0)]
    (row,) = {tuple(row.workers) for row in running.which_stages()}
    assert len(row) == 1
    running.stop()


@pytest.mark.parametrize("by", ["flow", "any", "ordered", pipelines.key])
def test_workers(file: Path, by: Any) -> None:
    spec = Count.spec(workers=3, by=by)
    running = Pipeline("p", source, [spec, pipelines.same], Pcap(file)).start_link()
    wait(running)
    numbers = in_file(file)
    assert sorted(numbers) == list(range(2000))
    if by == "ordered":
        assert numbers == list(range(2000))
    seen = running.gather(Count.get)
    assert sum(sum(one.values()) for one in seen) == 2000
    if by == "flow":
        assert sum(map(len, seen)) == pipelines.FLOWS  # each flow at one worker
        for flow in range(pipelines.FLOWS):
            of_flow = [number for number in numbers if number % pipelines.FLOWS == flow]
            assert of_flow == sorted(of_flow)
    assert len(set(running.gather(Count.pid))) == 3
    running.stop()


def test_fragments_follow_their_flow_over_a_kill_between_them() -> None:
    spec = pipelines.Datagrams.spec(workers=4, by="flow")
    running = Pipeline("p", Feed(), [spec]).start_link()
    parts = [pipelines.fragments(number, 1000 + number) for number in range(100)]
    running.feed([first for first, _ in parts])
    kill(named(name_of("p")).pid)
    running.feed([rest for _, rest in parts])
    found = eventually(
        lambda: sum(map(len, ids := running.gather(pipelines.Datagrams.get))) == 200 and ids
    )
    assert all(ids.count(one) == 2 for ids in found for one in ids)
    assert min(map(len, found)) > 10
    running.stop()


def test_sinks_by_name(tmp_path: Path) -> None:
    sinks = {"rest": Pcap(tmp_path / "rest"), "alarm": Pcap(tmp_path / "alarm")}
    stages = [pipelines.to_alarm, Count.spec(workers=2, by="flow")]
    running = Pipeline("p", source, stages, sinks).start_link()
    stats = wait(running)
    assert in_file(tmp_path / "alarm") == list(range(0, 2000, 10))
    assert sorted(in_file(tmp_path / "rest")) == [n for n in range(2000) if n % 10]
    passed = {segment.name: segment.passed for segment in stats.segments}
    assert passed == {"source": 0, "count": 200, "sinks": 2000}
    running.stop()


def test_failures_are_counted_and_go_where_they_are_to(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sinks = {"out": Pcap(tmp_path / "out"), "bad": Pcap(tmp_path / "bad")}
    stages = [stage(pipelines.fails_at_seven, on_error="to:bad")]
    running = Pipeline("p", source, stages, sinks).start_link()
    stats = wait(running)
    assert in_file(tmp_path / "bad") == list(range(7, 2000, 100))
    assert stats.stages[0].failed == 20
    assert stats.stages[0].out == 2000
    running.stop()
    said = capfd.readouterr().err
    assert said.count("ValueError: seven") == 1
    assert 'raise ValueError("seven")' in said


@pytest.mark.parametrize("on_error", ["skip", "to:bad", "crash"])
def test_a_key_that_fails_is_treated_as_its_stage_says(tmp_path: Path, on_error: str) -> None:
    sinks = {"out": Pcap(tmp_path / "out"), "bad": Pcap(tmp_path / "bad")}
    by = pipelines.key_fails_at_seven
    spec = stage(pipelines.same, workers=2, by=by, on_error=on_error)
    plan = Pipeline("p", source, [spec], sinks, intensity=1000)
    tested = plan.test([pipelines.udp(n) for n in range(2000)]) if on_error != "crash" else None
    running = plan.start_link()
    stats = wait(running)
    sevens = list(range(7, 2000, 100))
    assert sorted(in_file(tmp_path / "out")) == [n for n in range(2000) if n not in sevens]
    assert in_file(tmp_path / "bad") == (sevens if on_error == "to:bad" else [])
    unassigned, *_ = (segment.unassigned for segment in stats.segments)
    assert unassigned == (20 if on_error == "skip" else 0)
    assert stats.segments[0].quarantined == (20 if on_error == "crash" else 0)
    check_counts(stats)
    running.stop()
    if tested is not None:
        assert len(tested.errors) == 20
        assert len(tested.sinks["out"]) == 1980
        assert len(tested.sinks["bad"]) == (20 if on_error == "to:bad" else 0)


@pytest.mark.parametrize("workers", [None, 2])
def test_what_kills_its_worker_is_quarantined(
    file: Path, tmp_path: Path, workers: int | None
) -> None:
    quarantine = tmp_path / "quarantine.pcapng"
    stages = [stage(pipelines.kills_at_77, workers=workers)]
    running = Pipeline("p", source, stages, Pcap(file), quarantine=quarantine).start_link()
    stats = wait(running)
    assert sorted(in_file(file)) == [n for n in range(2000) if n != 77]
    assert in_file(quarantine) == [77]
    assert sum(segment.quarantined for segment in stats.segments) == 1
    running.stop()


def test_the_reason_of_a_crash_stands_in_the_quarantine(
    file: Path, tmp_path: Path, run: Run
) -> None:
    quarantine = tmp_path / "quarantine.pcapng"
    stages = [stage(pipelines.fails_at_seven, on_error="crash")]
    running = Pipeline(
        "p", source, stages, Pcap(file), quarantine=quarantine, intensity=1000
    ).start_link()
    running.wait(60)
    assert in_file(file) == [n for n in range(2000) if n % 100 != 7]
    assert in_file(quarantine) == list(range(7, 2000, 100))
    said = run("tshark", "-r", str(quarantine), "-T", "fields", "-e", "frame.comment")
    assert said.count("ValueError: seven") == 20
    assert 'raise ValueError(\\"seven\\")' in said or 'raise ValueError("seven")' in said
    running.stop()


def test_packets_in_hand_at_a_kill_may_be_skipped(file: Path) -> None:
    stages = [stage(pipelines.kills_at_77, on_kill="skip")]
    running = Pipeline("p", source, stages, Pcap(file)).start_link()
    stats = wait(running)
    lost = stats.segments[0].lost
    assert 0 < lost <= 256
    numbers = in_file(file)
    assert len(numbers) == 2000 - lost
    assert 77 not in numbers
    running.stop()


def kill_at_random(running: PipelineRef, seed: int, kills: int) -> None:
    """Kill workers of a pipeline; each time wait until it has one again."""
    rnd = random.Random(seed)
    for _ in range(kills):
        rows = eventually(lambda: [row for row in running.which_children() if row.ref is not None])
        ref = rnd.choice([row for row in rows if row.id.partition(" ")[0] != "device"]).ref
        assert ref is not None
        with contextlib.suppress(Exception):
            os.kill(ref.pid, signal.SIGKILL)
        time.sleep(rnd.random() * 0.1)


@pytest.mark.slow
@pytest.mark.parametrize("by", ["flow", "ordered"])
def test_random_kills_lose_nothing_and_repeat_nothing(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: Any
) -> None:
    """In the file and in what is kept, each packet counts exactly once, in its order."""
    monkeypatch.setenv("PACKETS", "30000")
    kept = Count.spec(workers=2, by=by)
    stages = [pipelines.same, kept, stage(pipelines.odd_only, workers=1)]
    quarantine = tmp_path / "quarantine"
    described = Pipeline("p", source, stages, Pcap(file), quarantine=quarantine)
    running = described.start_link()
    kill_at_random(running, 1, 25)
    stats = wait(running)
    quarantined = in_file(quarantine) if quarantine.exists() else []
    assert sorted(in_file(file) + [n for n in quarantined if n % 2]) == list(range(1, 30000, 2))
    seen = running.gather(Count.get)
    of_source = stats.segments[0].quarantined
    assert sum(sum(one.values()) for one in seen) >= 30000 - of_source - len(quarantined)
    assert sum(sum(one.values()) for one in seen) <= 30000
    numbers = in_file(file)
    if by == "ordered":
        assert numbers == sorted(numbers)
    for flow in range(pipelines.FLOWS):
        of_flow = [number for number in numbers if number % pipelines.FLOWS == flow]
        assert of_flow == sorted(of_flow)
    running.stop()


def test_a_full_edge_holds_the_source_back(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("PACKETS", "20000")
    gate = tmp_path / "gate"
    stages = [Gate.spec(str(gate), workers=1)]
    running = Pipeline("p", source, stages, log_bytes=1 << 18).start_link()
    before = eventually(lambda: running.stats().edges[0].bytes > 200_000 and running.stats())
    assert before.edges[0].put < 20_000
    assert before.sources[0].read == before.edges[0].put
    gate.touch()
    assert wait(running).stages[0].out == 20_000
    running.stop()


def test_what_has_no_room_is_shed(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("PACKETS", "20000")
    gate = tmp_path / "gate"
    stages = [Gate.spec(str(gate), workers=1)]
    running = Pipeline("p", source, stages, full="drop", log_bytes=1 << 18).start_link()
    eventually(lambda: running.stats().sources[0].read == 20_000)
    gate.touch()
    stats = wait(running)
    assert stats.edges[0].shed > 0
    assert stats.edges[0].put + stats.edges[0].shed == 20_000
    running.stop()


def test_stop_says_what_its_deadline_cuts_off(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("PACKETS", "20000")
    stages = [Gate.spec(str(tmp_path / "never"), workers=1)]
    running = Pipeline("p", source, stages, log_bytes=1 << 18).start_link()
    eventually(lambda: running.stats().edges[0].put > 0)
    stats = running.stop(0.1)
    assert stats.edges[0].waiting == stats.edges[0].put > 0
    assert not running.is_alive()


def test_a_worker_that_is_given_up_ends_the_pipeline(
    file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    running = Pipeline("p", pipelines.stops_then_fails, [], Pcap(file), intensity=3).start_link()
    with pytest.raises(ProcessDown):
        running.wait(PATIENCE)
    assert "gives up: more than 3 restarts" in capfd.readouterr().err
    assert in_file(file) == list(range(300))


def test_what_is_kept_and_too_long_ends_the_pipeline_and_blames_no_packet(
    file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    quarantine = tmp_path / "quarantine"
    described = Pipeline(
        "p", source, [pipelines.Grows], Pcap(file), quarantine=quarantine, intensity=3
    )
    with pytest.raises(ProcessDown):
        described.start_link().wait(PATIENCE)
    assert "gives up: source-1: what the stages keep takes 1" in capfd.readouterr().err
    assert not quarantine.exists()
    assert in_file(file)[:1500] == list(range(1500))


def test_what_cannot_be_kept_is_said_at_the_start(tmp_path: Path) -> None:
    quarantine = tmp_path / "quarantine"
    with pytest.raises(StartFailed, match="what the stages keep cannot be written"):
        Pipeline("p", source, [pipelines.Tallies], quarantine=quarantine).start_link()
    assert not quarantine.exists()


def test_a_stage_that_forks_has_each_packet_delivered_once(file: Path) -> None:
    running = Pipeline("p", source, [pipelines.forks_at_77], Pcap(file)).start_link()
    wait(running)
    running.stop()
    assert in_file(file) == list(range(2000))


def test_a_quarantine_that_cannot_be_written_is_said_at_the_start(tmp_path: Path) -> None:
    described = Pipeline("p", source, [], quarantine=tmp_path / "nowhere" / "file")
    with pytest.raises(StartFailed, match="the quarantine file cannot be written: No such file"):
        described.start_link()


def test_an_iterator_is_a_source_once() -> None:
    described = Pipeline("p", pipelines.packets_of(10), [pipelines.same])
    running = described.start_link()
    wait(running)
    running.stop()
    with pytest.raises(ValueError, match="a former start has read"):
        described.start_link()
    again = Pipeline("p", [pipelines.udp(1)], [pipelines.same])
    for _ in range(2):
        running = again.start_link()
        assert wait(running).sources[0].read == 1
        running.stop()


def test_what_stages_give_in_the_end(file: Path) -> None:
    stages = [pipelines.odd_only, Sums.spec(workers=2, by="flow"), pipelines.twice]
    running = Pipeline("p", source, stages, Pcap(file)).start_link()
    stats = wait(running)
    found = in_file(file)
    assert len(found) == 4
    assert sum(found) == 2000
    assert stats.stages[1] == ("sums", 1000, 2, 2, 1000, 0)
    running.stop()
    tested = Pipeline("p", source, stages).test(pipelines.packets_of(2000))
    assert sum(pipelines.number_in(packet.data) for packet in tested.sinks["out"]) == 2000


def test_stages_may_make_more_than_fits_into_a_record(file: Path) -> None:
    stages = [pipelines.eightfold, stage(pipelines.same, workers=1)]
    running = Pipeline("p", pipelines.large, stages, Pcap(file)).start_link()
    assert wait(running).stages[1].out == 16_000
    assert in_file(file) == [n for n in range(2000) for _ in range(8)]
    running.stop()


def test_a_kill_between_a_commit_and_what_tells_of_it(file: Path) -> None:
    """A successor tells its neighbours: they may not know what its predecessor has committed."""
    stages = [Count.spec(workers=2, by="flow"), stage(pipelines.same, workers=1)]
    running = Pipeline("p", pipelines.source, stages, Pcap(file)).start_link()
    wait(running)
    for row in running.which_children():
        assert row.ref is not None
        kill(row.ref.pid)
        running.child(row.id)
    wait(running)  # the last one has told again
    running.stop()


@pytest.mark.parametrize("workers", [None, 1])
@pytest.mark.parametrize("number", range(1, 13))
def test_a_kill_before_neighbours_are_told(
    file: Path, tmp_path: Path, workers: int | None, number: int
) -> None:
    """A source of two transactions, and one edge: each write of an eventfd is the last once."""
    marker = tmp_path / "marker"
    fragile = Fragile.spec(str(marker), number, workers=workers)
    last = stage(pipelines.same, workers=1)
    running = Pipeline("p", pipelines.few, [fragile, last], Pcap(file)).start_link()
    wait(running)
    assert marker.exists() or number > 4
    assert in_file(file) == list(range(300))
    running.stop()


def test_a_pipeline_that_was_stopped_below_a_supervisor_begins_anew(file: Path) -> None:
    described = Pipeline("p", source, [Count], Pcap(file))
    sup = Supervisor.start_link([described.child_spec(restart="permanent")], intensity=10)
    for _ in range(2):
        running = sup.child("p", PipelineRef)
        wait(running)
        assert running.stats().sources[0].read == 2000
        running.stop()
    wait(sup.child("p", PipelineRef))
    assert in_file(file) == list(range(2000))
    sup.stop()


# -- devices ---------------------------------------------------------------------------------------


def test_from_device_to_device_over_kills(run: Run, file: Path) -> None:
    """Each packet that the source's worker has read comes out, whoever is killed."""
    port = Port("in0", addresses=["10.9.0.1/24"])
    stages = [Count.spec(workers=2, by="flow")]
    running = Pipeline("p", port, stages, {"copy": Pcap(file)}).start_link()
    eventually(lambda: running.stats().sources[0].read >= 0 and running.which_stages())
    with send_numbered("10.9.0.2", 5000, 10_000) as sending:
        kill_at_random(running, 2, 10)
        assert sending.wait(PATIENCE) == 0
    head = tuncer.attach("in0").statistics()["packets_read"]
    eventually(lambda: running.stats().sources[0].read == head)
    stats = running.stop()
    check_counts(stats)
    numbers = [
        int.from_bytes(record.data[28:36], "big")
        for record in pcapng.read(io.BytesIO(file.read_bytes()))
        if len(record.data) == 36
    ]
    quarantined = sum(segment.quarantined for segment in stats.segments)
    assert len(set(numbers)) == len(numbers) >= 10_000 - quarantined - stats.sources[0].missed
    assert numbers == sorted(numbers)


def test_packets_go_out_by_a_device(run: Run) -> None:
    out = Port("out0", addresses=["10.8.0.1/24"])
    running = Pipeline("p", source, [pipelines.odd_only], out).start_link()
    stats = wait(running)
    assert stats.sinks == [("out", 1000, 0)]
    assert tuncer.attach("out0").statistics()["kernel"]["rx_packets"] == 1000
    running.stop()
    assert "out0" not in run("ip", "-br", "link")


def test_a_device_of_ones_own_stays() -> None:
    with tuncer.create("lab0", TUN) as device:
        device.up("10.9.0.1/24")
        running = Pipeline("p", device, [Count]).start_link()
        eventually(lambda: tuncer.attach("lab0") and running.which_stages())
        send_one("10.9.0.2", b"x")
        eventually(lambda: running.stats().stages[0].out > 0)
        running.stop()
        assert tuncer.attach("lab0") == device


def test_a_device_that_is_deleted_is_made_again(run: Run) -> None:
    port = Port("in0", addresses=["10.9.0.1/24"])
    running = Pipeline("p", port, [Count]).start_link()
    send_one("10.9.0.2", b"x")
    before = eventually(lambda: running.stats().stages[0].out)
    run("ip", "link", "delete", "in0")
    eventually(lambda: "10.9.0.0/24" in run("ip", "route"))  # it is up again
    send_one("10.9.0.2", b"x")
    eventually(lambda: running.stats().stages[0].out > before)
    running.stop()


# -- under a supervisor ----------------------------------------------------------------------------


def test_under_ones_own_supervisor_a_killed_pipeline_supervisor_loses_nothing(
    file: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("PACKETS", "20000")
    described = Pipeline("p", source, [Count.spec(workers=2, by="flow")], Pcap(file))
    sup = Supervisor.start_link([described.child_spec()], intensity=10)
    running = sup.child("p", PipelineRef)
    eventually(lambda: running.stats().sources[0].read > 0)
    kill(running.pid)
    running = sup.child("p", PipelineRef)
    wait(running)
    assert sorted(in_file(file)) == list(range(20_000))
    assert sum(sum(one.values()) for one in running.gather(Count.get)) == 20_000
    sup.stop()


def test_a_stage_emits_packets_of_its_own(file: Path) -> None:
    delays = pipelines.Delays.spec(0.05, workers=2, by="flow")
    running = Pipeline("p", pipelines.trickle(), [delays, pipelines.same], Pcap(file)).start_link()
    stats = wait(running)
    assert sorted(in_file(file)) == list(range(300))
    for flow in range(pipelines.FLOWS):
        of_flow = [number for number in in_file(file) if number % pipelines.FLOWS == flow]
        assert of_flow == sorted(of_flow)
    assert stats.stages[0].made == stats.stages[0].dropped == 300
    running.stop()


def test_what_is_emitted_survives_kills_with_what_is_kept(file: Path) -> None:
    """What a timer changes of what is kept, and what it emits, are one commit."""
    rng = random.Random(5)
    delays = pipelines.Delays.spec(0.02, workers=1)
    stages = [delays, stage(pipelines.same, workers=1)]
    running = Pipeline("p", Feed(), stages, Pcap(file), intensity=1000).start_link()

    def feed() -> None:
        running.feed(pipelines.trickle())
        running.end_feed()
        running.wait()

    waiter = threading.Thread(target=feed)
    waiter.start()
    kills = 0
    while waiter.is_alive():
        rows = [row.ref for row in running.which_children() if row.ref is not None]
        if rows:  # all may be being restarted
            pipelines.blow(rng.choice(rows))
            kills += 1
        waiter.join(rng.uniform(0.01, 0.05))
    assert kills > 3
    check_counts(running.stats())
    assert sorted(in_file(file)) == list(range(300))
    running.stop()


def test_what_is_emitted_does_not_hide_which_packet_kills(tmp_path: Path, file: Path) -> None:
    quarantine = tmp_path / "quarantine"
    running = Pipeline(
        "p", source, [stage(pipelines.Ticks)], Pcap(file), quarantine=quarantine, intensity=1000
    ).start_link()
    running.wait(PATIENCE)
    assert in_file(quarantine) == [77]
    assert [n for n in in_file(file) if n != 1 << 40] == [n for n in range(2000) if n != 77]
    running.stop()


def test_what_is_emitted_waits_for_room_and_is_not_lost(tmp_path: Path, file: Path) -> None:
    gate = tmp_path / "gate"
    stages = [pipelines.Chatters.spec(workers=1), pipelines.Gate.spec(str(gate), workers=1)]
    running = Pipeline("p", Feed(), stages, Pcap(file), log_bytes=1 << 18).start_link()
    eventually(lambda: sum(running.gather(pipelines.Chatters.count)) > 1000)
    gate.touch()
    running.end_feed()
    wait(running)
    emitted = sum(running.gather(pipelines.Chatters.count))
    eventually(lambda: sum(running.gather(pipelines.Chatters.count)) > emitted)  # it goes on
    found = in_file(file)
    assert found == list(range(1, len(found) + 1))
    assert 1000 < len(found) <= emitted
    running.stop()


def test_stop_is_exact_about_what_remained(tmp_path: Path, monkeypatch: Any) -> None:
    """What is told as waiting is not delivered afterwards."""
    monkeypatch.setenv("BYTES", str(tmp_path / "bytes"))
    stages = [stage(pipelines.slowly, workers=1)]
    running = Pipeline("p", Feed(), stages, pipelines.append_byte).start_link()
    running.feed(map(pipelines.udp, range(2000)))
    eventually(lambda: running.stats().sinks[0].written)
    stats = running.stop(0.05)
    (edge, *_), (sink,) = stats.edges, stats.sinks
    assert 0 < sink.written < 2000
    assert sink.written + edge.waiting == 2000
    assert (tmp_path / "bytes").stat().st_size == sink.written


def test_stop_takes_what_the_device_had_read(run: Run) -> None:
    port = Port("in0", addresses=["10.9.0.1/24"])
    running = Pipeline("p", port, [stage(pipelines.slowly)]).start_link()
    with send_numbered("10.9.0.2", 20_000, 1000) as sender:
        assert sender.wait(PATIENCE) == 0
    stats = running.stop(None)
    (source_counts,) = stats.sources
    assert source_counts.read + source_counts.missed >= 1000
    assert stats.stages[0].out == source_counts.read


def test_stopped_below_a_supervisor_it_stays_so(file: Path) -> None:
    sup = Supervisor.start_link([Pipeline("p", source, [], Pcap(file)).child_spec()])
    running = sup.child("p", PipelineRef)
    wait(running)
    running.stop()
    eventually(lambda: [row.ref for row in sup.which_children()], [None])
    assert in_file(file) == list(range(2000))
    sup.stop()


def test_where_nothing_can_be_emitted() -> None:
    (failed,) = Pipeline("p", pipelines.few, [pipelines.Emits]).test([b"x"]).errors
    assert str(failed[2]) == "Emits runs in no worker, and emits nothing"
    emits = stage(pipelines.Emits, workers=2, by="ordered", on_error="skip")
    running = Pipeline("p", pipelines.few, [emits]).start_link()
    stats = wait(running)
    assert stats.stages[0].failed == 300
    running.stop()


def test_order_over_transactions_of_which_nothing_is_left(file: Path) -> None:
    stages = [pipelines.mostly_dropped, stage(pipelines.same, workers=3, by="ordered")]
    running = Pipeline("p", source, [*stages, pipelines.same_too], Pcap(file)).start_link()
    wait(running)
    assert in_file(file) == [n for n in range(2000) if n // 256 in {0, 3, 4, 7}]
    running.stop()


class Late(Stage):
    def init(self) -> None:
        self.count = 0
        self.call_every(0.01, self.tick)

    def tick(self) -> None:
        self.count += 1

    def handle_batch(self, packets: Any) -> Any:
        return packets

    @handler
    def ticks(self) -> int:
        return self.count


def test_timers_and_calls_beside_packets() -> None:
    running = Pipeline("p", source, [Late]).start_link()
    eventually(lambda: running.gather(Late.ticks)[0] > 3)
    (row,) = running.which_stages()
    assert row.workers[0].call(Late.ticks) > 3
    with pytest.raises(LookupError, match=r"0 stages of this pipeline have 'Count.get'"):
        running.gather(Count.get)
    wait(running)
    running.stop()


# -- what is wrong is said at once -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Pipeline("a b", source), "a name has 1 to 64 letters"),
        (lambda: Pcap("x", rotate_bytes="1M"), "rotate_bytes is a number"),  # type: ignore[arg-type]
        (lambda: Pipeline("p", source, intensity=-1), "intensity"),
        (lambda: Pipeline("p", source, period=0), "period"),
        (lambda: stage(pipelines.same, watchdog=-1), "watchdog is above 0"),
        (lambda: stage(pipelines.same, batch=1), "batch is True or False"),
        (lambda: Pcap("x", rotate_seconds=0), "rotate_seconds is above 0"),
        (lambda: Pipeline("p", source, [], Pcap("x"), quarantine="x"), "write the same file"),
        (lambda: Pipeline("p", [Port("a0"), Port("a0")]), "a device is a source twice"),
        (
            lambda: Pipeline("p", source, [], {"a": Zmq("ipc://x"), "b": Zmq("ipc://x")}),
            "an endpoint is a sink twice",
        ),
        (lambda: Pipeline("p", io.BytesIO()), r"a stream is a source as Pcap\(stream\)"),
        (lambda: Pipeline("p", 5), "a source is a Port, a Pcap, a Zmq, a Feed, a Device, a"),
        (lambda: Pipeline("p", source, [Stage]), "Stage has no handle_batch of its own"),
        (lambda: Zmq("ipc://x", topic=5), "a topic is text"),  # type: ignore[arg-type]
        (lambda: Zmq("ipc://x", topic="x" * 256), "a topic has 255 bytes at most"),
        (lambda: Zmq("ipc://x", subscribers=-1), "subscribers is 0 or above"),
        (lambda: Pcap("x", snaplen=-1), "snaplen is 0 or above"),
        (lambda: Pcap("x", snaplen="x"), "snaplen is a number"),  # type: ignore[arg-type]
        (lambda: Pipeline("p", source, [5]), "a stage is a function of a packet, or a subclass"),
        (lambda: Pipeline("p", source, [lambda p: p]), "must stand at the top level of a module"),
        (lambda: Pipeline("p", source, [pipelines.same, pipelines.same]), "two stages are called"),
        (lambda: Pipeline("p", source, [], {"a": 5}), "sink 'a' is a Port, a Pcap, a Zmq"),
        (lambda: Pipeline("p", source, [stage(pipelines.same, by="flow")]), "give workers="),
        (lambda: stage(pipelines.same, workers=0), "workers is a number from 1 to 64"),
        (lambda: stage(pipelines.same, on_error="to:"), "on_error is 'skip', 'crash' or 'to:NAME'"),
        (
            lambda: Pipeline("p", source, [stage(pipelines.same, on_error="to:x")]),
            "on_error='to:x', but there is no such sink",
        ),
        (lambda: Pipeline("p", source, [Count.spec(object())]), "an argument of init: .*object"),
        (lambda: Pipeline("p", source, log_bytes=5), "log_bytes is a multiple of 4096"),
        (
            lambda: Pipeline(
                "p",
                [source, source],
                [stage(pipelines.same, workers=2, by="ordered")],
            ),
            "restores the order of one worker's packets",
        ),
        (
            lambda: Pipeline("p", source, [Sums.spec(workers=2, by="ordered")]),
            "what handle_end gives has no place in the order",
        ),
        (
            lambda: Pipeline(
                "p", source, [stage(pipelines.same, workers=2, by="ordered")], full="drop"
            ),
            "by='ordered' needs full='wait'",
        ),
        (lambda: Pipeline("p", Pcap("a"), [], Pcap("./a")), "is a source and a sink"),
        (
            lambda: Pipeline("p", source, [], {"a": Pcap("a"), "b": Pcap("./a")}),
            "two sinks write the same file",
        ),
        (lambda: StageSpec(pipelines.same, (1,)), "gets no further arguments: write a Stage"),
        (lambda: Port(""), "a pipeline's device has a name"),
    ],
)
def test_what_is_wrong_is_said_at_once(make: Any, says: str) -> None:
    with pytest.raises((TypeError, ValueError), match=says):
        make()
