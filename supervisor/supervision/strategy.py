"""A supervisor's decisions, without effects. Source: OTP's ``supervisor``.

Who is restarted, whether it is still bearable, when it is time to shut down.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from supervisor.errors import Reason, is_orderly

Restart = Literal["permanent", "transient", "temporary"]
Strategy = Literal["one_for_one", "one_for_all", "rest_for_one"]
AutoShutdown = Literal["never", "any_significant", "all_significant"]

RESTARTS = ("permanent", "transient", "temporary")
STRATEGIES = ("one_for_one", "one_for_all", "rest_for_one")
AUTO_SHUTDOWNS = ("never", "any_significant", "all_significant")


_AT_ONCE = 3  # starts in a row that fail, after each of which the next one follows at once
_PAUSE, _PAUSE_AT_MOST = 0.01, 1.0  # seconds
_SHORT, _SHORT_AT_MOST = 0.05, 2.0


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


class Group(NamedTuple):
    """The children that one child's failure affects."""

    stop: list[str]
    """All of them, in the order in which they are stopped: the reverse of their start."""
    start: list[str]
    """Those that are started again, in this order. The others, temporary ones, are forgotten."""


def affected(strategy: Strategy, children: Sequence[tuple[str, Restart]], failed: str) -> Group:
    """Decide which children are stopped and started again, as one has failed.

    Args:
        strategy: the supervisor's.
        children: id and restart type of each, in the order of their start.
        failed: the id of the one that has failed.
    """
    ids = [child for child, _ in children]
    place = ids.index(failed)
    chosen = {
        "one_for_one": children[place : place + 1],
        "rest_for_one": children[place:],
        "one_for_all": children,
    }[strategy]
    return Group(
        [child for child, _ in reversed(chosen)],
        [child for child, restart in chosen if restart != "temporary"],
    )


def shuts_down(auto_shutdown: AutoShutdown, others: Iterable[bool], *, significant: bool) -> bool:
    """Decide whether a supervisor ends, as a child has ended by itself and is not restarted.

    Args:
        auto_shutdown: the supervisor's.
        significant: whether the child is.
        others: for each other significant child, whether it runs, or is being restarted.
    """
    if auto_shutdown == "never" or not significant:
        return False
    return auto_shutdown == "any_significant" or not any(others)


@dataclass
class Intensity:
    """How many restarts within how many seconds are still bearable."""

    most: int
    period: float
    _times: deque[float] = field(default_factory=deque)

    def record_restart(self, now: float) -> bool:
        """Count a restart at this time; return False if it is one too many."""
        self._times.append(now)
        while self._times[0] <= now - self.period:
            self._times.popleft()
        return len(self._times) <= self.most

    def __str__(self) -> str:
        restarts = "restart" if self.most == 1 else "restarts"
        return f"more than {self.most} {restarts} within {self.period:g} s"


def pause(attempts: int, limit: Intensity, *, short: bool) -> float:
    """Return the seconds to wait before the next start, after failed starts in a row.

    The first starts follow at once. Later waits grow, but stay so short that failed starts still
    exceed ``limit`` within its period. If resources were short (``short``), the failed start is
    not counted as a restart, and so the wait is not bounded by ``limit``.

    Args:
        attempts: how many have failed.
        limit: how many restarts are borne.
        short: whether the system is short of something.
    """
    if short:
        return min(_SHORT * float(2 ** min(attempts, 10)), _SHORT_AT_MOST)
    if attempts <= _AT_ONCE:
        return 0.0
    grown = _PAUSE * float(2 ** min(attempts - _AT_ONCE - 1, 10))
    return min(grown, _PAUSE_AT_MOST, limit.period / (limit.most + 1) / 2)


class Backoff(NamedTuple):
    """How long to wait before a restart: longer each time, by chance a little more or less.

    A child that has served for longer than ``maximum`` begins again with ``initial``.
    """

    initial: float = 0.1
    """Seconds before the first restart."""
    maximum: float = 30.0
    """Seconds at most, before jitter."""
    factor: float = 2.0
    """By what the wait grows each time."""
    jitter: float = 0.1
    """The wait is multiplied by a random number between 1 - jitter and 1 + jitter."""

    def delay(self, restarts: int, chance: float) -> float:
        """Return the seconds to wait.

        Args:
            restarts: how many there have been since it last served for long.
            chance: a random number from 0 to 1.
        """
        grown = self.initial
        for _ in range(restarts):  # not by a power: that of a large number overflows
            grown *= self.factor
            if grown >= self.maximum:
                break
        return min(grown, self.maximum) * (1 + self.jitter * (2 * chance - 1))
