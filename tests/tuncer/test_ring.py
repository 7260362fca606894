"""The ring by itself: what is written is read, though writers are killed between any two stores."""

import os
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import eventually

from tuncer.protocol import control_block, ring


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
    fd = ring.create(128)
    yield fd
    os.close(fd)


def test_packets_are_read_as_written_over_several_laps(
    source: tuple[socket.socket, int], fd: int
) -> None:
    writer, reader = ring.Writer(fd), ring.Reader(fd)
    place = 0
    for number in range(1000):
        source[0].send(b"%d" % number * (number % 50 + 1))
        assert writer.fill(source[1]) == 1
        (packet,), place, lost = reader.read(place, 100, "t0")
        assert (packet.data, packet.seq, packet.lost) == (
            b"%d" % number * (number % 50 + 1),
            number,
            0,
        )
        assert lost == 0
    assert writer.fill(source[1]) == 0
    assert ring.counters(writer)["packets_read"] == 1000
    writer.close()
    reader.close()


def test_a_lapped_reader_learns_exactly_how_much_it_lost(
    source: tuple[socket.socket, int], fd: int
) -> None:
    writer, reader = ring.Writer(fd), ring.Reader(fd)
    for number in range(1000):
        source[0].send(b"%d" % number)
        writer.fill(source[1])
    packets, place, lost = reader.read(0, 10_000, "t0")
    assert place == 1000
    assert lost == 0
    assert packets[0].lost == packets[0].seq
    assert [p.data for p in packets] == [b"%d" % n for n in range(packets[0].seq, 1000)]
    assert len(packets) >= 128 - ring.BATCH - 128 // 16
    writer.close()
    reader.close()


def test_what_a_filter_refused_does_not_come_back_with_another_filter(
    source: tuple[socket.socket, int], fd: int
) -> None:
    writer = ring.Writer(fd)
    source[0].send(b"refused")
    assert writer.fill_filtered(source[1], 10, lambda *_: False) == (0, True)
    assert writer.recover(lambda *_: 7, lambda *_: True) == 0
    assert ring.counters(writer)["packets_filtered"] == 1
    writer.close()


_LAP = 150  # more packets than the ring has slots


class Killed(BaseException):
    """The writer was killed here."""


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.integers(4, 300), min_size=1, max_size=80),
    st.integers(0, 500),
    st.booleans(),
    st.data(),
)
def test_a_writer_killed_between_any_two_stores_loses_nothing(
    sizes: list[int], stores: int, filtered: bool, data: st.DataObject
) -> None:
    """Stores are counted; after so many the writer is gone, and another one goes on."""

    def accepts(slot: int, length: int) -> bool:
        return length % 2 == 0

    def fill(by: ring.Writer, most: int) -> bool:
        """Read; tell whether there may be more."""
        return not by.fill_filtered(0, most, accepts)[1] if filtered else by.fill(0, most) > 0

    fd = ring.create(128)
    queue = [b"\x45\x00" + size.to_bytes(2, "big") + b"x" * (size - 4) for size in sizes]
    expected = [packet for packet in queue if not filtered or len(packet) % 2 == 0]
    queue[:0] = [b"\x45\x00\x00\x20" + b"o" * 28] * _LAP  # what a lap before has left in the slots
    budget = [stores]

    class Store:
        """A memory view whose stores can be the last."""

        def __init__(self, view: memoryview) -> None:
            self.view = view

        def __getitem__(self, key: int) -> int:
            return self.view[key]

        def __setitem__(self, key: int | slice, value: object) -> None:
            if budget[0] == 0:
                raise Killed
            budget[0] -= 1
            self.view[key] = value  # type: ignore[index,assignment]

        def release(self) -> None:
            self.view.release()

        def cast(self, kind: str) -> memoryview:
            return self.view.cast(kind)  # type: ignore[call-overload,no-any-return]

    def preadv(_: int, vector: list[memoryview], __: int, ___: int) -> int:
        if not queue:
            raise BlockingIOError
        packet = queue.pop(0)
        vector[0][: len(packet)] = packet
        return len(packet)

    real, os.preadv = os.preadv, preadv  # type: ignore[assignment]
    try:
        writer = ring.Writer(fd)
        while writer.head < _LAP:
            writer.fill(0, min(64, _LAP - writer.head))
        for name in ("_control", "lengths", "times", "_words"):
            setattr(writer, name, Store(getattr(writer, name)))
        try:
            eventually(lambda: not (fill(writer, data.draw(st.integers(1, 64)))))
        except Killed:
            budget[0] = -1
        writer.close()
        heir = ring.Writer(fd)
        heir.recover(
            lambda view, *_: int.from_bytes(view[2:4], "big"), accepts if filtered else None
        )
        eventually(lambda: not (fill(heir, 64)))
        reader = ring.Reader(fd)
        found, _, lost = reader.read(_LAP, 1000, "t0")
        assert lost == 0
        assert [p.data for p in found] == expected
        assert heir.bytes == sum(map(len, expected)) + 32 * _LAP
        reader.close()
        heir.close()
    finally:
        os.preadv = real
        os.close(fd)


@pytest.mark.parametrize("slots", [0, 1, 64, 100, 129])
def test_a_ring_of_no_sensible_size_is_refused(slots: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        ring.create(slots)


def test_what_is_no_ring_is_refused() -> None:
    fd = os.memfd_create("nonsense")
    os.ftruncate(fd, 8192)
    with pytest.raises(ValueError, match="no ring"):
        ring.Reader(fd)
    os.close(fd)


def test_a_ring_of_another_layout_is_refused(fd: int) -> None:
    os.pwrite(fd, (2).to_bytes(8, "little"), 8 * control_block.LAYOUT)
    with pytest.raises(ValueError, match=r"the ring has layout 2, .* knows layout 1"):
        ring.Reader(fd)
