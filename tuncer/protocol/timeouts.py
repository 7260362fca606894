"""Timeouts that a user gives: seconds, or None for none."""

from __future__ import annotations

DAY = 86_400.0
"""Seconds that a wait takes at a time, at most: poll and epoll take no number of any size."""


def check_timeout(timeout: object) -> None:
    """Check a number of seconds.

    Raises:
        TypeError: no number.
        ValueError: below 0, or none that can be compared.
    """
    if timeout is None:
        return
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(f"a timeout is a number of seconds or None, not {timeout!r}")
    if not timeout >= 0:
        raise ValueError(f"a timeout is a number of seconds from 0 on, not {timeout!r}")
