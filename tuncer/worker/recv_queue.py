"""The ``recv`` calls that wait for a packet of a passive device, in the order of their arrival."""

from __future__ import annotations

import errno
import functools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from supervisor import GenServer, Sender
from supervisor.lowlevel import Timer
from tuncer.protocol.timeouts import check_timeout
from tuncer.worker.packet_reader import PacketReader


@dataclass
class _Receiver:
    """A ``recv`` that waits."""

    sender: Sender
    token: int | None
    timer: Timer | None = None


class RecvQueue:
    """The calls of ``recv`` that are under way."""

    def __init__(
        self, worker: GenServer, packets: PacketReader, changed: Callable[[], None]
    ) -> None:
        """Serve a worker.

        Args:
            worker: replies to the calls, and has the timers.
            packets: has the packets that nobody has taken yet.
            changed: called when a call waits, or waits no longer.
        """
        self._worker = worker
        self._packets = packets
        self._changed = changed
        self._all: deque[_Receiver] = deque()

    def __len__(self) -> int:
        return len(self._all)

    def add(self, sender: Sender, timeout: float | None, token: int | None) -> None:
        """Queue a call until there is a packet for it.

        Args:
            sender: gets the reply.
            timeout: seconds; None: no limit.
            token: by which the caller may withdraw the call.

        Raises:
            ValueError, TypeError: no number of seconds.
        """
        check_timeout(timeout)
        receiver = _Receiver(sender, token)
        if timeout is not None:
            late = TimeoutError(errno.ETIMEDOUT, "no packet in time", self._packets.name)
            expire = functools.partial(self._refuse, receiver, late)
            receiver.timer = self._worker.call_later(timeout, expire)
        self._all.append(receiver)
        self.serve()

    def serve(self) -> None:
        """Reply to the calls that wait, in order, with the packets that nobody has taken yet.

        A call whose process has ended is passed over.
        """
        while self._all and (packet := self._packets.take()) is not None:
            receiver = self._all.popleft()
            self._forget_timer(receiver)
            # The packet is taken already: a kill before the reply may lose it, and never delivers
            # it twice.
            if not self._worker.reply(receiver.sender, list(packet)):
                self._packets.put_back()
        self._changed()

    def withdraw(self, token: int) -> None:
        """Remove a call whose caller does not wait any longer."""
        for receiver in [one for one in self._all if one.token == token]:
            withdrawn = OSError(errno.ECANCELED, "withdrawn", self._packets.name)
            self._refuse(receiver, withdrawn)

    def refuse_all(self, number: int, text: str) -> None:
        """Answer every call that waits by an OSError."""
        refused, self._all = self._all, deque()
        for receiver in refused:
            self._answer(receiver, OSError(number, text, self._packets.name))
        if refused:
            self._changed()

    def _refuse(self, receiver: _Receiver, error: OSError) -> None:
        if receiver in self._all:
            self._all.remove(receiver)
            self._answer(receiver, error)
            self._changed()

    def _answer(self, receiver: _Receiver, error: OSError) -> None:
        self._forget_timer(receiver)
        self._worker.refuse(receiver.sender, error)

    def _forget_timer(self, receiver: _Receiver) -> None:
        if receiver.timer is not None:
            self._worker.cancel_timer(receiver.timer)
