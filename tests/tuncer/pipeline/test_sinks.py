"""Sinks: capture files over crashes, rotation and a full disk."""

import io
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pcapng as oracle
import pytest
from pipelines import number_in, packet

from supervisor import GenServer
from tuncer.pipeline import opened, sinks
from tuncer.pipeline.plan import EndPlan
from tuncer.pipeline.sinks import PcapSink, PortSink, Sink
from tuncer.pipeline.zmq_sink import Given
from tuncer.protocol import pcapng

GIVEN = Given(GenServer(), int, memoryview(bytearray(8)).cast("Q"))


def sink_of(path: Path, position: int = 0, size: int | None = None) -> PcapSink:
    options = {"path": str(path), "bytes": size, "seconds": None, "snaplen": 0}
    found: Sink = opened.sink(EndPlan("out", "pcap", options), position, b"", GIVEN)
    assert isinstance(found, PcapSink)
    return found


def numbers(path: Path) -> list[int]:
    return [number_in(record.data) for record in pcapng.read(io.BytesIO(path.read_bytes()))]


def test_what_was_not_committed_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "out.pcapng"
    one = sink_of(path)
    assert one.deliver([packet(1), packet(2)]) == 0
    committed = one.position
    one.deliver([packet(3)])
    one.close()
    another = sink_of(path, committed)
    another.deliver([packet(3), packet(4)])
    another.close()
    assert numbers(path) == [1, 2, 3, 4]
    sink_of(path).close()  # a new pipeline begins anew
    assert numbers(path) == []


def test_rotation_leaves_other_files_alone(tmp_path: Path) -> None:
    others = ["out-20240131.pcapng", "out-2.pcapng", "out-00006.pcapng"]
    for name in others:
        (tmp_path / name).write_bytes(b"mine")
    sink = sink_of(tmp_path / "out.pcapng", size=200)
    for n in range(6):
        sink.deliver([packet(n)])
    sink.close()
    assert all((tmp_path / name).read_bytes() == b"mine" for name in others)
    ours = sorted(file for file in tmp_path.glob("out-0*") if file.name not in others)
    assert ours[0].name == "out-00007.pcapng"
    assert [n for file in ours for n in numbers(file)] == list(range(6))


def test_a_file_that_cannot_be_written_fails_the_start(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        sink_of(tmp_path / "none" / "out.pcapng")


def test_a_full_disk_leaves_a_quarantine_readable(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", str(tmp_path)], check=True)
    path = str(tmp_path / "quarantine.pcapng")
    try:
        written = 0
        with pytest.raises(OSError, match="No space left"):
            for number in range(1000):
                sinks.quarantine(path, packet(number), "why " * 100)
                written += 1
        subprocess.run(["mount", "-o", "remount,size=64k", str(tmp_path)], check=True)
        sinks.quarantine(path, packet(5000), "why")
        with open(path, "rb") as file:
            found = [number_in(one.data) for one in pcapng.read(file)]
        assert found == [*range(written), 5000]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_function_that_fails_is_logged_once_a_second(caplog: pytest.LogCaptureFixture) -> None:
    sink = opened.sink(EndPlan("out", "function", {"start": "pipelines:fails"}), 0, b"", GIVEN)
    assert sink.deliver([packet(n) for n in range(5000)]) == 5000
    assert len(caplog.records) <= 3
    assert "ValueError: always" in caplog.text


def test_rotation_over_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "out.pcapng"
    one = sink_of(path, size=200)
    positions = []
    for n in range(6):
        one.deliver([packet(n)])
        positions.append(one.position)
    one.close()
    files = sorted(tmp_path.glob("out-*.pcapng"))
    assert [file.name for file in files][:2] == ["out-00000.pcapng", "out-00001.pcapng"]
    assert [n for file in files for n in numbers(file)] == list(range(6))
    another = sink_of(path, positions[2], size=200)
    for n in range(3, 8):
        another.deliver([packet(n)])
    another.close()
    assert [n for file in sorted(tmp_path.glob("out-*")) for n in numbers(file)] == list(range(8))


@pytest.mark.filterwarnings("ignore::DeprecationWarning:pcapng")
def test_each_file_ends_with_the_counts_of_its_interfaces(tmp_path: Path) -> None:
    path = tmp_path / "out.pcapng"
    sink = sink_of(path, size=200)
    sink.deliver([packet(0), packet(1)._replace(lost=3), packet(2)._replace(device="lab1")])
    sink.deliver([packet(3)])
    sink.close()
    told = []
    for file in sorted(tmp_path.glob("out-*")):
        *_, last = blocks = list(oracle.FileScanner(io.BytesIO(file.read_bytes())))
        assert type(last).__name__ == "InterfaceStatistics"
        counts = [b.options for b in blocks if type(b).__name__ == "InterfaceStatistics"]
        told.append([(one["isb_ifrecv"], one["isb_ifdrop"]) for one in counts])
    assert told == [[(2, 3), (1, 0)], [(1, 0)]]


@pytest.fixture
def no_room() -> Iterator[None]:
    """Let no file have more than 64 KiB, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("no_room")
def test_where_there_is_no_room_what_was_written_stays_whole(tmp_path: Path) -> None:
    path = tmp_path / "out.pcapng"
    one = sink_of(path)
    delivered: list[int] = []
    for n in range(0, 1200, 3):
        several = [packet(n), packet(n + 1), packet(n + 2)]
        failed = one.deliver(several)
        assert failed in {0, 3}
        delivered += [] if failed else [n, n + 1, n + 2]
    assert 0 < len(delivered) < 1200
    assert numbers(path) == delivered
    one.close()


def test_a_device_that_is_not_there_is_told(caplog: pytest.LogCaptureFixture) -> None:
    options = {"name": "none0", "namespace": None, "device": None}
    assert PortSink(options).deliver([packet(1), packet(2)]) == 2
    assert "none0: 2 packets were not written" in caplog.text
