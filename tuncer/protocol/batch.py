"""Many packets at once: their bytes are copied together, and a packet is made when it is asked for.

Pure.
"""

from __future__ import annotations

import bisect
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, overload

from tuncer.protocol.packet import Framing, Packet, packet_class

_Bytes = TypeVar("_Bytes", bytes, memoryview)

_IP = Framing()


@functools.cache
def _maker(framing: Framing) -> Callable[[tuple[Any, ...]], Packet]:
    """Return what makes a packet of its fields, as ``_make``, without a check."""
    return functools.partial(tuple.__new__, packet_class(framing))


class Batch(Sequence[Packet]):
    """Packets that follow one another, without a gap between them.

    It is a sequence of ``Packet``. To have the number of packets and their bytes costs nothing;
    each ``Packet`` is made when it is asked for. The segments of a large packet have its number. A
    batch can be pickled.
    """

    __slots__ = (
        *("data", "device", "framing", "lost", "queue", "seq"),
        *("_base", "_begins", "_lengths", "_numbers", "_timestamps"),
    )

    data: bytes
    """The bytes of all packets: packet ``n`` is ``data[offsets[n] : offsets[n] + lengths[n]]``.
    There may be bytes of no meaning between two packets."""
    seq: int
    """The first packet's number; the others follow, each with the next one."""
    lost: int
    """How many packets before the first one the subscription was too slow for."""
    device: str
    """The device's name at its creation."""
    queue: int
    """The device's queue that the packets came by."""
    framing: Framing
    """How the device frames packets."""

    def __init__(
        self,
        data: bytes,
        begins: Sequence[int],
        lengths: Sequence[int],
        seq: int,
        timestamps: Sequence[int],
        device: str,
        lost: int = 0,
        queue: int = 0,
        base: int = 0,
        numbers: Sequence[int] | None = None,
        framing: Framing = _IP,
    ) -> None:
        """Take as many begins, lengths and timestamps as there are packets: one at least.

        A packet begins at its number in ``begins``, less ``base``. Without ``numbers`` each packet
        has the next number.
        """
        self.data = data
        self._begins = begins
        self._base = base
        self._lengths = lengths
        self.seq = seq
        self._numbers = numbers
        self._timestamps = timestamps
        self.device = device
        self.lost = lost
        self.queue = queue
        self.framing = framing

    @classmethod
    def of(
        cls,
        payloads: Sequence[bytes],
        seq: int,
        timestamp: int,
        device: str,
        lost: int = 0,
        queue: int = 0,
        framing: Framing = _IP,
    ) -> Batch:
        """Return a batch of packets that were read at the same time."""
        lengths = list(map(len, payloads))
        offsets = list(itertools.accumulate(lengths[:-1], initial=0))
        times = [timestamp] * len(payloads)
        places = (b"".join(payloads), offsets, lengths, seq, times)
        return cls(*places, device, lost, queue, framing=framing)

    @property
    def timestamp(self) -> int:
        """When the worker read the first packet, in nanoseconds since the epoch."""
        return self._timestamps[0]

    @property
    def timestamps(self) -> list[int]:
        """When the worker read each packet."""
        return list(self._timestamps)

    @property
    def seqs(self) -> Sequence[int]:
        """Each packet's number."""
        if self._numbers is None:
            return range(self.seq, self.seq + len(self))
        return self._numbers

    @property
    def offsets(self) -> list[int]:
        """Where in ``data`` each packet begins."""
        base = self._base
        return [begin - base for begin in self._begins]

    @property
    def lengths(self) -> list[int]:
        """How many bytes each packet has."""
        return list(self._lengths)

    def payloads(self) -> list[bytes]:
        """Return the bytes of each packet."""
        return self._cut_out(self.data)

    def views(self) -> list[memoryview]:
        """Return the bytes of each packet where they lie in ``data``, without copying them."""
        return self._cut_out(memoryview(self.data))

    def _cut_out(self, data: _Bytes) -> list[_Bytes]:
        places = zip(self.offsets, self._lengths, strict=True)
        return [data[start : start + length] for start, length in places]

    def split(self, number: int) -> tuple[Batch, Batch]:
        """Return the first packets, so many, and the others: at least one each."""
        return self._part(slice(None, number), self.lost), self._part(slice(number, None), 0)

    def split_before(self, seq: int) -> tuple[Batch | None, Batch | None]:
        """Return the packets before the one that has a number, and the others; None for none."""
        number = bisect.bisect_left(self.seqs, seq)
        if number in {0, len(self)}:
            return (self, None) if number else (None, self)
        return self.split(number)

    def _part(self, part: slice, lost: int) -> Batch:
        begins, lengths, times = self._begins[part], self._lengths[part], self._timestamps[part]
        numbers = None if self._numbers is None else self._numbers[part]
        places = (self.data, begins, lengths, self.seqs[part][0], times)
        return Batch(*places, self.device, lost, self.queue, self._base, numbers, self.framing)

    def __reduce__(self) -> tuple[Any, ...]:
        return Batch, (
            *(self.data, self.offsets, self.lengths, self.seq, list(self._timestamps)),
            *(self.device, self.lost, self.queue, 0, self._numbers, self.framing),
        )

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[Packet]:
        fields = zip(
            self.payloads(),
            itertools.count(self.seq) if self._numbers is None else self._numbers,
            self._timestamps,
            itertools.repeat(self.device),
            itertools.chain((self.lost,), itertools.repeat(0)),
            itertools.repeat(self.queue),
            strict=False,
        )
        return map(_maker(self.framing), fields)  # from here to the packet no Python code runs

    @overload
    def __getitem__(self, index: int) -> Packet: ...

    @overload
    def __getitem__(self, index: slice) -> list[Packet]: ...

    def __getitem__(self, index: int | slice) -> Packet | list[Packet]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]  # from the end, too, or IndexError
        start = self._begins[number] - self._base
        return packet_class(self.framing)(
            self.data[start : start + self._lengths[number]],
            self.seqs[number],
            self._timestamps[number],
            self.device,
            0 if number else self.lost,
            self.queue,
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Batch):
            return NotImplemented
        return list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        last = self.seqs[-1]
        lost = f", {self.lost} lost before" if self.lost else ""
        size = sum(self._lengths)
        return f"<{len(self)} packets of {self.device}, {self.seq} to {last}, {size} bytes{lost}>"
