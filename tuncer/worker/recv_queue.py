"""Those who wait in ``recv`` for a packet of a passive device, in the order of their calls."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from supervisor import GenServer, Sender
from supervisor.actor.timers import Timer
from tuncer.protocol import ring
from tuncer.protocol.timeouts import check_timeout


@dataclass
class _Receiver:
    """A ``recv`` that waits."""

    sender: Sender
    token: int | None
    timer: Timer | None = None


class Receivers:
    """The calls of ``recv`` that are under way."""

    def __init__(
        self, worker: GenServer, control: memoryview, log: ring.Reader, changed: Callable[[], None]
    ) -> None:
        """Receive for a worker.

        Args:
            worker: which replies.
            control: of the ring.
            log: where the packets are.
            changed: called when there are more or fewer of them.
        """
        self._worker = worker
        self._control = control
        self._log = log
        self._changed = changed
        self._all: deque[_Receiver] = deque()

    def __len__(self) -> int:
        return len(self._all)

    def add(self, sender: Sender, timeout: float | None, token: int | None, device: str) -> None:
        """Have a call wait.

        Args:
            sender: who is replied to.
            timeout: seconds; None without an end.
            token: by which it may be withdrawn.
            device: for the error.

        Raises:
            ValueError, TypeError: no number of seconds.
        """
        check_timeout(timeout)
        receiver = _Receiver(sender, token)
        if timeout is not None:
            late = TimeoutError(errno.ETIMEDOUT, "no packet in time", device)
            later = self._worker._actor.call_later
            receiver.timer = later(timeout, lambda: self._refuse(receiver, late))
        self._all.append(receiver)
        self.serve(device)

    def serve(self, device: str) -> None:
        """Give the packets that nobody has taken to those who wait; the living, in their order."""
        control = self._control
        while self._all and control[ring.TAKEN] < control[ring.HEAD]:
            receiver = self._all.popleft()
            self._forget_timer(receiver)
            place = control[ring.TAKEN]
            (packet,), _, _ = self._log.read(place, 1, device)
            control[ring.TAKEN] = place + 1  # before the reply: if this is killed, none comes twice
            if not self._worker.reply(receiver.sender, list(packet)):
                control[ring.TAKEN] = place
        self._changed()

    def withdraw(self, token: int, device: str) -> None:
        """Forget a call whose caller waits no longer."""
        for receiver in [one for one in self._all if one.token == token]:
            self._refuse(receiver, OSError(errno.ECANCELED, "withdrawn", device))

    def refuse_all(self, number: int, text: str, device: str) -> None:
        """Have all of them raise an OSError."""
        for receiver in list(self._all):
            self._refuse(receiver, OSError(number, text, device))

    def _refuse(self, receiver: _Receiver, error: OSError) -> None:
        if receiver in self._all:
            self._all.remove(receiver)
            self._forget_timer(receiver)
            self._worker.refuse(receiver.sender, error)
            self._changed()

    def _forget_timer(self, receiver: _Receiver) -> None:
        if receiver.timer is not None:
            self._worker.cancel_timer(receiver.timer)
