"""Packets, stages and sources for tests of pipelines: other processes import them from here."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import struct
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from processes import PATIENCE, eventually, kill

from supervisor import NoProcess, Ref, handler
from tuncer import Packet
from tuncer.pipeline import Packets, PipelineRef, Stage, Statistics, to
from tuncer.protocol import pcapng

FLOWS = 10


def udp(number: int, *, flow: int | None = None, size: int = 0) -> bytes:
    """Return an IP packet that holds a number; ten flows take turns."""
    payload = number.to_bytes(8, "big") + bytes(size)
    length = 28 + len(payload)
    head = struct.pack("!BBHHHBBH", 0x45, 0, length, 0, 0, 64, 17, 0)
    ports = struct.pack("!HHHH", 1000 + (number % FLOWS if flow is None else flow), 53, 8, 0)
    return head + bytes([10, 0, 0, 1, 10, 0, 0, 2]) + ports + payload


def fragments(id: int, port: int) -> tuple[bytes, bytes]:  # noqa: A002 - RFC 791's word
    """Return the two parts of a datagram."""
    addresses = bytes([10, 0, 0, 1, 10, 0, 0, 2])
    first = struct.pack("!BBHHHBBH", 0x45, 0, 28, id, 0x2000, 64, 17, 0)
    rest = struct.pack("!BBHHHBBH", 0x45, 0, 28, id, 1, 64, 17, 0)
    return first + addresses + struct.pack("!HHHH", port, 53, 16, 0), rest + addresses + bytes(8)


def number_in(data: bytes) -> int:
    return int.from_bytes(data[28:36], "big")


def packet(number: int) -> Packet:
    return Packet(udp(number), number, 1000 + number, "lab0")


def packets_of(count: int) -> Iterator[bytes]:
    """Yield numbered packets; so many as the environment says."""
    return map(udp, range(count))


def source() -> Iterator[bytes]:
    return packets_of(int(os.environ.get("PACKETS", "2000")))


def without_end() -> Iterator[bytes]:
    return map(udp, itertools.count())


def same(packet: Packet) -> Packet:
    return packet


def fails(packet: Packet) -> None:
    raise ValueError("always")


def fails_unspeakably(packet: Packet) -> Packet:
    class Unspeakable(Exception):
        def __str__(self) -> str:
            raise ValueError("no text")

    if number_in(packet.data) % 2:
        raise Unspeakable
    raise ValueError("bad \udcff")


def ten_and_then_text() -> Iterator[Any]:
    yield from packets_of(10)
    yield "text"


def slowly(packet: Packet) -> Packet:
    time.sleep(0.002)
    return packet


def append_byte(packet: Packet) -> None:
    with open(os.environ["BYTES"], "ab") as file:
        file.write(b".")


def twice(packet: Packet) -> list[Packet]:
    return [packet, packet]


def odd_only(packet: Packet) -> Packet | None:
    return packet if number_in(packet.data) % 2 else None


def fails_at_seven(packet: Packet) -> Packet:
    if number_in(packet.data) % 100 == 7:
        raise ValueError("seven")
    return packet


def kills_at_77(packet: Packet) -> Packet:
    if number_in(packet.data) == 77:
        os.kill(os.getpid(), signal.SIGKILL)
    return packet


def key_fails_at_seven(packet: Packet) -> int:
    return number_in(fails_at_seven(packet).data)


def to_alarm(packet: Packet) -> Any:
    return to("alarm", packet) if number_in(packet.data) % 10 == 0 else packet


def same_too(packet: Packet) -> Packet:
    return packet


def key_fails_at_three(packet: Packet) -> int:
    if number_in(packet.data) % 100 == 3:
        raise ValueError("three")
    return 1


def to_alarm_at_multiples_of_5(packet: Packet) -> Any:
    return to("alarm", packet) if number_in(packet.data) % 5 == 0 else packet


def to_alarm_at_77(packet: Packet) -> Any:
    return to("alarm", packet) if number_in(packet.data) == 77 else packet


def dies(packet: Packet) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def backwards(packets: Packets) -> list[Packet]:
    return list(reversed(packets))


def stops_then_fails() -> Iterator[bytes]:
    yield from packets_of(300)
    raise ValueError("the source is broken")


def few() -> Iterator[bytes]:
    return packets_of(300)


def trickle() -> Iterator[bytes]:
    for number in range(300):
        time.sleep(0.001)
        yield udp(number)


def mostly_dropped(packet: Packet) -> Packet | None:
    """Let pass what whole transactions have, and nothing of others."""
    return packet if number_in(packet.data) // 256 in {0, 3, 4, 7} else None


def eightfold(packet: Packet) -> list[Packet]:
    return [packet] * 8


def large() -> Iterator[bytes]:
    return (udp(n, size=1400) for n in range(2000))


def key(packet: Packet) -> int:
    return number_in(packet.data) % 3


def nothing(packet: Packet) -> None:
    pass


class Count(Stage):
    """Counts packets of each flow, and keeps that."""

    kept = ("seen",)

    def init(self) -> None:
        if not self.restored:
            self.seen: dict[bytes, int] = {}

    def handle_batch(self, packets: Packets) -> Iterator[Packet]:
        for packet in packets:
            flow = packet.flow or b""
            self.seen[flow] = self.seen.get(flow, 0) + 1
            yield packet

    @handler
    def get(self) -> dict[bytes, int]:
        return self.seen

    @handler
    def pid(self) -> int:
        return os.getpid()

    @handler
    def forget(self) -> None:
        self.seen = {}


class Grows(Stage):
    """Keeps more than there is room for, after some packets."""

    kept = ("all",)

    def init(self) -> None:
        if not self.restored:
            self.all: list[bytes] = []

    def handle_batch(self, packets: Packets) -> Iterator[Packet]:
        for packet in packets:
            self.all.append(bytes(10_000))
            yield packet


class Tallies(Stage):
    """Keeps what would come back as something else."""

    kept = ("seen",)

    def init(self) -> None:
        self.seen: Counter[int] = Counter()

    def handle_batch(self, packets: Packets) -> Packets:
        return packets


def forks_at_77(packet: Packet) -> Packet:
    if number_in(packet.data) == 77:
        os.fork()
    return packet


class Heavy(Stage):
    """Keeps so much that most of a transaction's time passes between delivery and commit."""

    kept = ("numbers",)

    def init(self) -> None:
        if not self.restored:
            self.numbers = list(range(300_000))

    def handle_batch(self, packets: Packets) -> Packets:
        self.numbers[0] += 1
        return packets


class Datagrams(Stage):
    """Keeps the identifications of the fragments that it has seen."""

    kept = ("ids",)

    def init(self) -> None:
        if not self.restored:
            self.ids: list[int] = []

    def handle_batch(self, packets: Packets) -> list[Packet]:
        fragments = [packet.ip.fragment for packet in packets if packet.ip is not None]
        self.ids += [fragment.id for fragment in fragments if fragment is not None]
        return list(packets)

    @handler
    def get(self) -> list[int]:
        return self.ids


class Sums(Stage):
    """Passes nothing on but, in the end, a packet with the number of packets."""

    kept = ("count",)

    def init(self) -> None:
        if not self.restored:
            self.count = 0

    def handle_batch(self, packets: Packets) -> list[Packet]:
        self.count += len(packets)
        return []

    def handle_end(self) -> list[Packet]:
        return [packet(self.count)]


class Fragile(Stage):
    """Has its worker killed once, before it tells others of a commit by an eventfd."""

    def init(self, marker: str, number: int) -> None:
        self.marker, self.left = Path(marker), 0 if os.path.exists(marker) else number
        self.write = os.eventfd_write

    def handle_batch(self, packets: Packets) -> Packets:
        time.sleep(0.05)  # so that its consumer waits for it, and is told by nothing else
        if self.left:
            os.eventfd_write = self.fatal
        return packets

    def handle_end(self) -> None:
        time.sleep(0.05)

    def fatal(self, fd: int, value: int) -> None:
        self.left -= 1
        if self.left == 0:
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        self.write(fd, value)


class Delays(Stage):
    """Holds packets back for a moment; over a crash, too."""

    kept = ("held",)

    def init(self, seconds: float) -> None:
        self.seconds = seconds
        if not self.restored:
            self.held: list[list[Any]] = []
        self.call_every(0.001, self.release)

    def handle_batch(self, packets: Packets) -> None:
        due = time.monotonic() + self.seconds
        self.held += [[due, packet.data, packet.seq] for packet in packets]

    def release(self) -> None:
        now = time.monotonic()
        while self.held and self.held[0][0] <= now:
            self.emit(self._packet(*self.held.pop(0)))

    def handle_end(self) -> list[Packet]:
        left = [self._packet(*one) for one in self.held]
        self.held = []
        return left

    def _packet(self, _: float, data: bytes, seq: int) -> Packet:
        return Packet(data, seq, 0, "delayed")


class Chatters(Stage):
    """Emits 28 KB every 5 ms."""

    kept = ("emitted",)

    def init(self) -> None:
        if not self.restored:
            self.emitted = 0
        self.call_every(0.005, self.tick)

    def tick(self) -> None:
        for _ in range(20):
            self.emitted += 1
            self.emit(Packet(udp(self.emitted, size=1364), self.emitted, 0, "own"))

    def handle_batch(self, packets: Packets) -> Packets:
        return packets

    @handler
    def count(self) -> int:
        return self.emitted


class Emits(Stage):
    """Emits what it gets."""

    def handle_batch(self, packets: Packets) -> None:
        for packet in packets:
            self.emit(packet)


class Ticks(Stage):
    """Emits something all the time, and dies of one packet."""

    def init(self) -> None:
        self.tick()

    def tick(self) -> None:
        self.emit(Packet(udp(1 << 40), 0, 0, "tick"))
        self.call_later(0.0005, self.tick)

    def handle_batch(self, packets: Packets) -> Iterator[Packet]:
        yield from map(kills_at_77, packets)


class Gate(Stage):
    """Passes packets on when somebody has opened it, by a file."""

    def init(self, path: str) -> None:
        self.path = path

    def handle_batch(self, packets: Packets) -> Packets:
        eventually(lambda: os.path.exists(self.path))
        return packets


def in_file(path: Path) -> list[int]:
    """Return the numbers of the packets in a capture file."""
    with path.open("rb") as file:
        return [number_in(record.data) for record in pcapng.read(file, str(path))]


def check_counts(stats: Statistics) -> None:
    """Check the equations of what a pipeline counts, when nothing is in flight."""
    for stage in stats.stages:
        assert stage.taken + stage.made == stage.out + stage.dropped + stage.failed, stage
    for edge in stats.edges:
        assert edge.waiting == edge.bytes == 0, edge
    into = {edge.consumer.rpartition("-")[0]: 0 for edge in stats.edges}
    for edge in stats.edges:
        into[edge.consumer.rpartition("-")[0]] += edge.taken
    into["source"] = sum(one.read for one in stats.sources)
    for segment in stats.segments:
        assert segment.taken == into[segment.name], segment


def blow(ref: Ref) -> None:
    """Kill a worker, unless it has been killed just before."""
    with contextlib.suppress(NoProcess, ProcessLookupError):
        kill(ref.pid)


def wait(running: PipelineRef) -> Statistics:
    """Wait until a pipeline has done with everything; return its counts."""
    running.wait(PATIENCE)
    found = running.stats()
    check_counts(found)
    return found
