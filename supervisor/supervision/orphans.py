"""Orphans: processes that an actor has started itself. Its supervisor kills them after its end.

A supervisor is a child subreaper (prctl(2)): the kernel makes it the parent of each process below
it whose own parent has ended. So a supervisor has three sorts of children without a plan:

- processes of an actor that has ended: the supervisor kills them;
- background processes of an actor that lives (``sh -c "dhclient &"``): the supervisor leaves them
  alone until the actor ends;
- processes that an import in the supervisor's own process has started: the supervisor leaves them
  alone.

Two marks tell them apart. Each actor has a process group of its own, which its children inherit.
Each actor sets an environment variable, which its children keep over setsid(2) and execve(2).
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Collection

from supervisor import linux
from supervisor.linux import Process

log = logging.getLogger("supervisor")

_VARIABLE = "SUPERVISOR_ACTOR"
# multiprocessing's tracker ends by itself with those who use it, and then removes what they left.
_TRACKER = b"multiprocessing.resource_tracker"


def mark(process: Process) -> None:
    """Mark what this actor will start. For the actor itself."""
    os.setpgid(0, 0)
    os.environ[_VARIABLE] = f"{process.pid}.{process.start}"


class Orphans:
    """Children of a supervisor that it has not started."""

    def __init__(self) -> None:
        self._left: set[int] = set()
        """Actors that have ended, and may have left a process group."""
        self._refused: set[int] = set()

    def left_by(self, pid: int) -> None:
        """Take note of an actor that has ended."""
        self._left.add(pid)

    def is_one(self, pid: int, *, importing: bool) -> bool:
        """Tell whether a child that has ended is one.

        Args:
            pid: its pid.
            importing: whether an import runs in this process, and waits for what it has started.
        """
        group = linux.process_group(pid)
        return group != os.getpgrp() and not (importing and group == pid)

    def end(self, known: Collection[int | None], *, last: bool) -> None:
        """Kill those whose actors have ended.

        Args:
            known: pids of the children that were started here.
            last: also those of which nobody knows whose they are.
        """
        groups = set()
        for pid in linux.children():
            if pid in known:
                continue
            try:
                group = linux.process_group(pid)
            except ProcessLookupError:
                continue
            groups.add(group)
            if group != os.getpgrp() and self._is_to_end(pid, group, last=last):
                self._kill(pid)
        self._left &= groups

    def _is_to_end(self, pid: int, group: int, *, last: bool) -> bool:
        if _TRACKER in linux.command(pid):
            return False
        if group in self._left:
            return True
        whose = _marked(pid)
        return last if whose is None else not linux.alive(whose)

    def _kill(self, pid: int) -> None:
        try:
            os.kill(pid, signal.SIGKILL)
        except PermissionError:  # a setuid program, of which an ordinary user cannot rid itself
            if pid not in self._refused:
                log.warning("process %d, left by an actor, cannot be killed: it goes on", pid)
                self._refused.add(pid)
        except ProcessLookupError:
            return


def _marked(pid: int) -> Process | None:
    """Return which actor has started a process, or what did."""
    value = linux.environment(pid).get(_VARIABLE.encode(), b"")
    parts = value.split(b".")
    if len(parts) != 2 or not all(part.isdigit() for part in parts):
        return None
    return Process(int(parts[0]), int(parts[1]))
