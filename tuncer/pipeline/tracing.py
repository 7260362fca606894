"""A few packets on their way through a pipeline: what each stage makes of them, and when.

Who traces names a number of packets. The workers of the sources choose the next ones, and leave
their keys in their pages: device, queue and ``seq``, which a stage does not change when it changes
a packet's bytes. Each worker that has such a packet in hand writes the steps that this goes through
into its page, and commits them with the transaction: so a kill repeats no step, and hides none.
"""

from __future__ import annotations

import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

from supervisor.lowlevel import pack_exact, unpack
from tuncer.pipeline import plan
from tuncer.pipeline.arena import MOST_TRACED, Arena, Page
from tuncer.pipeline.engine import Runner, text_of
from tuncer.pipeline.records import Item, Routed, packet_of
from tuncer.protocol.headers import flow_text
from tuncer.protocol.packet import Packet

READ, TAKEN, PUT = "read", "taken", "put"
"""Verdicts by which one knows whether a packet is still on its way."""

_LENGTH = 4  # bytes before the steps of a transaction
_LONGEST_NOTE = 200
_LONGEST = 3600  # seconds of a trace: meanwhile nobody else can trace the pipeline


class Key(NamedTuple):
    """What tells a packet from others: two words."""

    device: int
    """Of the device's name and the queue."""
    seq: int


class Step(NamedTuple):
    """What became of a packet at one place, as it travels."""

    device: int
    seq: int
    time: int
    """Nanoseconds since the epoch."""
    worker: str
    where: str
    verdict: str
    packets: int
    """How many: a stage may return several that have the same number."""
    note: str


class TraceStep(NamedTuple):
    """A step of a packet's way through a pipeline."""

    time: int
    """Nanoseconds since the packet was read from the source."""
    worker: str
    where: str
    """The device, the stage, the worker before or behind, or the sink."""
    verdict: str
    """"read", "taken", "passed", "changed", "dropped", "failed", "made 2", "to NAME", "put",
    "shed", "unassigned", "lost", "quarantined", "written"."""
    note: str


class TracedPacket(NamedTuple):
    """A packet, and its way through a pipeline."""

    device: str
    seq: int
    summary: str
    read: int
    """When it was read from the source: nanoseconds since the epoch."""
    steps: list[TraceStep]
    done: bool
    """Whether everything that came of it has left the pipeline."""


def key_of(packet: Packet) -> Key:
    """Return the key of a packet."""
    return Key(zlib.crc32(packet.device.encode()) << 32 | packet.queue, packet.seq)


def summary(packet: Packet) -> str:
    """Return a packet in a few words."""
    flow = packet.flow
    what = flow_text(flow) if flow else "arp" if packet.arp else ""
    size = f"{len(packet.data)} bytes"
    return f"{size}, {what}" if what else size


class Trace:
    """What becomes of the traced packets of one transaction."""

    def __init__(self, keys: AbstractSet[Key], worker: str) -> None:
        self.keys = keys
        self._worker = worker
        self.steps: list[Step] = []
        self._errors: dict[Key, str] = {}
        self._shares: list[Counter[Key]] = []

    def note(self, key: Key, where: str, verdict: str, *, count: int = 1, note: str = "") -> None:
        """Note a step."""
        text = note[:_LONGEST_NOTE].encode(errors="backslashreplace").decode()
        self.steps.append(Step(*key, time.time_ns(), self._worker, where, verdict, count, text))

    def count(self, items: Iterable[Item]) -> Counter[Key]:
        """Return how many of some items are of each traced packet."""
        keys = (key_of(packet_of(item)) for item in items)
        return Counter(key for key in keys if key in self.keys)

    def each(self, items: Iterable[Item], where: str, verdict: str, note: str = "") -> None:
        """Note the same step of all traced packets among some items."""
        for key, count in self.count(items).items():
            self.note(key, where, verdict, count=count, note=note)

    # -- stages ------------------------------------------------------------------------------------

    def run_all(self, runners: Sequence[Runner], items: list[Item]) -> list[Item]:
        """Return what stages make of packets, as ``engine.run_all`` does."""
        for runner in runners:
            before = self._sorted(items)
            began, count = time.perf_counter(), len(items)
            self._errors.clear()
            items = runner.run(items)
            spent = (time.perf_counter() - began) * 1e6
            self._compare(runner.name, before, self._sorted(items), f"{count} in {spent:.0f} us")
        return items

    def failed(self, packet: Packet | None, error: BaseException) -> None:
        """Take note of a packet for which a stage has raised an exception."""
        if packet is not None:
            self._errors[key_of(packet)] = text_of(error).rpartition("\n")[2]

    def _sorted(self, items: list[Item]) -> dict[Key, _Found]:
        found: dict[Key, _Found] = defaultdict(lambda: _Found([], []))
        for item in items:
            key = key_of(packet_of(item))
            if key in self.keys:
                if isinstance(item, Routed):
                    found[key].sinks.append(item.sink)
                else:
                    found[key].datas.append(item.data)
        return found

    def _compare(
        self, stage: str, before: dict[Key, _Found], after: dict[Key, _Found], note: str
    ) -> None:
        """Note what a stage has made of packets that came to it."""
        for key, given in before.items():
            if given.datas:
                made = after.get(key, _Found([], []))
                error = self._errors.get(key)
                verdict = verdict_of(given, made, is_failed=error is not None)
                self.note(key, stage, verdict, count=len(made.datas), note=error or note)

    # -- the end of the transaction ----------------------------------------------------------------

    def shared_out(self, shares: Sequence[Sequence[Item]]) -> None:
        """Take note of which worker of the next stage gets which packets."""
        self._shares = [self.count(share) for share in shares]

    def put(self, output: int, consumer: str, *, is_shed: bool) -> None:
        """Note that what goes to a worker was written, or shed."""
        for key, count in self._shares[output].items() if self._shares else ():
            self.note(key, consumer, "shed" if is_shed else PUT, count=count)

    def delivered(self, sink: str, packets: Sequence[Packet], failed: int) -> None:
        """Note that packets went to a sink."""
        note = f"{failed} of {len(packets)} have failed" if failed else ""
        verdict = "failed" if failed == len(packets) else "written"
        self.each(packets, sink, verdict, note)

    def packed(self) -> bytes:
        """Return the steps as bytes."""
        data = pack_exact([list(step) for step in self.steps])
        return len(data).to_bytes(_LENGTH, "little") + data


class _Found(NamedTuple):
    """What there is of a packet before or after a stage."""

    datas: list[bytes]
    """Of those that go on to the next stage."""
    sinks: list[str]
    """Of those that go to a sink."""


def verdict_of(given: _Found, made: _Found, *, is_failed: bool) -> str:
    """Return what a stage has made of a packet, in a word or two."""
    sinks = Counter(made.sinks) - Counter(given.sinks)  # those were on their way already
    found = ["failed"] if is_failed else []
    if made.datas:
        if len(made.datas) != len(given.datas):
            found.append(f"made {len(made.datas)}")
        else:
            found.append("passed" if made.datas == given.datas else "changed")
    found += [f"to {name}" if count == 1 else f"{count} to {name}" for name, count in sinks.items()]
    return ", ".join(found) or "dropped"


class Tracer:
    """A worker's part in traces."""

    def __init__(
        self, arena: Arena, page: Page, words: list[int], worker: str, sources: Sequence[Page]
    ) -> None:
        """Begin.

        Args:
            arena: which says whether anybody traces.
            page: the worker's.
            words: that its next commit puts in force.
            worker: its name.
            sources: the pages of the sources' workers.
        """
        self._arena, self._page, self._words = arena, page, words
        self._worker, self._sources = worker, sources

    def begin(self, items: Sequence[Item], source: str | None, origin: str) -> Trace | None:
        """Return the trace of what was taken, if traced packets are among that.

        Args:
            items: what was taken.
            source: the name of this worker's source; None: it has none.
            origin: the worker from which they come.
        """
        wanted = self._arena.tracing
        if not wanted.packets:
            return None
        words = self._words
        if words[plan.TRACE] != wanted.word:
            words[plan.TRACE], words[plan.TRACE_KEYS], words[plan.TRACE_SIZE] = wanted.word, 0, 0
        if source is not None:
            return self._chosen(items[: wanted.packets - words[plan.TRACE_KEYS]])
        trace = Trace(self._keys(wanted.word), self._worker)
        trace.each(items, origin, TAKEN, f"{len(items)} at once")
        return trace if trace.steps else None

    def _chosen(self, items: Sequence[Item]) -> Trace | None:
        """Return the trace of packets that this worker's source has just given."""
        if not items:
            return None
        packets = [item for item in items if isinstance(item, Packet)]
        keys = [key_of(packet) for packet in packets]
        for key in keys:
            self._page.write_trace_key(self._words[plan.TRACE_KEYS], *key)
            self._words[plan.TRACE_KEYS] += 1
        trace = Trace(set(keys), self._worker)
        for key, packet in zip(keys, packets, strict=True):
            trace.note(key, packet.device, READ, note=summary(packet))
        return trace

    def _keys(self, wanted: int) -> set[Key]:
        found = set()
        for page in self._sources:
            word, count = page.read(plan.TRACE, 2)
            if word == wanted:
                found |= {Key(*key) for key in page.trace_keys(count)}
        return found

    def write(self, trace: Trace) -> None:
        """Write steps, which the next commit puts in force; what has no room is left out."""
        self._words[plan.TRACE_SIZE] += self._page.write_trace(
            self._words[plan.TRACE_SIZE], trace.packed()
        )


def read_steps(page: Page, wanted: int) -> list[Step]:
    """Return the steps that a worker has committed in a trace."""
    word, _, size = page.read(plan.TRACE, 3)
    if word != wanted:
        return []
    data, found, place = page.read_trace(size), list[Step](), 0
    while place < len(data):
        end = place + _LENGTH + int.from_bytes(data[place : place + _LENGTH], "little")
        found += [Step(*fields) for fields in unpack(data[place + _LENGTH : end])]
        place = end
    return found


def packets_of(steps: Iterable[Step]) -> list[TracedPacket]:
    """Return the packets of steps, in the order in which they were read.

    The steps of a worker that takes packets must have been read before those of the worker that
    gives them: then a packet that seems to be done is done.
    """
    by_key: dict[Key, list[Step]] = defaultdict(list)
    for step in steps:
        by_key[Key(step.device, step.seq)].append(step)
    found = [packet for ones in by_key.values() if (packet := _packet(ones)) is not None]
    return sorted(found, key=lambda packet: packet.read)


def _packet(steps: list[Step]) -> TracedPacket | None:
    steps = sorted(steps, key=lambda step: step.time)
    read = next((step for step in steps if step.verdict == READ), None)
    if read is None:
        return None
    on_its_way = sum(step.packets for step in steps if step.verdict == PUT)
    on_its_way -= sum(step.packets for step in steps if step.verdict == TAKEN)
    shown = [TraceStep(s.time - read.time, s.worker, s.where, s.verdict, s.note) for s in steps]
    return TracedPacket(read.where, read.seq, read.note, read.time, shown, on_its_way <= 0)


def is_over(found: Sequence[TracedPacket], wanted: int) -> bool:
    """Tell whether as many packets as wanted are done."""
    return len(found) >= wanted and all(packet.done for packet in found[:wanted])


def check(count: Any, timeout: Any) -> None:
    """Check how many packets are to be traced, and for how long.

    Raises:
        ValueError, TypeError: not so many, or not so long.
    """
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(f"a trace takes a number of seconds, not {timeout!r:.100}")
    if not 0 <= timeout <= _LONGEST:
        raise ValueError(f"a trace takes 0 to {_LONGEST} seconds, not {timeout}")
    if isinstance(count, bool) or not isinstance(count, int):
        raise TypeError(f"a trace is of a number of packets, not {count!r:.100}")
    if not 1 <= count <= MOST_TRACED:
        raise ValueError(f"a trace is of 1 to {MOST_TRACED} packets, not {count}")
