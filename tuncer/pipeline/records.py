"""Packets as they lie in the logs between workers: a record holds many. Pure.

A record has a header, its runs (packets of one device, queue, framing and destination that follow
one another), and then of all packets the lengths, numbers and times, and their bytes.
"""

from __future__ import annotations

import itertools
import struct
from array import array
from collections.abc import Iterable, Sequence
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
    packets = [item.packet if isinstance(item, Routed) else item for item in items]
    runs: list[bytes] = []
    if items:
        datas, seqs, times, _, losts, _ = zip(*packets, strict=True)
        for (device, queue, framing, sink), run in itertools.groupby(
            zip(items, losts, strict=True), lambda pair: _run_of(pair[0])
        ):
            of_run = [lost for _, lost in run]
            names = (device.encode(), sink.encode())
            runs.append(_run(len(of_run), sum(of_run), queue, framing, *names))
    else:
        datas = seqs = times = ()
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
    for wanted, make in _runs(record, head.runs, first, last):
        found += map(make, itertools.islice(fields, wanted))
    return found


def _runs(record: memoryview, runs: int, first: int, last: int) -> Iterable[tuple[int, Any]]:
    """Yield of each run how many packets of it are wanted, and what makes one of its fields."""
    place, begin = _HEAD.size, 0
    for _ in range(runs):
        count, lost, queue, is_frame, start, device_size, sink_size = _RUN.unpack_from(
            record, place
        )
        place += _RUN.size
        device = bytes(record[place : place + device_size]).decode()
        place += device_size
        sink = bytes(record[place : place + sink_size]).decode()
        place += sink_size
        wanted = min(begin + count, last) - max(begin, first)
        lost = lost if begin >= first else 0  # it was told with the first packet of the run
        begin += count
        if wanted > 0:
            yield wanted, _maker(Framing(bool(is_frame), start), device, lost, queue, sink)


def _maker(framing: Framing, device: str, lost: int, queue: int, sink: str) -> Any:
    """Return what makes a packet of its bytes, number and time."""
    new, kind = tuple.__new__, packet_class(framing)
    losts = itertools.chain((lost,), itertools.repeat(0))

    def packet(fields: tuple[bytes, int, int]) -> Packet:
        return new(kind, (*fields, device, next(losts), queue))

    if not sink:
        return packet
    return lambda fields: Routed(sink, packet(fields))
