"""Packets as they lie in the logs between workers: a record holds many. Pure.

A record has a header, its runs (packets of one device, queue, framing and destination that follow
one another), and then of all packets the lengths, numbers and times, and their bytes.
"""

from __future__ import annotations

import functools
import itertools
import operator
import struct
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

from tuncer.protocol.packet import Framing, Packet, packet_class

_HEAD = struct.Struct("<IIQBxxxI")  # packets, runs, ticket, is it the ticket's last, bytes of runs
_RUN = struct.Struct("<IIHBBHH")  # packets, lost before, queue, framing (2), bytes of the names


class Routed(NamedTuple):
    """A packet that goes to a sink by its name, past all further stages."""

    sink: str
    packet: Packet


Item: TypeAlias = Packet | Routed
"""What passes from stage to stage."""


def in_bytes(packets: list[Packet], most_bytes: int) -> int:
    """Return how many packets have no more bytes than wanted; at least 1."""
    sizes = list(map(len, map(operator.itemgetter(0), packets)))
    if sum(sizes) <= most_bytes:
        return len(packets)
    return max(1, sum(size <= most_bytes for size in itertools.accumulate(sizes)))


def packet_of(item: Item) -> Packet:
    """Return the packet itself, wherever it goes."""
    return item.packet if isinstance(item, Routed) else item


class Record(NamedTuple):
    """A record, ready to be written."""

    parts: list[bytes]
    size: int
    packets: int


class Head(NamedTuple):
    """What the header of a record says."""

    packets: int
    runs: int
    ticket: int
    is_last: bool
    """Whether no other record of this ticket follows."""
    names: int


def _run_of(item: Item) -> tuple[Any, ...]:
    sink, packet = item if isinstance(item, Routed) else ("", item)
    return packet.device, packet.queue, packet.framing, sink


def encode(items: Sequence[Item], ticket: int = 0, *, is_last: bool = True) -> Record:
    """Return a record of packets; none is allowed, too."""
    has_routed = Routed in set(map(type, items))
    packets = [i.packet if type(i) is Routed else i for i in items] if has_routed else items
    fields = zip(*packets, strict=True) if packets else ((),) * 6
    datas, seqs, times, devices, losts, queues = fields
    runs = _runs_of(items, devices, losts, queues, has_routed=has_routed) if items else []
    lengths = array("I", map(len, datas))
    if len(lengths) & 1:
        lengths.append(0)  # what follows lies at a multiple of 8
    said = b"".join(runs)
    said += bytes(-len(said) % 8)
    head = _HEAD.pack(len(items), len(runs), ticket, is_last, len(said))
    fixed = b"".join(
        (head, said, lengths.tobytes(), array("Q", seqs).tobytes(), array("Q", times).tobytes())
    )
    data = b"".join(datas)
    return Record([fixed, data], len(fixed) + len(data), len(items))


def _runs_of(
    items: Sequence[Item],
    devices: Sequence[str],
    losts: Sequence[int],
    queues: Sequence[int],
    *,
    has_routed: bool,
) -> list[bytes]:
    count = len(items)
    if not has_routed and devices.count(devices[0]) == queues.count(queues[0]) == count:
        kinds = set(map(type, items))
        if len(kinds) == 1:  # most records are of one run
            first = items[0]
            assert isinstance(first, Packet)
            device = first.device.encode()
            return [_run(count, sum(losts), first.queue, first.framing, device, b"")]
    found = []
    pairs = zip(items, losts, strict=True)
    for (device_name, queue, framing, sink), run in itertools.groupby(
        pairs, lambda pair: _run_of(pair[0])
    ):
        of_run = [lost for _, lost in run]
        names = (device_name.encode(), sink.encode())
        found.append(_run(len(of_run), sum(of_run), queue, framing, *names))
    return found


def _run(count: int, lost: int, queue: int, framing: Framing, device: bytes, sink: bytes) -> bytes:
    fields = (count, min(lost, 0xFFFFFFFF), queue, framing.is_frame, framing.start)
    return _RUN.pack(*fields, len(device), len(sink)) + device + sink


def head_of(record: memoryview) -> Head:
    """Return what the header says."""
    count, runs, ticket, is_last, names = _HEAD.unpack_from(record)
    return Head(count, runs, ticket, bool(is_last), names)


def decode(record: memoryview, first: int = 0, limit: int | None = None) -> list[Item]:
    """Return packets of a record.

    Args:
        record: where it lies.
        first: how many to leave out.
        limit: how many to return, at most.
    """
    head = head_of(record)
    count = head.packets
    lengths_at = _HEAD.size + head.names
    seqs_at = lengths_at + 4 * (count + (count & 1))
    times_at = seqs_at + 8 * count
    data_at = times_at + 8 * count
    lengths = record[lengths_at : lengths_at + 4 * count].cast("I").tolist()
    ends = list(itertools.accumulate(lengths, initial=0))
    last = count if limit is None else min(count, first + limit)
    base = ends[first]
    data = bytes(record[data_at + base : data_at + ends[last]])
    datas = [data[ends[n] - base : ends[n + 1] - base] for n in range(first, last)]
    seqs = record[seqs_at + 8 * first : seqs_at + 8 * last].cast("Q").tolist()
    times = record[times_at + 8 * first : times_at + 8 * last].cast("Q").tolist()
    fields = zip(datas, seqs, times, strict=True)
    found: list[Item] = []
    for run in _runs(record, head.runs, first, last):
        found += _made(itertools.islice(fields, run.wanted), run)
    return found


class _Run(NamedTuple):
    """What the packets of a run have in common, and how many of them are wanted."""

    wanted: int
    framing: Framing
    device: str
    lost: int
    queue: int
    sink: str


def _made(fields: Iterable[tuple[bytes, int, int]], run: _Run) -> Iterable[Item]:
    """Return the packets of a run; to the packet no Python code runs."""
    datas, seqs, times = zip(*fields, strict=True)
    losts = itertools.chain((run.lost,), itertools.repeat(0))
    same = itertools.repeat(run.device), losts, itertools.repeat(run.queue)
    make = functools.partial(tuple.__new__, packet_class(run.framing))
    packets: Iterable[Packet] = map(make, zip(datas, seqs, times, *same, strict=False))
    return (Routed(run.sink, packet) for packet in packets) if run.sink else packets


def _runs(record: memoryview, runs: int, first: int, last: int) -> Iterator[_Run]:
    """Yield the runs of which packets are wanted."""
    place, begin = _HEAD.size, 0
    for _ in range(runs):
        count, lost, queue, is_frame, start, *sizes = _RUN.unpack_from(record, place)
        names = place + _RUN.size, place + _RUN.size + sizes[0], place + _RUN.size + sum(sizes)
        device, sink = (bytes(record[a:b]).decode() for a, b in itertools.pairwise(names))
        place = names[-1]
        wanted = min(begin + count, last) - max(begin, first)
        lost = lost if begin >= first else 0  # it was told with the first packet of the run
        begin += count
        if wanted > 0:
            yield _Run(wanted, Framing(bool(is_frame), start), device, lost, queue, sink)
