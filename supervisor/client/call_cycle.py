"""Deadlock detection: a call that would come back to an actor that waits for it is not made.

A call that an actor makes carries the chain of those who wait until it is answered: the actor
itself, and whoever waits for the call that it is serving. Only the thread that serves has a
chain, and only calls that are waited for carry it.
"""

from __future__ import annotations

import os
import threading

from supervisor.errors import CallCycle
from supervisor.linux import Process

Chain = tuple[Process, ...]

_me: Process | None = None
_thread = 0
_chain: Chain = ()


def this_is(process: Process) -> None:
    """Say which actor this process is; its present thread serves."""
    global _me, _thread, _chain
    _me, _thread, _chain = process, threading.get_ident(), ()


def serving(chain: Chain) -> None:
    """Say who waits for what is served now."""
    global _chain
    _chain = chain


def is_me(target: Process) -> bool:
    """Tell whether this thread is the one that serves for that actor."""
    return target == _me and threading.get_ident() == _thread


def chain_to(target: Process, who: object) -> Chain:
    """Return who waits when this thread calls an actor.

    Raises:
        CallCycle: that actor itself does, directly or through others.
    """
    if _me is None or threading.get_ident() != _thread:
        return ()
    if target == _me:
        raise CallCycle(f"{who} would wait for its own reply")
    if target in _chain:
        way = " -> ".join(f"pid {process.pid}" for process in (*_chain, _me, target))
        raise CallCycle(f"{who} waits for this call's end already: {way}")
    return (*_chain, _me)


def _nobody() -> None:
    """A fork of an actor is not that actor."""
    global _me
    _me = None


os.register_at_fork(after_in_child=_nobody)


def encode(chain: Chain) -> list[int]:
    """Make a term of a chain."""
    return [number for process in chain for number in process]


def decode(numbers: list[int]) -> Chain:
    """Make a chain of a term."""
    return tuple(map(Process, numbers[::2], numbers[1::2]))
