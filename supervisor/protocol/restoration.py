"""Looks into the runtime directory that wait while what was removed there is being restored.

After a removal the root of each tree makes the directory again, and every process below it restores
its own files: see ``supervisor.spawn.directory_watch``. Until then a name or a socket is not found,
although its process lives. A process that has used the directory before tells by the inodes that it
is not the same one any more.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from supervisor.protocol import runtime_dir

_Found = TypeVar("_Found")

Inodes = list[tuple[int, int]]

PATIENCE = 1.0
"""Seconds in which the living have restored what is theirs, after a removal was noticed."""
_MOST = 3 * PATIENCE  # if the directory is removed again and again
_STEP = 0.005  # the kernel tells of no single file that is still to come

_seen: dict[Path, Inodes] = {}
_restored_at = 0.0


def _inodes() -> Inodes:
    """Return what tells the directory, and those that actors need in it, from later ones.

    A root holds the former inodes until it has found the later ones.
    """
    found = []
    for path in runtime_dir.needed():
        with contextlib.suppress(OSError):
            there = os.lstat(path)
            found.append((there.st_dev, there.st_ino))
    return found


def remember() -> None:
    """Take note of the directory as it is now, if this process has not looked into it before."""
    path = _directory()
    if path is not None and path not in _seen:
        _seen[path] = _inodes()


def look(for_it: Callable[[], _Found | None]) -> _Found | None:
    """Return what a function finds in the directory; call it again during a restoration."""
    remember()
    deadline = time.monotonic() + _MOST
    while (found := for_it()) is None and _is_being_restored() and time.monotonic() < deadline:
        time.sleep(_STEP)
    return found


def wait() -> None:
    """Wait until a restoration that is under way is over: for whoever wants to find all."""
    remember()
    deadline = time.monotonic() + _MOST
    while _is_being_restored() and time.monotonic() < deadline:
        time.sleep(_STEP)


def _is_being_restored() -> bool:
    global _restored_at
    path, now = _directory(), time.monotonic()
    if path is None:
        return False
    there = _inodes()
    if _seen.setdefault(path, there) != there:
        _seen[path] = there
        _restored_at = now + PATIENCE
    return now < _restored_at


def _directory() -> Path | None:
    try:
        return runtime_dir.directory()
    except OSError:  # this process has become another user, who may use none, say
        return None
