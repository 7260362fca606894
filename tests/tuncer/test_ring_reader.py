"""Readers of the ring: what they copy is whole, or counted as lost."""

import os
import platform
import socket
from collections.abc import Iterator

import pytest

from tuncer.protocol import ring, ring_reader
from tuncer.protocol.ring_reader import RingReader
from tuncer.worker.ring_writer import RingWriter


@pytest.fixture
def source() -> Iterator[tuple[socket.socket, int]]:
    """A queue of packets: what is sent to the first is read, one at a time, from the second."""
    sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.setblocking(False)
    yield sender, receiver.fileno()
    sender.close()
    receiver.close()


@pytest.fixture
def fd() -> Iterator[int]:
    fd = ring.create(128, ring.FEWEST_BYTES)
    yield fd
    os.close(fd)


def test_packets_are_read_as_written_over_several_laps(
    source: tuple[socket.socket, int], fd: int
) -> None:
    writer, reader = RingWriter(fd), RingReader(fd)
    seq = 0
    for number in range(1000):
        data = b"%d" % number * (number % 50 + 1)
        source[0].send(data)
        assert writer.fill(source[1]) == 1
        batch, seq, lost = reader.take(seq, "t0", queue=3)
        assert batch is not None
        (packet,) = batch
        assert packet[:2] == (data, number)
        assert packet[3:] == ("t0", 0, 3)
        assert lost == 0
    assert writer.fill(source[1]) == 0
    assert reader.take(seq, "t0") == (None, 1000, 0)
    writer.close()
    reader.close()


def test_a_lapped_reader_learns_exactly_how_much_it_lost(
    source: tuple[socket.socket, int], fd: int
) -> None:
    writer, reader = RingWriter(fd), RingReader(fd)
    for number in range(1000):
        source[0].send(b"%d" % number)
        writer.fill(source[1])
    assert reader.share_before(1000) == 1.0
    found = []
    seq, lost = 0, 7
    while True:
        batch, seq, lost = reader.take(seq, "t0", lost=lost)
        if batch is None:
            break
        found += list(batch)
    assert (seq, lost) == (1000, 0)
    assert found[0].lost == found[0].seq + 7
    assert [p.data for p in found] == [b"%d" % n for n in range(found[0].seq, 1000)]
    assert [p.lost for p in found[1:]] == [0] * (len(found) - 1)
    assert len(found) >= 128 - 64 - 128 // 16
    writer.close()
    reader.close()


def test_one_that_is_lapped_while_it_copies_tries_again(
    source: tuple[socket.socket, int], fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, reader = RingWriter(fd), RingReader(fd)
    in_one_piece = ring_reader._in_one_piece

    def write_meanwhile(begins: list[int], lengths: list[int], most: int) -> int:
        monkeypatch.setattr(ring_reader, "_in_one_piece", in_one_piece)
        write(1, 300)
        return in_one_piece(begins, lengths, most)

    def write(first: int, after: int) -> None:
        for number in range(first, after):
            source[0].send(b"%d" % number)
            writer.fill(source[1])

    write(0, 1)
    monkeypatch.setattr(ring_reader, "_in_one_piece", write_meanwhile)
    batch, seq, lost = reader.take(0, "t0")
    assert batch is not None
    assert batch.lost == batch.seq > 100
    assert batch.payloads() == [b"%d" % n for n in range(batch.seq, seq)]
    assert lost == 0
    writer.close()
    reader.close()


def test_most_packets_and_most_bytes(source: tuple[socket.socket, int], fd: int) -> None:
    writer, reader = RingWriter(fd), RingReader(fd)
    for size in (100, 100, 100, 5000, 100):
        source[0].send(b"x" * size)
        writer.fill(source[1])
    sizes = []
    seq = 0
    while (taken := reader.take(seq, "t0", most=2, most_bytes=250)).batch is not None:
        sizes.append(list(taken.batch.lengths))
        seq = taken.seq
    assert sizes == [[100, 100], [100], [5000], [100]]
    writer.close()
    reader.close()


def test_a_machine_that_reorders_stores_is_refused(
    fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(OSError, match=r"keeps the order of stores.*use transport='zmq'"):
        RingReader(fd)
    RingReader(fd, of_another_process=False).close()
