"""The descriptors that children have deposited, by child and name.

A name is a path: a supervisor keeps the descriptors of its children with its own supervisor
too, with the child's id before the name. So a descriptor outlives the crash of any process of
the tree but the root.
"""

from __future__ import annotations

import os

Path = tuple[str, ...]

MOST = 4096
"""Descriptors in one supervisor's store at most."""


class FdStore:
    """Descriptors by path: the child's id first."""

    def __init__(self, inherited: dict[Path, int]) -> None:
        self._fds = dict(inherited)

    def put(self, path: Path, fd: int) -> str | None:
        """Take a descriptor over; return why not."""
        if path not in self._fds and len(self._fds) >= MOST:
            os.close(fd)
            return f"the supervisor's store holds {MOST} descriptors already"
        old = self._fds.get(path)
        if old is not None:
            os.close(old)
        self._fds[path] = fd
        return None

    def drop(self, below: Path) -> bool:
        """Close the descriptors of a path and below it; return whether there were any."""
        found = [path for path in self._fds if path[: len(below)] == below]
        for path in found:
            os.close(self._fds.pop(path))
        return bool(found)

    def of(self, child: str) -> dict[Path, int]:
        """Return a child's descriptors, by the names that it gave them."""
        return {path[1:]: fd for path, fd in self._fds.items() if path[0] == child}

    def __len__(self) -> int:
        return len(self._fds)
