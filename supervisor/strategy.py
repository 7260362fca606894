"""A supervisor's decisions: pure functions of what it knows, apart from what it does.

Source: OTP's ``supervisor`` and "Supervision Principles".
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from supervisor.errors import Reason, is_orderly

Restart = Literal["permanent", "transient", "temporary"]
Strategy = Literal["one_for_one"]

STRATEGIES = ("one_for_one",)
RESTARTS = ("permanent", "transient", "temporary")


class Verdict(enum.Enum):
    """What becomes of a child that has ended by itself."""

    RESTART = "restart"
    KEEP = "keep its specification, without a process"
    FORGET = "forget its specification"


def verdict(restart: Restart, reason: Reason) -> Verdict:
    """Decide on a child that has ended by itself."""
    if restart == "temporary":
        return Verdict.FORGET
    if restart == "permanent" or not is_orderly(reason):
        return Verdict.RESTART
    return Verdict.KEEP


def affected(strategy: Strategy, order: Sequence[str], failed: str) -> list[str]:
    """Return the children to restart when one has failed, in the order of their start.

    They are stopped in the reverse of it.
    """
    if strategy == "one_for_one":
        return [failed] if failed in order else []
    raise ValueError(f"unknown strategy {strategy!r}")


@dataclass
class Intensity:
    """How many restarts within how many seconds are still bearable."""

    most: int
    period: float
    _times: deque[float] = field(default_factory=deque)

    def bear(self, now: float) -> bool:
        """Count a restart at this time; return False if it is one too many."""
        self._times.append(now)
        while self._times[0] <= now - self.period:
            self._times.popleft()
        return len(self._times) <= self.most
