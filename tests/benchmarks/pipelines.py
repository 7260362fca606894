"""Packets a second through three stages: parse, count per flow in two processes, forward.

Usage: python pipelines.py KIND. It prints {"per_s": ..., "us": ...} as JSON. KIND is "pipeline",
"queues" (the same by hand with multiprocessing.Queue, a packet at a time), "pipetools" (scapy's, in
threads), "fused" (the three stages in one process of a pipeline), "loop" (the functions called in a
loop), "one" and "two" (a stage that does nothing, in the source's process and in one of its own).
"""

import json
import multiprocessing
import os
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scapy.pipetool import Drain, PipeEngine, Sink, ThreadGenSource

from tuncer import Packet
from tuncer.pipeline import Packets, Pipeline, Stage, stage

FLOWS = 50
SIZE = 1400
COUNTS = {"queues": 40_000, "pipetools": 20_000}
COUNT = 300_000


def udp(flow: int) -> bytes:
    head = struct.pack("!BBHHHBBH", 0x45, 0, SIZE, 0, 0, 64, 17, 0)
    ports = struct.pack("!HHHH", 1000 + flow, 53, SIZE - 20, 0)
    return head + bytes([10, 0, 0, 1, 10, 0, 0, 2]) + ports + bytes(SIZE - 28)


PACKETS = [udp(flow) for flow in range(FLOWS)]


def source() -> Iterator[bytes]:
    Path(os.environ["BEGAN"]).write_text(str(time.monotonic()))
    for _ in range(COUNT // FLOWS):
        yield from PACKETS


def parse(packet: Packet) -> Packet | None:
    return packet if packet.ip else None


class Count(Stage):
    def init(self) -> None:
        self.seen: dict[bytes | None, int] = {}

    def handle_batch(self, packets: Packets) -> Iterator[Packet]:
        for packet in packets:
            flow = packet.flow
            self.seen[flow] = self.seen.get(flow, 0) + 1
            yield packet


def forward(packet: Packet) -> Packet:
    return packet


def pipeline(stages: list[Any]) -> float:
    with tempfile.TemporaryDirectory() as directory:
        os.environ["BEGAN"] = began = os.path.join(directory, "began")
        os.environ["TUNCER_RUNTIME_DIR"] = directory
        running = Pipeline("bench", source, stages).start_link()
        running.wait(100)
        seconds = time.monotonic() - float(Path(began).read_text())
        assert running.stats().stages[-1].out == COUNT
        running.stop()
    return seconds


def made(count: int) -> Iterator[Packet]:
    for number in range(count):
        yield Packet(PACKETS[number % FLOWS], number, 0, "source")


def count_by_hand(taken: Any, given: Any) -> None:
    seen: dict[bytes | None, int] = {}
    while (packet := taken.get()) is not None:
        flow = packet.flow
        seen[flow] = seen.get(flow, 0) + 1
        given.put(packet)
    given.put(None)


def forward_by_hand(taken: Any) -> None:
    ended = 0
    while ended < 2:
        ended += taken.get() is None


def queues(count: int) -> float:
    given = [multiprocessing.Queue(10_000) for _ in range(2)]
    last: Any = multiprocessing.Queue(10_000)
    processes = [multiprocessing.Process(target=count_by_hand, args=(one, last)) for one in given]
    processes.append(multiprocessing.Process(target=forward_by_hand, args=(last,)))
    for process in processes:
        process.start()
    began = time.monotonic()
    for packet in made(count):
        if parse(packet):
            given[hash(packet.flow) % 2].put(packet)
    for one in given:
        one.put(None)
    for process in processes:
        process.join()
    return time.monotonic() - began


def pipetools(count: int) -> float:
    done = multiprocessing.Event()

    class Gives(ThreadGenSource):
        def generate(self) -> None:
            for packet in made(count):
                self._gen_data(packet)

    class Parses(Drain):
        def push(self, packet: Packet) -> None:
            if parse(packet):
                self._send(packet)

    class Counts(Drain):
        def start(self) -> None:
            self.seen: dict[bytes | None, int] = {}

        def push(self, packet: Packet) -> None:
            flow = packet.flow
            self.seen[flow] = self.seen.get(flow, 0) + 1
            self._send(packet)

    class Forwards(Sink):
        def start(self) -> None:
            self.left = count

        def push(self, packet: Packet) -> None:
            self.left -= 1
            if not self.left:
                done.set()

    first = Gives()
    joined = first > Parses() > Counts() > Forwards()
    assert joined is not None
    engine = PipeEngine(first)
    began = time.monotonic()
    engine.start()
    done.wait(100)
    seconds = time.monotonic() - began
    engine.stop()
    return seconds


def loop(count: int) -> float:
    seen: dict[bytes | None, int] = {}
    began = time.monotonic()
    for packet in made(count):
        if parse(packet):
            flow = packet.flow
            seen[flow] = seen.get(flow, 0) + 1
            forward(packet)
    return time.monotonic() - began


def main(kind: str) -> None:
    count = COUNTS.get(kind, COUNT)
    split = [parse, Count.spec(workers=2, by="flow"), stage(forward, workers=1)]
    stages = {
        "pipeline": split,
        "fused": [parse, Count, forward],
        "one": [forward],
        "two": [stage(forward, workers=1)],
    }
    by_hand = {"queues": queues, "pipetools": pipetools, "loop": loop}
    seconds = pipeline(stages[kind]) if kind in stages else by_hand[kind](count)
    print(json.dumps({"per_s": count / seconds, "us": seconds / count * 1e6}))


if __name__ == "__main__":
    main(sys.argv[1])
