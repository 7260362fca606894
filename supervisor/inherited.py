"""What a new interpreter inherits of the program over exec, made known; what is passed on again.

A program may have blocked or ignored any signal, and closed its standard streams. An actor needs
SIGCHLD, SIGTERM and ``linux.HANG_SIGNAL``, and is not ended by a Ctrl-C, which is for the program.
But what an actor runs itself, by ``subprocess`` say, gets what the program would have given it.
Sources: signal(7), execve(2), setrlimit(2).
"""

from __future__ import annotations

import resource
import signal

from supervisor import linux

_NEEDED = (signal.SIGCHLD, signal.SIGTERM, linux.HANG_SIGNAL)

_soft: int | None = None
"""The program's soft limit of descriptors; None in the program itself."""


def settle() -> None:
    """Begin from a known state. For the main thread of a new interpreter.

    A signal that is ignored stays so over exec, and one that has a handler does not. So SIGINT gets
    a handler that does nothing, unless the program ignores it.
    """
    global _soft
    _soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    for number in _NEEDED:
        signal.signal(number, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, _do_nothing)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _do_nothing(*_: object) -> None:
    return


def raise_descriptors() -> None:
    """Allow this process as many descriptors as it may have.

    A supervisor keeps those of all below it, and an actor has one for each caller; the soft limit
    of 1024 is for programs that use select(2).
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def restore_descriptors() -> None:
    """Take the program's soft limit again: this process is no supervisor, and may run programs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if _soft is not None and _soft != soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (_soft, hard))


log_fd: int | None = None
"""The socket that takes this process's log records to the program, if that collects them."""

terminal: str | None = None
"""The controlling terminal of the program that this process belongs to, as far as it has told."""
