"""Whether a device's packets are read, and for whom: active, passive, once, or a number of times.

Source: the option ``active`` of OTP's ``inet:setopts/2``. The words lie in the ring, and the
end of a count is a packet's number: a worker that is killed leaves nothing to count again.
"""

from __future__ import annotations

import errno
from typing import Literal, TypeAlias

from tuncer.protocol import ring
from tuncer.protocol.control_block import ControlBlock

Active: TypeAlias = bool | Literal["once"] | int
"""True, False, "once", or a number of packets to be added to the present number."""

MOST = 32767
"""Packets that may be asked for at most, as in OTP."""

_PASSIVE, _ACTIVE, _COUNTED, _STOPPED = range(4)
_NEVER = 2**64 - 1


def check(active: object) -> Active:
    """Return what is a mode.

    Raises:
        TypeError: neither True, False, "once" nor a number.
        ValueError: a number out of range.
    """
    if active == "once" or isinstance(active, bool):
        return active
    if not isinstance(active, int):
        raise TypeError(f"active is True, False, 'once' or a number of packets, not {active!r}")
    if not -MOST - 1 <= active <= MOST:
        raise ValueError(f"active is at most {MOST} packets, not {active}")
    return active


class Mode:
    """The mode of a device, of which the ring holds the state."""

    def __init__(self, control: ControlBlock) -> None:
        self._control = control

    def set(self, active: Active, *, has_subscribers: bool) -> None:
        """Change it.

        Args:
            active: as of ``check``.
            has_subscribers: whether anybody has subscribed: passive is against their wish then, and
                lasts until somebody subscribes anew.

        Raises:
            OSError: EINVAL, the numbers add up to more than 32767.
        """
        control = self._control
        if isinstance(active, bool):
            control.active = _ACTIVE if active else _STOPPED if has_subscribers else _PASSIVE
            return
        head = control.head
        if active == "once":
            # Like OTP's: it ends without a notice.
            control.noticed = control.limit = head + 1
        else:
            total = self.left + int(active)
            if total > MOST:
                problem = (
                    f"active= would add up to {total} packets, and at most {MOST} may be asked for"
                )
                raise OSError(errno.EINVAL, problem)
            # ``noticed`` first: after a kill between the two, a count would look over that has not
            # begun.
            control.noticed = _NEVER
            control.limit = head + max(0, total)
        control.active = _COUNTED

    @property
    def left(self) -> int:
        """How many packets may still be read in a counted mode."""
        if self._control.active != _COUNTED:
            return 0
        return max(0, self._control.limit - self._control.head)

    @property
    def limit(self) -> int | None:
        """Which packets are the subscribers' in a counted mode: those below this ``seq``."""
        return self._control.limit if self._control.active == _COUNTED else None

    def is_active(self, *, has_subscribers: bool) -> bool:
        """Whether packets are for subscriptions, not for ``recv``."""
        word = self._control.active
        return word == _ACTIVE or (word == _PASSIVE and has_subscribers) or self.left > 0

    def room(self, *, has_subscribers: bool) -> int:
        """How many packets may be read for subscriptions now, at most a batch.

        Those of a counted mode wait for a subscription: nobody else would get them.
        """
        if self._control.active == _COUNTED:
            return min(ring.BATCH, self.left) if has_subscribers else 0
        return ring.BATCH if self.is_active(has_subscribers=has_subscribers) else 0

    def subscribed(self) -> None:
        """Somebody has subscribed: a device that was made passive, or has become so, is active."""
        if self.has_run_out or self._control.active == _STOPPED:
            self._control.active = _PASSIVE

    @property
    def has_run_out(self) -> bool:
        """Whether all packets of a counted mode have been read."""
        return self._control.active == _COUNTED and self.left == 0

    @property
    def is_over(self) -> bool:
        """Whether a count has come to its end, and nobody was told yet."""
        return self.has_run_out and self._control.noticed != self._control.limit

    def told(self) -> None:
        """Take note that the end of the count was told."""
        self._control.noticed = self._control.limit
