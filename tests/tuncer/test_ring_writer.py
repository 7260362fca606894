"""The writer of the ring: it loses nothing, though it is killed between any two stores."""

import errno
import gc
import itertools
import os
import random
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Self

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuncer.protocol import ring
from tuncer.protocol.ring_reader import RingReader
from tuncer.worker.ring_writer import Accepts, RingWriter


@pytest.fixture(name="source")
def packets() -> Iterator[tuple[socket.socket, int]]:
    """A queue of packets: what is sent to the first is read, one at a time, from the second."""
    sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.setblocking(False)
    sender.setblocking(False)
    yield sender, receiver.fileno()
    sender.close()
    receiver.close()


@pytest.fixture(name="fd")
def memory() -> Iterator[int]:
    fd = ring.create(128, ring.FEWEST_BYTES)
    yield fd
    os.close(fd)


def read(reader: RingReader, seq: int) -> list[bytes]:
    """Return all packets from one on, of which none is lost."""
    found: list[bytes] = []
    while (taken := reader.take(seq, "t0")).batch is not None:
        assert taken.batch.seq == seq
        found += taken.batch.payloads()
        seq = taken.seq
    assert taken.lost == 0
    return found


def test_what_a_filter_refused_does_not_come_back_with_another_filter(
    source: tuple[socket.socket, int], fd: int
) -> None:
    writer = RingWriter(fd)
    source[0].send(b"refused")
    assert writer.fill_filtered(source[1], 10, lambda *_: False) == (0, True)
    assert writer.recover(lambda *_: 7, lambda *_: True) == 0
    assert writer.counters()["packets_filtered"] == 1
    writer.close()


def test_small_packets_overwrite_what_was_foretold(
    fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ring has room for their bytes, and not for so many of them."""
    sent = [packet_of(100, number) for number in range(1000)]
    queue = list(sent)
    monkeypatch.setattr(os, "preadv", source_of(queue))
    writer = RingWriter(fd)
    while queue:
        foretold = writer.first_kept()
        writer.fill(0, 7)
        assert writer.control.oldest <= foretold
        assert leaves_the_last(writer, sent)
    assert writer.control.oldest > 0
    writer.close()


def test_as_many_are_read_as_are_wanted(source: tuple[socket.socket, int], fd: int) -> None:
    writer = RingWriter(fd)
    for _ in range(10):
        source[0].send(b"x")
    assert [writer.fill(source[1], most) for most in (3, 5, 5, 5)] == [3, 5, 2, 0]
    writer.close()


def test_what_was_read_before_an_error_is_there(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, reader = RingWriter(fd), RingReader(fd)
    monkeypatch.setattr(os, "preadv", source_of([b"one", b"two"], number=errno.EBADF))
    with pytest.raises(OSError, match="Bad file descriptor"):
        writer.fill(0)
    gc.collect()  # the error's frames hold on to the memory
    assert read(reader, 0) == [b"one", b"two"]
    writer.close()
    reader.close()


class Killed(BaseException):
    """The writer was killed here."""


class Store:
    """A memory view whose stores can be the last."""

    def __init__(self, view: memoryview, budget: list[int]) -> None:
        self.view, self.budget = view, budget

    def __getitem__(self, key: int | slice) -> object:
        return self.view[key]

    def __setitem__(self, key: int | slice, value: object) -> None:
        if self.budget[0] == 0:
            raise Killed
        self.budget[0] -= 1
        self.view[key] = value  # type: ignore[index,assignment]

    def release(self) -> None:
        self.view.release()


STORES = ("_control", "_begins", "_lengths", "_times", "_words")


def source_of(
    queue: list[bytes], number: int = errno.EAGAIN, then: Callable[[], object] = lambda: None
) -> Any:
    """Return a preadv(2) that reads a queue of packets, and then fails.

    After each packet something may be done: what a process sees that runs at the same time.
    """

    def preadv(_: int, vector: Sequence[memoryview], __: int, ___: int) -> int:
        if not queue:
            raise OSError(number, os.strerror(number))
        packet = queue.pop(0)
        vector[0][: len(packet)] = packet
        then()
        return len(packet)

    return preadv


def length_of(packet: memoryview, *_: int) -> int:
    return int.from_bytes(packet[2:4], "big")


def packet_of(size: int, number: int) -> bytes:
    """Return what says how long it is."""
    return (b"\x45\x00" + size.to_bytes(2, "big") + bytes([number % 256]) * size)[:size]


def keeps_enough(writer: RingWriter, packets: list[bytes]) -> bool:
    """Tell whether only what is about to be overwritten is given up."""
    oldest = writer.control.oldest
    kept = sum(len(one) + 7 & -8 for one in packets[oldest : writer.head])
    room = ring.FEWEST_BYTES - 2 * (1 << 19) - 2 * ring.LONGEST  # a step ahead, a step uncommitted
    return oldest == 0 or kept > room or writer.head - oldest >= writer.packets // 2


def leaves_the_last(writer: RingWriter, packets: list[bytes]) -> bool:
    """Tell whether the next batch leaves the last sixteenth of the ring whole.

    A lossless subscriber that has read everything has acknowledged the rest.
    """
    size, seq = 0, writer.head
    while seq > 0 and writer.head - seq < writer.packets // 16:
        size += len(packets[seq - 1]) + 7 & -8
        if size >= writer.size // 16:
            break
        seq -= 1
    return writer.first_kept() <= seq


class Trial:
    """A writer of a small ring that is killed, an heir, and a reader that follows both."""

    def __init__(self, sizes: list[int], before: int, most: Iterable[int]) -> None:
        """Fill the ring with so many packets of former laps; queue packets of these sizes."""
        self.is_filtered = False
        self.promised = 0
        self.most = itertools.cycle(most)
        self.before = self.followed = before
        self.sent = [packet_of(size, number) for number, size in enumerate(sizes)]
        self.queue = [packet_of(30_000, number) for number in range(before)]
        self.kept = list(self.queue)
        self.found: list[bytes] = []
        self.fd = ring.create(256, ring.FEWEST_BYTES)
        self.reader, self.writer = RingReader(self.fd), RingWriter(self.fd)
        self.real, os.preadv = os.preadv, source_of(self.queue, then=self.look)
        while self.queue:
            self.writer.fill(0)
        self.queue += self.sent
        self.kept += self.sent

    def look(self) -> None:
        """See that the oldest packets are whole, while another one has just been read."""
        if not self.is_filtered:
            batch = self.reader.take(self.reader.control.oldest, "t0", most=3).batch
            if batch is not None:
                assert batch.payloads() == self.kept[batch.seq : batch.seq + len(batch)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.preadv = self.real
        self.writer.close()
        self.reader.close()
        os.close(self.fd)

    def follow(self) -> None:
        self.found += read(self.reader, self.followed)
        self.followed = self.writer.head

    def fill(self, accepts: Accepts | None) -> None:
        while self.queue:
            self.promised = self.writer.first_kept()
            if accepts is None:
                self.writer.fill(0, next(self.most))
            else:
                self.writer.fill_filtered(0, next(self.most), accepts)
            assert self.writer.control.oldest <= self.promised
            assert self.is_filtered or leaves_the_last(self.writer, self.kept)
            self.follow()

    def run(self, stores: int, accepts: Accepts | None = None) -> bool:
        """Kill the writer after so many stores; return whether it got so far."""
        self.is_filtered = accepts is not None
        budget = [stores]
        for name in STORES:
            setattr(self.writer, name, Store(getattr(self.writer, name), budget))
        killed = False
        try:
            self.fill(accepts)
        except Killed:
            killed = True
        budget[0] = -1
        self.writer.close()
        self.writer = RingWriter(self.fd)
        assert self.is_filtered or keeps_enough(self.writer, self.kept)
        self.writer.recover(length_of, accepts)
        assert self.writer.control.oldest <= self.promised
        self.follow()
        self.fill(accepts)
        expected = [one for one in self.sent if accepts is None or accepts(0, len(one))]
        assert self.found == expected
        assert self.writer.bytes == sum(map(len, expected)) + 30_000 * self.before
        return killed


def is_even(_: int, length: int) -> bool:
    return length % 2 == 0


def test_a_small_ring_is_not_filled_at_once(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a filter, too: packets that are not committed yet would be overwritten."""
    sent = [packet_of(100, number) for number in range(1000)]
    monkeypatch.setattr(os, "preadv", source_of(list(sent)))
    writer, reader = RingWriter(fd), RingReader(fd)
    found: list[bytes] = []
    while len(found) < len(sent):
        writer.fill_filtered(0, ring.BATCH, lambda *_: True)
        found += read(reader, len(found))
    assert found == sent
    writer.close()
    reader.close()


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.one_of(st.integers(4, 300), st.integers(4, 65535)), min_size=1, max_size=80),
    st.integers(0, 500),
    st.sampled_from([0, 10, 69, 70, 100]),
    st.sampled_from([None, is_even]),
    st.lists(st.integers(1, ring.BATCH), min_size=1, max_size=9),
)
def test_a_writer_killed_between_any_two_stores_loses_nothing(
    sizes: list[int], stores: int, before: int, accepts: Accepts | None, most: list[int]
) -> None:
    """Stores are counted; after so many the writer is gone, and another one goes on."""
    with Trial(sizes, before, most) as one:
        one.run(stores, accepts)


@pytest.mark.parametrize("accepts", [None, is_even])
@pytest.mark.parametrize("sizes", [[100, 51, 4, 300], [65535, 65534, 30_000] * 20])
def test_a_kill_after_each_store(sizes: list[int], accepts: Accepts | None) -> None:
    """Where the next packet will be, lies what a packet of a lap before has left there."""
    stores = 0
    killed = True
    while killed:
        with Trial(sizes, 100, [ring.BATCH]) as one:
            killed = one.run(stores, accepts)
        stores += 1
    assert stores > 3 * sum(accepts is None or accepts(0, size) for size in sizes)


@pytest.mark.parametrize("seed", range(10))
def test_a_reader_at_any_time_gets_whole_packets_and_counts_the_others(seed: int) -> None:
    chance = random.Random(seed)
    longest = chance.choice([100, 1500, 65535])
    packets = chance.choice([128, 4096])
    queue = [packet_of(chance.randint(4, longest), number) for number in range(3000)]
    sent = list(queue)
    real, os.preadv = os.preadv, source_of(queue)
    fd = ring.create(packets, ring.FEWEST_BYTES)
    writer, reader = RingWriter(fd), RingReader(fd)
    try:
        seq = lost = expected = 0
        while queue or seq < len(sent):
            writer.fill(0, chance.randint(1, ring.BATCH))
            for _ in range(chance.choice([0, 0, 0, 1, 2]) if queue else 1):
                batch, seq, lost = reader.take(seq, "t0", lost=lost, most_bytes=100_000)
                if batch is not None:
                    assert batch.seq == expected + batch.lost
                    assert batch.payloads() == sent[batch.seq : batch.seq + len(batch)]
                    expected = batch.seq + len(batch)
        assert expected == seq == len(sent)
        assert keeps_enough(writer, sent)
    finally:
        os.preadv = real
        os.close(fd)
    reader.close()
    writer.close()
