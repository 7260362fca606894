"""The ``recv`` calls that wait for a packet of a passive device, in the order of their arrival."""

from __future__ import annotations

import errno
import functools
from collections import deque
from dataclasses import dataclass

from supervisor import Sender
from supervisor.lowlevel import Timer
from tuncer.protocol import ring
from tuncer.protocol.control_block import ControlBlock
from tuncer.protocol.timeouts import check_timeout
from tuncer.worker.worker_interface import WorkerInterface


@dataclass
class _Receiver:
    """A ``recv`` that waits."""

    sender: Sender
    token: int | None
    timer: Timer | None = None


class RecvQueue:
    """The calls of ``recv`` that are under way."""

    def __init__(self, worker: WorkerInterface, control: ControlBlock, log: ring.Reader) -> None:
        """Serve a worker.

        Args:
            worker: replies to the calls.
            control: the ring's control words.
            log: the ring, from which packets are taken.
        """
        self._worker = worker
        self._control = control
        self._log = log
        self._all: deque[_Receiver] = deque()

    def __len__(self) -> int:
        return len(self._all)

    def add(self, sender: Sender, timeout: float | None, token: int | None, device: str) -> None:
        """Queue a call until there is a packet for it.

        Args:
            sender: gets the reply.
            timeout: seconds; None: no limit.
            token: by which the caller may withdraw the call.
            device: the device's name, for the error.

        Raises:
            ValueError, TypeError: no number of seconds.
        """
        check_timeout(timeout)
        receiver = _Receiver(sender, token)
        if timeout is not None:
            late = TimeoutError(errno.ETIMEDOUT, "no packet in time", device)
            expire = functools.partial(self._refuse, receiver, late)
            receiver.timer = self._worker.call_later(timeout, expire)
        self._all.append(receiver)
        self.serve(device)

    def serve(self, device: str) -> None:
        """Reply to the calls that wait, in order, with the packets that nobody has taken yet.

        A call whose process has ended is passed over.
        """
        control = self._control
        while self._all and control.taken < control.head:
            receiver = self._all.popleft()
            self._forget_timer(receiver)
            seq = control.taken
            (packet,), _, _ = self._log.read(seq, 1, device)
            # Advance before replying: a kill between the two may lose this packet, and never
            # delivers it twice.
            control.taken = seq + 1
            if not self._worker.reply(receiver.sender, list(packet)):
                control.taken = seq
        self._worker.demand_changed()

    def withdraw(self, token: int, device: str) -> None:
        """Remove a call whose caller does not wait any longer."""
        for receiver in [one for one in self._all if one.token == token]:
            self._refuse(receiver, OSError(errno.ECANCELED, "withdrawn", device))

    def refuse_all(self, number: int, text: str, device: str) -> None:
        """Answer every call that waits by an OSError."""
        for receiver in list(self._all):
            self._refuse(receiver, OSError(number, text, device))

    def _refuse(self, receiver: _Receiver, error: OSError) -> None:
        if receiver in self._all:
            self._all.remove(receiver)
            self._forget_timer(receiver)
            self._worker.refuse(receiver.sender, error)
            self._worker.demand_changed()

    def _forget_timer(self, receiver: _Receiver) -> None:
        if receiver.timer is not None:
            self._worker.cancel_timer(receiver.timer)
