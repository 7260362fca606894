"""Pipelines that others feed: a program, a capture stream, another pipeline."""

import itertools
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pipelines
import pytest
from pipelines import Count, blow, check_counts, in_file, source, udp, wait
from processes import PATIENCE, eventually, heed_ctrl_c

from supervisor import NoProcess, ProcessDown, Ref, Supervisor, named
from tuncer.pipeline import Feed, Pcap, Pipeline, PipelineRef, stage
from tuncer.pipeline.feed import name_of
from tuncer.protocol import pcapng
from tuncer.protocol.pcapng import CaptureError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "out.pcapng"


def numbered(count: int) -> Iterator[bytes]:
    return map(udp, range(count))


def with_paths() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def workers_of(running: PipelineRef) -> list[Ref]:
    return [row.ref for row in running.which_children() if row.ref is not None]


def test_a_program_feeds_a_pipeline(file: Path) -> None:
    running = Pipeline("p", Feed(), [Count.spec(workers=2, by="flow")], Pcap(file)).start_link()
    assert running.feed(numbered(2000)) == 2000
    assert running.feed([udp(2000)]) == 1
    running.end_feed()
    stats = wait(running)
    assert sorted(in_file(file)) == list(range(2001))
    assert stats.sources[0].read == 2001
    running.end_feed()  # once more does no harm
    with pytest.raises(BrokenPipeError, match="has ended"):
        running.feed([udp(1)])
    running.stop()
    with pytest.raises(NoProcess):
        named(name_of("p")).call("get", timeout=1)


@pytest.mark.parametrize("times", [1, 2])
def test_any_iterable_is_a_source(file: Path, times: int) -> None:
    packets: Any = list(numbered(300)) if times == 1 else numbered(300)
    running = Pipeline("p", packets, [pipelines.same], Pcap(file)).start_link()
    stats = wait(running)
    assert in_file(file) == list(range(300))
    assert stats.sources == [("feed", 300, 0)]
    running.stop()


def test_what_an_iterable_raises_ends_it_after_what_it_has_given(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    running = Pipeline("p", pipelines.stops_then_fails(), [], Pcap(file)).start_link()
    wait(running)
    assert in_file(file) == list(range(300))
    assert "p: the source ends early" in caplog.text
    assert "ValueError: the source is broken" in caplog.text
    running.stop()
    running = Pipeline("p", Feed(), [], Pcap(file)).start_link()
    with pytest.raises(ValueError, match="the source is broken"):
        running.feed(pipelines.stops_then_fails())
    with pytest.raises(TypeError, match="fed with packets, or bytes, not 'text'"):
        running.feed([udp(300), "text"])  # type: ignore[list-item]
    running.stop()
    assert in_file(file) == list(range(301))


def test_a_slow_iterable_is_not_late(file: Path) -> None:
    seen = threading.Event()

    def slow() -> Iterator[bytes]:
        yield udp(0)
        assert seen.wait(PATIENCE)  # the first one has arrived before there is another
        yield udp(1)

    running = Pipeline("p", slow(), [], Pcap(file)).start_link()
    eventually(lambda: file.exists() and in_file(file), [0])
    seen.set()
    wait(running)
    assert in_file(file) == [0, 1]
    running.stop()


@pytest.mark.parametrize("timed", [False, True])
def test_a_capture_stream_is_a_source(tmp_path: Path, file: Path, timed: bool) -> None:
    capture = tmp_path / "in.pcapng"
    blocks = [pcapng.section(), pcapng.interface("lab0", pcapng.RAW)]
    blocks += [pcapng.packet(0, n * 1_000_000, udp(n)) for n in range(100)]
    capture.write_bytes(b"".join(blocks))
    began = time.monotonic()
    with subprocess.Popen(["cat", str(capture)], stdout=subprocess.PIPE) as started:
        assert started.stdout is not None
        pipeline = Pipeline("p", Pcap(started.stdout, timed=timed), [], Pcap(file))
        running = pipeline.start_link()
        wait(running)
    assert in_file(file) == list(range(100))
    assert not timed or time.monotonic() - began >= 0.099
    running.stop()


def test_a_damaged_stream_says_so(file: Path) -> None:
    running = Pipeline("p", Feed(), [], Pcap(file)).start_link()
    with subprocess.Popen(["echo", "no capture"], stdout=subprocess.PIPE) as started:
        assert started.stdout is not None
        with pytest.raises(CaptureError, match="neither pcap nor pcapng"):
            running.feed(Pcap(started.stdout))
    running.stop()


def test_kills_while_a_program_feeds(file: Path) -> None:
    rng = random.Random(7)
    stages = [pipelines.same, Count.spec(workers=2, by="flow")]
    running = Pipeline("p", Feed(), stages, Pcap(file), intensity=1000).start_link()
    fed = threading.Thread(target=running.feed, args=(numbered(60_000),))
    fed.start()
    kills = 0
    while fed.is_alive():
        if refs := workers_of(running):  # all may be being restarted
            blow(rng.choice(refs))
            kills += 1
        fed.join(rng.uniform(0, 0.1))
    running.end_feed()
    wait(running)
    assert kills > 3
    assert sorted(in_file(file)) == list(range(60_000))
    seen = running.within(retry=PATIENCE).gather(Count.get)
    assert sum(sum(one.values()) for one in seen) == 60_000
    running.stop()


def test_from_pipeline_to_pipeline_over_kills(file: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("PACKETS", "30000")
    rng = random.Random(8)
    flows = Count.spec(workers=2, by="flow")
    second = Pipeline("second", Feed(), [flows], Pcap(file), intensity=1000)
    below = second.start_link()
    first = Pipeline("first", source, [stage(pipelines.same, workers=2)], second, intensity=1000)
    above = first.start_link()
    waiter = threading.Thread(target=above.wait)
    waiter.start()
    kills = 0
    while waiter.is_alive():
        if refs := workers_of(above) + workers_of(below):
            blow(rng.choice(refs))
            kills += 1
        waiter.join(rng.uniform(0, 0.1))
    stats = above.stats()
    check_counts(stats)
    assert stats.sinks == [("out", 30_000, 0)]
    below.end_feed()
    check_counts(wait(below))
    assert kills > 3
    assert sorted(in_file(file)) == list(range(30_000))
    above.stop()
    below.stop()


def test_skipped_packets_are_not_taken_for_the_next_ones(file: Path) -> None:
    """What is lost in one pipeline does not come to the next, and hides no later packets there."""
    below = Pipeline("second", Feed(), [], Pcap(file)).start_link()
    stages = [stage(pipelines.to_alarm_at_77, on_kill="skip")]
    sinks = {"out": Feed("second"), "alarm": pipelines.dies}
    above = Pipeline("first", source, stages, sinks).start_link()
    stats = wait(above)
    below.end_feed()
    wait(below)
    assert stats.segments[0].lost == 256
    assert in_file(file) == [0, *range(257, 2000)]
    above.stop()
    below.stop()


def test_halved_packets_come_in_their_order_to_the_next_pipeline(
    tmp_path: Path, file: Path, monkeypatch: Any
) -> None:
    """Packets of another input must not take the numbers of those that were given on already."""
    monkeypatch.setenv("PACKETS", "20000")
    quarantine = tmp_path / "quarantine"
    below = Pipeline("second", Feed(), [], Pcap(file)).start_link()
    stages = [stage(pipelines.to_alarm_at_77, workers=2)]
    sinks = {"out": Feed("second"), "alarm": pipelines.dies}
    above = Pipeline("first", source, stages, sinks, quarantine=quarantine).start_link()
    wait(above)
    below.end_feed()
    wait(below)
    assert in_file(quarantine) == [77]
    assert sorted(in_file(file)) == [n for n in range(20_000) if n != 77]
    above.stop()
    below.stop()


def test_who_fed_a_killed_worker_and_has_gone_is_not_waited_for_long(
    file: Path, monkeypatch: Any
) -> None:
    below = Pipeline("second", Feed(), [], Pcap(file)).start_link()
    sinks = {"out": Feed("second"), "alarm": pipelines.dies}
    stages = [stage(pipelines.to_alarm_at_77)]
    above = Pipeline("first", Feed(), stages, sinks, intensity=1000).start_link()
    program = (
        "import os, pipelines, signal, threading\n"
        "from supervisor import named\n"
        "from tuncer.pipeline import feeding\n"
        "threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGKILL)).start()\n"
        "feeding.feed('first', map(pipelines.udp, [77] * 3))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], env=with_paths(), check=False)
    assert done.returncode == -signal.SIGKILL
    assert above.feed(map(udp, range(100, 400))) == 300
    above.end_feed()
    wait(above)
    below.end_feed()
    wait(below)
    assert in_file(file) == list(range(100, 400))
    above.stop()
    below.stop()


def test_a_pipeline_that_is_away_is_waited_for(
    file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    second = Pipeline("second", Feed(), [], Pcap(file))
    above = Pipeline("first", source, [], second).start_link()
    said = lambda: capfd.readouterr().err  # noqa: E731
    eventually(lambda: "pipeline 'second' takes no packets: they wait" in said())
    assert above.stats().sinks == [("out", 0, 0)]
    below = second.start_link()
    wait(above)
    assert "pipeline 'second' takes packets again" in said()
    below.stop()
    assert in_file(file) == list(range(2000))
    above.stop()


def test_two_programs_feed_a_pipeline_and_one_of_them_kills_its_workers(
    file: Path, tmp_path: Path
) -> None:
    """The packet that kills is found, and no packet of the other program is taken for it."""
    quarantine = tmp_path / "quarantine.pcapng"
    stages = [pipelines.kills_at_77]
    pipeline = Pipeline("p", Feed(), stages, Pcap(file), quarantine=quarantine, intensity=1000)
    running = pipeline.start_link()
    fed = [
        threading.Thread(target=running.feed, args=(list(map(udp, numbers)),))
        for numbers in (range(300), range(1000, 9000))
    ]
    for thread in fed:
        thread.start()
    for thread in fed:
        thread.join()
    running.end_feed()
    wait(running)
    assert in_file(quarantine) == [77]
    expected = [n for n in itertools.chain(range(300), range(1000, 9000)) if n != 77]
    assert sorted(in_file(file)) == expected
    running.stop()


def test_back_pressure_reaches_the_program(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    running = Pipeline("p", Feed(), [pipelines.Gate.spec(str(gate), workers=1)]).start_link()
    given = itertools.count()
    packets = (udp(next(given), size=1000) for _ in range(40_000))
    fed = threading.Thread(target=running.feed, args=(packets,))
    fed.start()
    time.sleep(0.3)
    assert next(given) < 10_000
    gate.touch()
    fed.join(PATIENCE)
    assert not fed.is_alive()
    running.end_feed()
    wait(running)
    running.stop()


def test_a_pipeline_that_stops_refuses_the_rest() -> None:
    running = Pipeline("p", Feed(), [pipelines.same]).start_link()
    refused: list[BaseException] = []

    def feed() -> None:
        try:
            running.feed(map(udp, itertools.count()))
        except (BrokenPipeError, NoProcess, ProcessDown) as error:
            refused.append(error)

    fed = threading.Thread(target=feed)
    fed.start()
    eventually(lambda: running.stats().sources[0].read > 1000)
    running.drain()
    fed.join(PATIENCE)
    assert [type(error) for error in refused] == [BrokenPipeError]
    wait(running)
    running.stop()


def test_ctrl_c_ends_a_program_that_feeds(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import itertools, pipelines\n"
        "from tuncer.pipeline import Feed, Pipeline\n"
        "if __name__ == '__main__':\n"
        "    running = Pipeline('p', Feed(), [pipelines.same]).start_link()\n"
        "    print('ready', flush=True)\n"
        "    running.feed(map(pipelines.udp, itertools.count()))\n"
    )
    with subprocess.Popen(
        [sys.executable, str(program)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=with_paths(),
        preexec_fn=heed_ctrl_c,  # noqa: PLW1509 - no thread of the test runs yet
    ) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == "ready\n"
        time.sleep(0.2)
        started.send_signal(signal.SIGINT)
        _, said = started.communicate(timeout=PATIENCE)
    assert said.count("KeyboardInterrupt") == 1, said


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Pipeline("p", [Feed(), Feed()]), "fed by one source at most"),
        (lambda: Pipeline("p", Feed(), [], Feed()), "has the name of a pipeline"),
        (lambda: Pipeline("p", Feed(), [], Feed("p")), "does not feed itself"),
        (lambda: Pipeline("p", source, [], Pipeline("q", source)), "source of 'q' is no Feed"),
        (lambda: Pipeline("p", source, [], Pcap(sys.stdout.buffer)), "written to a file"),
        (lambda: Pipeline("p", iter([])).child_spec(), "lives in this program"),
        (lambda: Pipeline("p", "text"), "a source is a Port"),
        (lambda: Pipeline("p", {"a": 1}), "a source is a Port"),
    ],
)
def test_what_is_wrong_is_said_at_once(make: Any, says: str) -> None:
    with pytest.raises((TypeError, ValueError), match=says):
        make()


def test_under_ones_own_supervisor(file: Path) -> None:
    sup = Supervisor.start_link(
        [
            Pipeline("second", Feed(), [], Pcap(file)).child_spec(),
            Pipeline("first", source, [], Feed("second")).child_spec(),
        ],
        intensity=10,
    )
    above, below = sup.child("first", PipelineRef), sup.child("second", PipelineRef)
    wait(above)
    assert below.feed([udp(2000)]) == 1
    below.end_feed()
    wait(below)
    assert in_file(file) == list(range(2001))
    sup.stop()


def test_others_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    running = Pipeline("p", Feed(), [pipelines.same]).start_link()
    there = named(name_of("p"))
    for term in (
        ["pipeline feed"],
        ["pipeline feed", b"x", -1, 0, b"x"],
        ["pipeline feed", b"x", 0, 0, b"nonsense"],
        ["pipeline feed", b"x" * 200, 0, 0, b"x"],
    ):
        assert "this feeds no pipeline" in there.call(term)
    assert running.feed([udp(1)]) == 1
    running.stop()
    caplog.set_level(logging.ERROR)
    other = Pipeline("q", source, [pipelines.same]).start_link()
    with pytest.raises(ValueError, match="nobody feeds"):
        other.feed([udp(1)])
    other.stop()
