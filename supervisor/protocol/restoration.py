"""Lookups in the runtime directory that wait while removed files are being restored.

After a removal the root of each tree makes the directory again, and every process below it restores
its own files: see ``supervisor.spawn.directory_watch``. Until then a lookup does not find a name or
a socket although its process lives. A process that has used the directory before sees a removal by
the inodes: the directory is another one, or it is not there.
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

_Inodes = dict[Path, tuple[int, int]]

PATIENCE = 1.0
"""Seconds in which living processes restore their files, after a removal is noticed."""
MOST = 3 * PATIENCE
"""Seconds that one lookup waits at most: the directory may be removed again and again."""
STEP = 0.005
"""Seconds between two tries: the kernel has no event for one file that is to come."""

# Several threads may write these at a time: what is lost is a part of a second of waiting.
_known: dict[Path, _Inodes] = {}  # of each directory, and those in it, as they last were there
_absent_since: dict[Path, float] = {}
_restored_at = 0.0
_root = 0


def remember() -> None:
    """Take note of the directory as it is now, if this process has not used it before."""
    path = _directory()
    if path is not None and path not in _known:
        _known[path] = _inodes()


def this_is_a_root() -> None:
    """Let this process, not its forks, wait for nothing: nobody but itself restores anything.

    The forks, which do wait, inherit what is remembered here.
    """
    global _root
    remember()
    _root = os.getpid()


def look_up(find: Callable[[], _Found | None]) -> _Found | None:
    """Return what ``find`` returns; call it again, if that is None, during a restoration."""
    remember()
    deadline = time.monotonic() + MOST
    while (found := find()) is None and is_under_way() and time.monotonic() < deadline:
        time.sleep(STEP)
    if found is not None:
        it_is_there()
    return found


def it_is_there() -> None:
    """Take note that something was found: the next absence is a later one."""
    _absent_since.clear()


def wait() -> None:
    """Wait until a restoration that is under way is over: before a list of everything."""
    look_up(lambda: None)


def is_under_way() -> bool:
    """Tell whether living processes may be restoring their files right now."""
    global _restored_at
    path, now = _directory(), time.monotonic()
    if path is None or _root == os.getpid():
        return False
    there, known = _inodes(), _known.get(path, {})
    if known.keys() <= there.keys():
        _absent_since.pop(path, None)
        if any(there[one] != known[one] for one in known):
            _restored_at = now + PATIENCE
        _known[path] = there
        return now < _restored_at
    if now < _absent_since.setdefault(path, now) + PATIENCE:
        return True
    # There is no root to restore it. So that later lookups do not wait again, it is made here.
    _absent_since.pop(path, None)
    with contextlib.suppress(OSError):
        runtime_dir.make_again()
    _known[path] = _inodes()
    return False


def _inodes() -> _Inodes:
    """Return the inodes of the directory, and of those in it, as far as they are there.

    A root holds the former inodes until it has found the later ones, so those differ.
    """
    found = {}
    for path in runtime_dir.needed():
        with contextlib.suppress(OSError):
            there = os.lstat(path)
            found[path] = (there.st_dev, there.st_ino)
    return found


def _directory() -> Path | None:
    try:
        return runtime_dir.directory()
    except OSError:  # this process has become another user, who may use none, say
        return None
