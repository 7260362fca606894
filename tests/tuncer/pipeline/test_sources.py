"""Sources: where they go on after a crash."""

import errno
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pipelines import number_in, udp

from tuncer import DeviceError, Packet
from tuncer.pipeline import opened
from tuncer.pipeline.plan import EndPlan
from tuncer.pipeline.sources import Source, ZmqSource
from tuncer.protocol import pcapng, wire_format
from tuncer.protocol.packet import Framing


def source_of(kind: str, position: int = 0, **options: object) -> Source:
    return opened.source(EndPlan("s", kind, options), position, 0, None)


def all_of(source: Source, most: int = 3, most_bytes: int = 1 << 20) -> list[int]:
    found: list[int] = []
    while (packets := source.read(most, most_bytes)) is not None:
        assert 0 < len(packets) <= most
        found += [number_in(packet.data) for packet in packets]
    return found


def ten() -> Iterator[bytes]:
    return map(udp, range(10))


def mixed() -> list[object]:
    return [udp(0), bytearray(udp(1)), Packet(udp(2), 7, 8, "lab0")]


def wrong() -> list[object]:
    return [5]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.pcapng"
    blocks = [pcapng.packet(0, n * 20_000_000, udp(n)) for n in range(10)]
    path.write_bytes(pcapng.section() + pcapng.interface("lab0", 101) + b"".join(blocks))
    return path


def test_a_function_goes_on_behind_what_was_taken() -> None:
    start = f"{__name__}:ten"
    source = source_of("function", start=start)
    assert len(source.read(4, 1 << 20) or []) == 1  # it may wait before the next one
    assert len(source.read(3, 1 << 20) or []) == 3
    assert source.position == 4
    assert all_of(source_of("function", 4, start=start)) == [4, 5, 6, 7, 8, 9]
    assert all_of(source_of("function", 10, start=start)) == []


def slow() -> Iterator[bytes]:
    for number in range(100):
        time.sleep(0.01)
        yield udp(number)


def test_a_slow_function_gives_each_packet_when_it_comes() -> None:
    source = source_of("function", start=f"{__name__}:slow")
    assert [len(source.read(256, 1 << 20) or []) for _ in range(3)] == [1, 1, 1]


def test_a_slow_functions_packets_are_left_out_a_few_at_a_time() -> None:
    source = source_of("function", 50, start=f"{__name__}:slow")
    found: list[Packet] = []
    waited = 0
    while not found:
        waited += 1
        found = source.read(256, 1 << 20) or []
        assert source.delay() == 0
    assert number_in(found[0].data) == 50
    assert waited > 40


def test_what_a_function_may_return() -> None:
    source = source_of("function", start=f"{__name__}:mixed")
    found = [*(source.read(10, 1 << 20) or []), *(source.read(10, 1 << 20) or [])]
    assert [(p.seq, p.device) for p in found] == [(0, "s"), (1, "s"), (7, "lab0")]
    with pytest.raises(TypeError, match="source 's' yields packets, or bytes, not 5"):
        source_of("function", start=f"{__name__}:wrong").read(1, 1)


@pytest.mark.parametrize("kind", ["function", "pcap"])
def test_a_read_is_bounded_in_bytes(kind: str, file: Path) -> None:
    options = {"path": str(file), "timed": False}
    told = {"start": f"{__name__}:ten"} if kind == "function" else options
    source = source_of(kind, **told)
    sizes = [len(source.read(1, 100) or [])]
    while packets := source.read(10, 100):
        sizes.append(len(packets))
    assert sizes == [1, 2, 2, 2, 2, 1]
    source.close()
    another = source_of(kind, **told)
    assert len(another.read(10, 1) or []) == 1
    another.close()


def test_a_file_goes_on_behind_what_was_taken(file: Path) -> None:
    for taken in range(11):
        source = source_of("pcap", path=str(file), timed=False)
        found = source.read(taken, 1 << 20) if taken else []
        position = source.position
        source.close()
        assert found is not None
        again = source_of("pcap", position, path=str(file), timed=False)
        assert [number_in(p.data) for p in found] + all_of(again) == list(range(10))
        again.close()


def test_a_timed_file_keeps_its_distances(file: Path) -> None:
    source = source_of("pcap", path=str(file), timed=True)
    began = time.monotonic()
    seen: list[float] = []
    while (packets := source.read(10, 1 << 20)) is not None:
        seen += [time.monotonic() - began] * len(packets)
        time.sleep(source.delay() or 0.0)
    assert len(seen) == 10
    assert all(at >= 0.02 * n for n, at in enumerate(seen))
    source.close()


def test_what_is_wrong_ends_a_function_behind_what_it_has_given() -> None:
    source = source_of("function", start="pipelines:ten_and_then_text")
    assert len(source.read(256, 1 << 20) or []) == 1
    assert len(source.read(256, 1 << 20) or []) == 9
    with pytest.raises(TypeError, match="yields packets, or bytes, not 'text'"):
        source.read(256, 1 << 20)


@pytest.mark.parametrize(
    "wrong",
    [
        {"seq": (1 << 64) - 1},
        {"timestamp": -1},
        {"queue": -1},
        {"queue": 1 << 40},
        {"stream": 1 << 64},
        {"framing": Framing(False, 999)},
        {"topic": b"t" * 70_000},
    ],
)
def test_numbers_that_nobody_sends_are_refused(wrong: dict[str, Any]) -> None:
    message = wire_format.Message(b"t0", 5, 6, 0, 0, [b"x"], None, Framing(), 0)
    source = ZmqSource(0, 0, "ipc:///tmp/nobody", "")
    assert len(source._packets(message)) == 1
    with pytest.raises(ValueError, match="such as nobody sends"):
        source._packets(message._replace(**wrong))
    source.close()


def test_a_restarted_source_does_not_wait_for_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device's worker may be restarted behind it, by the same supervisor."""
    asked: list[str] = []

    def is_away(options: dict[str, Any]) -> None:
        asked.append(options["name"])
        raise DeviceError(errno.ENODEV, "it is being restarted", "lab0")

    monkeypatch.setattr("tuncer.pipeline.sources.device_of", is_away)
    options = {"name": "lab0", "namespace": None, "device": None, "queue": 0}
    plan = EndPlan("lab0", "port", options)
    opened.source(plan, 5, 77, None)
    assert asked == []
    first = opened.source(plan, 0, 0, None)
    assert asked == ["lab0"]
    assert first.read(1, 1) == []
    assert first.delay() is not None
