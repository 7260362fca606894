"""Calls of recv that may be given up at any moment: no packet is lost, and each comes in order.

A call is given up by a timeout, by a cancelled task, or by what a signal's handler raises. The
worker may have sent its packet before it hears of that. Such a packet belongs to the next call.

The worker answers the calls in the order in which they reach it, on one connection. So the answers
arrive in the order of the packets, whichever thread sends a call, and whichever reads its answer.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections import deque
from typing import Any, cast

from supervisor import MailboxFull, NoProcess, ProcessDown, Shutdown, lowlevel
from supervisor.lowlevel import CAST, CallFuture, Pending
from tuncer.protocol.operations import WITHDRAW
from tuncer.protocol.packet import DeviceError

_PATIENCE = 5.0  # seconds that a full mailbox may take to have room for a withdrawal


def if_ended(error: ProcessDown, device: str) -> Exception:
    """Return what to raise for a call that reached a worker too late: when its device had ended."""
    if isinstance(error.reason, Shutdown):
        return DeviceError(errno.ENODEV, f"the device has ended: {error.reason.term}", device)
    return error


class RecvCall:
    """A call of recv, from before it is sent."""

    def __init__(self, answered: deque[RecvCall], name: str) -> None:
        self._name = name
        self.token = int.from_bytes(os.urandom(7), "big")
        """A number that tells the call of any process's from all others."""
        self.pending = Pending(is_call=True, then=lambda _: answered.append(self))
        self.is_given_up = False
        self.is_taken = False

    @property
    def is_under_way(self) -> bool:
        """Whether it was sent, and is not answered yet."""
        return self.pending.number != 0 and self.pending.answer is None

    @property
    def future(self) -> CallFuture:
        """The reply, once it was sent."""
        there: Any = self.pending.there
        return CallFuture(there, self.pending, self._name)

    def withdraw(self) -> None:
        """Tell the worker that nobody waits for the answer, which then comes at once."""
        if self.is_under_way:
            with contextlib.suppress(NoProcess, MailboxFull):
                self.pending.there.send(CAST, [WITHDRAW, self.token], _PATIENCE)

    def was_sent(self) -> None:
        """Withdraw it, if it was given up while it was being sent."""
        if self.is_given_up:
            self.withdraw()


class RecvCalls:
    """The calls of recv of one worker, and of its successors."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._answered: deque[RecvCall] = deque()  # in the order of arrival; taken by nobody yet
        self._given_up: list[RecvCall] = []
        self._pid = os.getpid()
        self._lock = lowlevel.RLock()

    def new(self) -> RecvCall:
        """Return a call that is to be sent, with its ``token`` and its ``pending``."""
        return RecvCall(self._answered, self._name)

    def give_up(self, call: RecvCall) -> None:
        """Leave a call's packet, if there will be one, to the next call."""
        with self._lock:
            # Before it is seen whether it was sent: another thread may be about to send it, and
            # then calls ``was_sent``.
            call.is_given_up = True
            self._given_up.append(call)
        call.withdraw()

    def forget(self, call: RecvCall) -> None:
        """Expect no answer of a call: it could not be sent, or its answer is taken."""
        with self._lock, contextlib.suppress(ValueError):
            self._given_up.remove(call)

    def has_something_for(self, call: RecvCall) -> bool:
        """Tell whether ``take`` has something to return or to raise, without waiting."""
        if call.pending.answer is not None:
            return True
        self._read()
        return any(one.is_given_up for one in list(self._answered))

    def take(self, call: RecvCall | None = None) -> bytes | None:
        """Return the packet that arrived first, of those for this call and those for nobody.

        If it is one for nobody, this call is given up. None: no packet has arrived yet.

        Raises:
            DeviceError: ENODEV, the device has ended.
            Exception: what the worker has answered this call.
        """
        self._not_the_parents()
        self._read()
        with self._lock:
            for one in list(self._answered):
                if one is call or one.is_given_up or one.is_taken:
                    with contextlib.suppress(ValueError):  # a signal's handler has removed it
                        self._answered.remove(one)
                    if one is call:
                        break
                    packet = self._packet_of(one)
                    if packet is not None:
                        if call is not None:
                            self.give_up(call)
                        return packet
        if call is None or call.pending.answer is None:
            return None
        call.is_taken = True  # another thread may have read its answer, and be about to append it
        try:
            return cast("bytes", call.pending.result(self._name)[0])
        except ProcessDown as error:
            raise if_ended(error, self._name) from None

    def _packet_of(self, call: RecvCall) -> bytes | None:
        """Return the packet of a call that was given up; None if that was answered otherwise."""
        if call.is_taken:  # by a signal's handler, which calls recv here
            return None
        call.is_taken = True
        self.forget(call)
        with contextlib.suppress(Exception):
            return cast("bytes", call.pending.result(self._name)[0])
        return None

    def _not_the_parents(self) -> None:
        """Forget, in a fork, what the parent is going to return itself."""
        if self._pid != os.getpid():
            # A new lock: another thread of the parent may have held it at the fork.
            self._lock = lowlevel.RLock()
            self._answered.clear()
            self._given_up.clear()
            self._pid = os.getpid()

    def _read(self) -> None:
        """Read the answers that have arrived to calls that were given up."""
        if self._given_up:
            for call in self._under_way():
                call.future.done()

    def wait(self, timeout: float) -> None:
        """Wait until each call that was given up is answered: it was withdrawn, so that is soon."""
        self._not_the_parents()
        deadline = time.monotonic() + timeout
        for call in self._under_way():
            with contextlib.suppress(Exception):
                call.future.result(max(0.0, deadline - time.monotonic()))

    def _under_way(self) -> list[RecvCall]:
        with self._lock:
            return [call for call in self._given_up if call.is_under_way]
