"""The control block of a ring: words in its first page, by which its processes know of one another.

Only the worker writes. Each word is written by one part of the worker, under which it stands below.
Clients map the page, and read it. Its layout has a version: another version of tuncer may have
another one.
"""

from __future__ import annotations

from typing import Any

from tuncer.protocol.packet import Framing

SIZE = 4096  # bytes
_MAGIC = int.from_bytes(b"tuncring", "little")
_LAYOUT = 4

# ``RingWriter`` and ``RingReader``, the hot loops, use the numbers of the words; all others use
# ``ControlBlock``.
(
    MAGIC,
    LAYOUT,
    # -- set at the ring's creation --
    PACKETS,
    BYTES,
    MARK,
    # -- the ring's writer --
    HEAD,
    OLDEST,
    CLEARED,
    TALLY,
    _,
    _,
    _,
    FILTERED,
    FILTERED_BYTES,
    # -- the packet reader --
    RESTARTS,
    TRANSMITTED,
    HANDED_OUT,
    RECEIVED,
    RECEIVED_BYTES,
    SETTLED,
    TAKEN,
    # -- the active mode --
    ACTIVE,
    LIMIT,
    NOTICED,
    # -- the publisher --
    PUBLISHED,
    ZMQ_SUBSCRIBERS,
    PUBLISHES,
    OVERRUN,
    # -- the delivery --
    EVENTS,
    ENDED,
    # -- the worker --
    OFFLOAD,
    FRAMING,
    NAME,
) = range(33)


class _Word:
    """A word, as an attribute."""

    def __init__(self, index: int, description: str) -> None:
        self._index = index
        self.__doc__ = description

    def __get__(self, block: Any, owner: type) -> int:
        return int(block.words[self._index])

    def __set__(self, block: Any, value: int) -> None:
        block.words[self._index] = value


_NAME_WORDS = 2  # IFNAMSIZ of linux/if.h: 16 bytes


class ControlBlock:
    """The words by name."""

    __slots__ = ("words",)

    packets = _Word(PACKETS, "How many packets the ring has room for: a power of two.")
    bytes = _Word(BYTES, "How many bytes of packets it has room for.")
    mark = _Word(MARK, "What lies where the next packet is read to.")

    head = _Word(HEAD, "Packets read so far: the next one's ``seq``.")
    oldest = _Word(OLDEST, "The first packet that is whole: those before it may be overwritten.")
    cleared = _Word(CLEARED, "The lengths up to this packet are 0, or of packets that were read.")
    filtered = _Word(FILTERED, "Packets that the filter has refused.")
    filtered_bytes = _Word(FILTERED_BYTES, "Their bytes.")

    restarts = _Word(RESTARTS, "How often a worker has gone on after another one.")
    handed_out = _Word(HANDED_OUT, "The kernel's count of packets read, when the log began.")
    received = _Word(RECEIVED, "The kernel's count of packets written, when the log began.")
    received_bytes = _Word(RECEIVED_BYTES, "Their bytes.")
    settled = _Word(SETTLED, "Whether it was decided if this queue, of several, is attached.")
    taken = _Word(TAKEN, "Packets that subscribers have, or that ``recv`` has returned one by one.")

    active = _Word(ACTIVE, "A word of ``active_mode``: who packets are read for.")
    limit = _Word(LIMIT, "Packets that may be read before a counted mode is over.")
    noticed = _Word(NOTICED, "The ``limit`` of which the end was reported.")

    published = _Word(PUBLISHED, "Packets that the publisher has sent.")
    zmq_subscribers = _Word(ZMQ_SUBSCRIBERS, "How many subscribers it had.")
    publishes = _Word(PUBLISHES, "Whether its endpoint has been asked for.")
    overrun = _Word(OVERRUN, "Packets that were overwritten before it had sent them.")

    offload = _Word(OFFLOAD, "What the kernel has granted, of ``Offload``.")

    events = _Word(EVENTS, "Events that were sent, to those who had room for them.")

    def __init__(self, words: memoryview) -> None:
        self.words = words

    def format(self, packets: int, size: int, mark: int) -> None:
        """Begin a new ring."""
        self.words[LAYOUT] = _LAYOUT
        self.words[PACKETS], self.words[BYTES], self.words[MARK] = packets, size, mark
        self.words[MAGIC] = _MAGIC

    def check(self) -> None:
        """Check that this is a control block, and of this version's layout.

        Raises:
            ValueError: it is not.
        """
        if self.words[MAGIC] != _MAGIC:
            raise ValueError("this is no ring of tuncer's")
        if self.words[LAYOUT] != _LAYOUT:
            raise ValueError(
                f"the ring has layout {self.words[LAYOUT]}, and this version of tuncer knows layout"
                f" {_LAYOUT}: use the version that the device's worker runs"
            )

    @property
    def transmitted(self) -> int | None:
        """The kernel's count of bytes read, when the log began; None before that."""
        return self.words[TRANSMITTED] - 1 if self.words[TRANSMITTED] else None

    @transmitted.setter
    def transmitted(self, count: int) -> None:
        self.words[TRANSMITTED] = count + 1  # 0 in the memory of a new ring means none

    @property
    def ended(self) -> int | None:
        """Why the device has ended: an errno, 0 for an end in order; None while it lives."""
        return self.words[ENDED] - 1 if self.words[ENDED] else None

    @ended.setter
    def ended(self, number: int) -> None:
        self.words[ENDED] = number + 1

    @property
    def framing(self) -> Framing:
        """How the device frames packets."""
        word = self.words[FRAMING]
        return Framing(bool(word & 1), word >> 1)

    @framing.setter
    def framing(self, framing: Framing) -> None:
        self.words[FRAMING] = framing.start << 1 | framing.is_frame

    @property
    def name(self) -> str:
        """The device's name at its creation."""
        words = self.words[NAME : NAME + _NAME_WORDS].tolist()
        return b"".join(word.to_bytes(8, "little") for word in words).rstrip(b"\0").decode()

    @name.setter
    def name(self, name: str) -> None:
        packed = name.encode().ljust(8 * _NAME_WORDS, b"\0")
        for number in range(_NAME_WORDS):
            word = packed[8 * number : 8 * number + 8]
            self.words[NAME + number] = int.from_bytes(word, "little")
