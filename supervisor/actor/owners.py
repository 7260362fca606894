"""The processes that something belongs to. A pidfd of each becomes readable at its end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Protocol

from supervisor import linux
from supervisor.linux import Process


class Loop(Protocol):
    """A loop that polls descriptors: an actor's."""

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        """Poll one."""

    def remove_reader(self, fd: int) -> None:
        """Poll it no longer."""


class Owners:
    """A set of processes; calls back, from the loop, for each that ends."""

    def __init__(self, loop: Loop, ended: Callable[[Process], None]) -> None:
        self._loop = loop
        self._ended = ended
        self._pidfds: dict[Process, int] = {}

    def add(self, owner: Process, pidfd: int | None = None) -> None:
        """Add a process; a pidfd that is given already is taken over.

        Raises:
            ProcessLookupError: it has ended.
        """
        if owner in self._pidfds:
            return
        self._pidfds[owner] = linux.open_process(owner) if pidfd is None else pidfd
        self._loop.add_reader(self._pidfds[owner], lambda: self._end(owner))

    def _end(self, owner: Process) -> None:
        # In the same round of the loop the pidfd may have got the number of a descriptor that was
        # readable, and is closed: then the owner lives.
        pidfd = self._pidfds.get(owner)
        if pidfd is None or not linux.ended(pidfd):
            return
        self.remove(owner)
        self._ended(owner)

    def remove(self, owner: Process) -> None:
        """Remove a process."""
        pidfd = self._pidfds.pop(owner, None)
        if pidfd is None:
            return
        self._loop.remove_reader(pidfd)
        os.close(pidfd)

    def keep(self, wanted: set[Process | None]) -> None:
        """Have no others than these."""
        for owner in self._pidfds.keys() - wanted:
            self.remove(owner)

    def __iter__(self) -> Iterator[Process]:
        return iter(list(self._pidfds))

    def __bool__(self) -> bool:
        return bool(self._pidfds)
