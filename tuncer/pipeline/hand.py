"""What a worker of a pipeline has in hand: packets that it has taken, and not committed yet."""

from __future__ import annotations

from typing import NamedTuple

from tuncer.pipeline.records import Item

NOTHING = (1 << 63) - 1
"""In place of an input: the transaction ends the worker, and takes nothing."""
EMITTED = (1 << 63) - 2
"""In place of an input: the packets are of stages themselves, and nothing is taken."""


class Hand(NamedTuple):
    """Packets, and where they come from."""

    items: list[Item]
    input: int
    """Of a worker that has a source: whose packets they are, of those who feed it; else 0."""
    position: int = 0
    """Of the next packet's record in the input."""
    done: int = 0
    """Packets of that record that are done with then."""
    ticket: int = 0
    is_last: bool = True
    """Whether these are the last ones of their ticket."""
    is_given_up: bool = False
    """Whether they are lost, or quarantined."""
