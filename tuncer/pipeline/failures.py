"""What becomes of the packets that a worker had in hand when it was killed. Pure.

Before a worker begins a transaction, it notes the transaction's number (``hand``: the version that
its commit will make), how many packets of which input it has in hand. If its successor finds a
number that was not committed, the predecessor was killed in the midst of it. What kills its worker
twice is halved until one packet is left, which goes to the quarantine.
"""

from __future__ import annotations

from typing import NamedTuple

from tuncer.pipeline.stage import OnKill

_TWICE = 2


class Suspicion(NamedTuple):
    """What is known of packets that have killed a worker."""

    kills: int = 0
    """How often the next packets have killed their worker."""
    limit: int = 0
    """How many packets may be taken at once; 0: as many as usual."""
    suspects: int = 0
    """How many of the next packets have been in hand at a kill that led to a limit."""


class Verdict(NamedTuple):
    """What a successor does first."""

    what: str
    """"go on"; "retry" the packets that were in hand, as many at once; "skip" them: they are lost;
    "quarantine" the one that is left."""
    suspicion: Suspicion


def after_kill(count: int, before: Suspicion, on_kill: OnKill) -> Verdict:
    """Return what to do after a worker was killed with packets in hand.

    Args:
        count: how many; 0: none.
        before: what was known when they were taken.
        on_kill: as of ``StageSpec``.
    """
    if count == 0:
        return Verdict("go on", before)
    if on_kill == "skip":
        return Verdict("skip", Suspicion())
    kills = before.kills + 1
    if kills < _TWICE:
        return Verdict("retry", before._replace(kills=kills, limit=before.limit or count))
    if count == 1:
        return Verdict("quarantine", Suspicion())
    # Half of them kill their worker once more, and are halved again at once.
    suspects = max(before.suspects, count)
    return Verdict("retry", Suspicion(_TWICE - 1, count // 2, suspects))


def after_commit(count: int, before: Suspicion) -> Suspicion:
    """Return what is known after packets were done with."""
    left = before.suspects - count
    if left <= 0:
        return Suspicion()
    return Suspicion(_TWICE - 1, before.limit, left)
