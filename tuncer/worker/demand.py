"""What the wishes for a queue's packets mean: whether it is polled, and whether it is attached.

A pure decision. ``delivery`` has it made at each change, and ``packet_reader`` carries it out.
"""

from __future__ import annotations

from typing import NamedTuple


class Demand(NamedTuple):
    """What is to be done with a queue."""

    polled: bool
    """Whether the worker polls the descriptor."""
    attached: bool | None
    """Whether the kernel puts packets into this queue; None: it stays as it is."""


def demand(*, receivers: bool, room: int, active: bool, was_active: bool, settled: bool) -> Demand:
    """Decide whether a queue is polled and attached.

    The queue of a passive device stays attached between ``recv`` calls, so that its packets are
    kept. It is detached, and its packets are discarded, when the last subscriber has gone.

    Args:
        receivers: whether a ``recv`` call waits.
        room: how many packets may be read for subscribers.
        active: whether there is a subscriber, or the mode is active.
        was_active: what ``active`` was at the decision before.
        settled: whether there was one. The kernel attaches a new queue by itself, and the first
            decision detaches it.
    """
    attached = None
    if active or receivers:
        attached = True
    elif was_active or not settled:
        attached = False
    return Demand(receivers or room > 0, attached)
