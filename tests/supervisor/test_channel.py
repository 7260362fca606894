"""The channel between a process and the one that started it."""

import itertools
import os
from collections.abc import Iterator

import pytest

from supervisor.protocol.channel import SIZE, Channel, close_all


@pytest.fixture(name="ends")
def both_ends() -> Iterator[tuple[Channel, Channel]]:
    ours, theirs = Channel.pair()
    other = Channel(theirs)
    yield ours, other
    ours.close()
    other.close()


def received(channel: Channel) -> list[int]:
    """Return the numbers that have arrived, each by a message with a descriptor."""
    found = []
    while (message := channel.receive()) is not None:
        (number,), descriptors = message
        close_all(descriptors)
        assert len(descriptors) == 1
        found.append(number)
    return found


def test_what_finds_no_room_is_sent_later_and_in_order(ends: tuple[Channel, Channel]) -> None:
    ours, theirs = ends
    with open(os.devnull, "rb") as file:
        number = next(n for n in itertools.count() if not ours.queue(n, fds=(file.fileno(),)))
        assert not any(ours.queue(n, fds=(file.fileno(),)) for n in range(number + 1, number + 50))
    found = received(theirs)  # the file was closed meanwhile: the queue has duplicates
    while not ours.flush():
        found += received(theirs)
    assert found + received(theirs) == list(range(number + 50))


def test_what_was_not_sent_leaves_no_descriptor(ends: tuple[Channel, Channel]) -> None:
    ours, _ = ends
    with open(os.devnull, "rb") as file:
        while ours.queue(0, fds=(file.fileno(),)):
            pass
        before = len(os.listdir("/proc/self/fd"))
        ours.close()
    assert len(os.listdir("/proc/self/fd")) == before - 3  # the duplicate, the file, the channel


def test_too_long_a_message_is_refused(ends: tuple[Channel, Channel]) -> None:
    for send in (ends[0].send, ends[0].offer, ends[0].queue):
        with pytest.raises(ValueError, match="is over the channel's"):
            send("x" * SIZE)


def test_a_message_is_a_list_that_begins_with_a_word(ends: tuple[Channel, Channel]) -> None:
    ours, theirs = ends
    ours.send()
    with pytest.raises(ValueError, match="begins with a word"):
        theirs.receive()
    ours.close()
    with pytest.raises(EOFError):
        theirs.receive()
