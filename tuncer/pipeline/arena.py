"""The shared memory of a pipeline: one memfd, in which its workers' pages and logs lie.

A worker has a page. It holds what the worker has committed: how far it has read each of its inputs,
how far it has written each of its outputs, and its counters. A commit is one store. The page has
two slots for these words. The worker writes the slot that is not in force, and then stores the next
version, whose lowest bit says which slot is. So a worker that is killed at any time has done
everything of a transaction, or nothing: its successor goes on where the slot in force says.

Others read a page without a lock (a seqlock): they read the version, the words, and the version
again; if that has changed meanwhile, they read again.

All stores are in the order that x86-64 processors show to others; see ``protocol.ring``.
"""

from __future__ import annotations

import errno
import os
import platform
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tuncer.pipeline import datagrams
from tuncer.protocol import shared_memory

_PAGE = 4096
_MAGIC = int.from_bytes(b"tuncpipe", "little")
_LAYOUT = 1
_ORDERED = {"x86_64", "AMD64"}

KEPT_BYTES = 16 << 20
"""Bytes of the kept state of a worker's stages, packed, at most."""
REASON_BYTES = 16_384
"""Bytes of text that a worker leaves of why it ends, at most."""
MOST_TRACED = 64
"""Packets of a trace, of each source, at most."""
_KEY_BYTES = 16  # of a packet that is traced
_STEPS_BYTES = 63 << 10  # of what has become of those, at most
_TRACE_BYTES = MOST_TRACED * _KEY_BYTES + _STEPS_BYTES
_COUNT_BITS = 8  # of the word that says who is traced: packets; above them the trace's number

# Words of the arena's first page.
_MAGIC_WORD, _LAYOUT_WORD, _SIZE_WORD, _DRAINING, _STOPPED, _IDENTITY, _TRACING = range(7)

# Words of a worker's page before its slots. The worker alone writes them; WAITING says that it
# waits for room in an output, UNFIT that no successor can go on, the others are explained in
# ``failures``.
(
    VERSION,
    WAITING,
    HAND,
    HAND_INPUT,
    HAND_COUNT,
    KILLS,
    LIMIT,
    SUSPECTS,
    REASON_OF,
    REASON_SIZE,
    UNFIT,
) = range(11)
_WORDS = 16


class WorkerShape(NamedTuple):
    """How many words a worker's slots have."""

    slot: int
    keeps: bool
    """Whether it has room for kept state."""
    has_datagrams: bool = False
    """Whether it has room for the flows of datagrams."""
    sinks: int = 0
    """How many sinks it has."""


@dataclass(frozen=True)
class Layout:
    """Where everything lies: a matter of the workers, and of how many logs there are."""

    workers: tuple[WorkerShape, ...]
    logs: int
    log_bytes: int

    def page(self, worker: int) -> int:
        """Return where a worker's page begins."""
        return _PAGE + sum(map(_page_size, self.workers[:worker]))

    def reason(self, worker: int) -> int:
        """Return where a worker's reason begins."""
        return self.page(worker) + _words_size(self.workers[worker])

    def log(self, log: int) -> int:
        """Return where a log begins."""
        return self.page(len(self.workers)) + log * self.log_bytes

    def kept(self, worker: int) -> int:
        """Return where the two halves of a worker's kept state begin."""
        keepers = sum(shape.keeps for shape in self.workers[:worker])
        return self.log(self.logs) + keepers * 2 * KEPT_BYTES

    @property
    def size(self) -> int:
        """Bytes of all. Most of them are never touched, and take no memory."""
        return self.kept(len(self.workers))


def _words_size(shape: WorkerShape) -> int:
    words = 8 * (_WORDS + 2 * shape.slot + shape.sinks)
    return -(-words // _PAGE) * _PAGE


def _page_size(shape: WorkerShape) -> int:
    return _words_size(shape) + REASON_BYTES + _TRACE_BYTES + shape.has_datagrams * datagrams.SIZE


class Wanted(NamedTuple):
    """What is to be traced."""

    word: int
    """Which is another one for each trace."""

    @property
    def packets(self) -> int:
        """How many, of each source; 0: nobody traces."""
        return self.word & (1 << _COUNT_BITS) - 1


def create(layout: Layout) -> int:
    """Return the memfd of a new arena.

    Raises:
        OSError: EFBIG, it is over RLIMIT_FSIZE.
    """
    fd = shared_memory.create("tuncer-pipeline", layout.size, "a pipeline")
    head = array("Q", [_MAGIC, _LAYOUT, layout.size])
    os.pwrite(fd, head.tobytes(), 0)
    os.pwrite(fd, os.urandom(8), 8 * _IDENTITY)
    return fd


class Arena:
    """A pipeline's memory, mapped into this process."""

    def __init__(self, fd: int, layout: Layout) -> None:
        """Map it.

        Raises:
            ValueError: it is none, or one of another shape.
            OSError: ENOTSUP, this machine reorders stores; ENOMEM, as ``create``.
        """
        if platform.machine() not in _ORDERED:
            raise OSError(
                errno.ENOTSUP,
                f"{os.strerror(errno.ENOTSUP)}: pipelines need a processor that keeps the order of"
                f" stores, as x86-64 does, not {platform.machine()}",
            )
        size = os.fstat(fd).st_size
        self._map = shared_memory.mapped(fd, "a pipeline", writable=True)
        self._fd = fd
        self.layout = layout
        self.view = memoryview(self._map)
        self._head = self.view[:_PAGE].cast("Q")
        found = (self._head[_MAGIC_WORD], self._head[_LAYOUT_WORD], self._head[_SIZE_WORD])
        if found != (_MAGIC, _LAYOUT, layout.size) or size != layout.size:
            raise ValueError("this is no memory of this pipeline: another version made it")

    @property
    def identity(self) -> bytes:
        """What distinguishes this memory from that of all other pipelines, and later ones."""
        return int(self._head[_IDENTITY]).to_bytes(8, "little")

    @property
    def draining(self) -> bool:
        """Whether the sources are to end: set once, and never taken back."""
        return bool(self._head[_DRAINING])

    def drain(self) -> None:
        """Have the sources end."""
        self._head[_DRAINING] = 1

    @property
    def stopped(self) -> bool:
        """Whether the pipeline was told to stop: another incarnation begins anew."""
        return bool(self._head[_STOPPED])

    def stop(self) -> None:
        """Note that the pipeline was told to stop."""
        self._head[_STOPPED] = 1

    @property
    def tracing(self) -> Wanted:
        """What is to be traced."""
        return Wanted(self._head[_TRACING])

    def trace(self, packets: int) -> Wanted:
        """Have so many packets traced, of each source; 0 ends it."""
        number = (self._head[_TRACING] >> _COUNT_BITS) + 1
        self._head[_TRACING] = number << _COUNT_BITS | packets
        return self.tracing

    def page(self, worker: int) -> Page:
        """Return a worker's page."""
        return Page(self, worker)

    def log(self, log: int) -> memoryview:
        """Return the bytes of a log."""
        start = self.layout.log(log)
        return self.view[start : start + self.layout.log_bytes]

    def store_visibly(self, place: int, value: int) -> None:
        """Store a word so that no later load of this process is done before it.

        A processor may do a load before an earlier store is visible to others. A system call that
        takes locks in the kernel lets neither pass.
        """
        os.pwrite(self._fd, value.to_bytes(8, "little"), place)

    def load_late(self, place: int) -> int:
        """Load a word after every earlier store of this process is visible to others."""
        return int.from_bytes(os.pread(self._fd, 8, place), "little")


class Page:
    """A worker's page."""

    def __init__(self, arena: Arena, worker: int) -> None:
        self._arena = arena
        layout = arena.layout
        self._start = layout.page(worker)
        shape = layout.workers[worker]
        self._size = shape.slot
        end = self._start + 8 * (_WORDS + 2 * shape.slot)
        self.words = arena.view[self._start : end].cast("Q")
        self.sent = arena.view[end : end + 8 * shape.sinks].cast("Q")
        """How far each sink may have sent what is not committed: see ``ZmqSink``."""
        reason = layout.reason(worker)
        self._reason = arena.view[reason : reason + REASON_BYTES]
        trace = reason + REASON_BYTES
        steps = trace + MOST_TRACED * _KEY_BYTES
        self._trace_keys = arena.view[trace:steps].cast("Q")
        self._steps = arena.view[steps : steps + _STEPS_BYTES]
        end = layout.page(worker) + _page_size(shape)
        self.datagrams = arena.view[end - shape.has_datagrams * datagrams.SIZE : end]
        """The flows of datagrams; empty, if the worker does not share packets out by flow."""
        kept = layout.kept(worker)
        self._kept = arena.view[kept : kept + 2 * KEPT_BYTES] if shape.keeps else None

    @property
    def version(self) -> int:
        """How often the worker has committed."""
        return self.words[VERSION]

    def read(self, first: int = 0, count: int | None = None) -> list[int]:
        """Return words of the slot that is in force, all of one commit."""
        words = self.words
        end = self._size if count is None else first + count
        while True:
            version = words[VERSION]
            start = _WORDS + (version & 1) * self._size
            found: list[int] = words[start + first : start + end].tolist()
            # The worker writes the other slot only: after the next version it may write this one.
            if words[VERSION] == version:
                return found

    def commit(self, values: Sequence[int]) -> None:
        """Put a slot in force: the worker's alone."""
        words = self.words
        version = words[VERSION] + 1
        start = _WORDS + (version & 1) * self._size
        words[start : start + self._size] = array("Q", values)
        words[VERSION] = version

    # -- flow control ------------------------------------------------------------------------------

    def wait(self, *, waiting: bool) -> None:
        """Say whether the worker waits for room: its consumers then wake it."""
        if waiting:
            self._arena.store_visibly(self._start + 8 * WAITING, 1)
        else:
            self.words[WAITING] = 0

    def is_waiting(self) -> bool:
        """Tell whether it waits for room. Asked by a consumer, after its commit."""
        return bool(self._arena.load_late(self._start + 8 * WAITING))

    # -- what is kept ------------------------------------------------------------------------------

    def write_kept(self, packed: bytes, half: int) -> None:
        """Write kept state into a half that is not in force: a commit puts it in force.

        Raises:
            ValueError: it is too long.
        """
        assert self._kept is not None
        if len(packed) > KEPT_BYTES:
            raise ValueError(f"what stages keep has {len(packed)} bytes; at most {KEPT_BYTES} fit")
        start = half * KEPT_BYTES
        self._kept[start : start + len(packed)] = packed

    def read_kept(self, half: int, size: int) -> bytes:
        """Return kept state."""
        assert self._kept is not None
        start = half * KEPT_BYTES
        return bytes(self._kept[start : start + size])

    # -- traces ------------------------------------------------------------------------------------

    def write_trace_key(self, number: int, one: int, other: int) -> None:
        """Write the key of a packet that is traced: a commit says how many there are."""
        self._trace_keys[2 * number], self._trace_keys[2 * number + 1] = one, other

    def trace_keys(self, count: int) -> list[tuple[int, int]]:
        """Return the keys of packets that are traced."""
        words = self._trace_keys[: 2 * min(count, MOST_TRACED)].tolist()
        return list(zip(words[::2], words[1::2], strict=True))

    def write_trace(self, place: int, data: bytes) -> int:
        """Write steps behind others: a commit puts them in force; return how many bytes.

        Those that have no room are left out.
        """
        if place + len(data) > _STEPS_BYTES:
            return 0
        self._steps[place : place + len(data)] = data
        return len(data)

    def read_trace(self, size: int) -> bytes:
        """Return so many bytes of steps."""
        return bytes(self._steps[:size])

    # -- why it ends -------------------------------------------------------------------------------

    def leave_reason(self, text: str) -> None:
        """Leave a text, for the successor, of why the worker cannot do what it has in hand."""
        if self.words[UNFIT]:  # then there is a text already
            return
        data = text.encode(errors="replace")[-REASON_BYTES:]
        self._reason[: len(data)] = data
        self.words[REASON_SIZE] = len(data)
        self.words[REASON_OF] = self.words[HAND]

    def reason(self, hand: int) -> str | None:
        """Return the text that was left of a transaction."""
        if not hand or self.words[REASON_OF] != hand:
            return None
        return self._last_reason()

    def end_for_good(self, text: str) -> None:
        """Leave a text of why no successor can go on."""
        self.leave_reason(text)
        self.words[UNFIT] = 1

    def unfit(self) -> str | None:
        """Return why no successor can go on; None: one can."""
        return self._last_reason() if self.words[UNFIT] else None

    def _last_reason(self) -> str:
        size = min(self.words[REASON_SIZE], REASON_BYTES)
        return bytes(self._reason[:size]).decode(errors="replace")
