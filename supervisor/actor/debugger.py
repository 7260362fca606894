"""``breakpoint()`` in an actor: pdb on the terminal of the program that it belongs to.

An actor's standard input is empty, and it has no controlling terminal. But its standard output or
error may be one; or else, as under pytest, which captures both, the program has told it its own.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pdb  # noqa: T100 - this is what it is for
from collections.abc import Callable
from types import FrameType

from supervisor import inherited

log = logging.getLogger("supervisor")


def debug(frame: FrameType, over: Callable[[], None]) -> None:
    """Debug a frame on the terminal, if there is one; call ``over`` when the actor goes on."""
    terminal = _terminal()
    if terminal is None:
        log.warning("breakpoint(): neither this actor nor its program has a terminal; it goes on")
        over()
        return
    _Pdb(terminal, over).set_trace(frame)


def _terminal() -> str | None:
    for fd in (2, 1):
        with contextlib.suppress(OSError):
            return os.ttyname(fd)
    if inherited.terminal is not None and os.access(inherited.terminal, os.R_OK | os.W_OK):
        return inherited.terminal
    return None


class _Pdb(pdb.Pdb):
    """A debugger on a terminal of any path, that says when it lets the program go."""

    def __init__(self, terminal: str, over: Callable[[], None]) -> None:
        # Of its own, for reading and writing apart: a terminal cannot seek.
        flags = os.O_RDWR | os.O_NOCTTY
        self._read = os.fdopen(os.open(terminal, flags), "r")
        self._write = os.fdopen(os.open(terminal, flags), "w")
        self._over = over
        super().__init__(stdin=self._read, stdout=self._write, nosigint=True)
        self.prompt = f"(Pdb, process {os.getpid()}) "

    def set_continue(self) -> None:
        """Let it go on."""
        super().set_continue()
        self._over()

    def set_quit(self) -> None:
        """Let it end, by ``bdb.BdbQuit``."""
        super().set_quit()
        self._over()
