"""Memory that processes share: a memfd of a fixed size, and what is said if it is too large."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os

_LIMITS = {
    errno.EFBIG: "a file may have here (RLIMIT_FSIZE, ulimit -f)",
    errno.ENOMEM: "this process may map (RLIMIT_AS, ulimit -v)",
}


def create(name: str, size: int, what: str) -> int:
    """Return a memfd that nobody can cut short: whoever has it mapped would die of SIGBUS.

    Args:
        name: as /proc shows it.
        size: in bytes. What is never touched takes no memory.
        what: for errors: "a ring".

    Raises:
        OSError: EFBIG, it is over RLIMIT_FSIZE.
    """
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(
            fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        )
    except OSError as error:
        os.close(fd)
        raise _explained(error, size, what) from error
    return fd


def mapped(fd: int, what: str, *, writable: bool) -> mmap.mmap:
    """Return a memfd, mapped.

    Raises:
        OSError: ENOMEM, this process may not map so much.
    """
    size = os.fstat(fd).st_size
    access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    try:
        return mmap.mmap(fd, size, mmap.MAP_SHARED, access)
    except OSError as error:
        raise _explained(error, size, what) from error


def _explained(error: OSError, size: int, what: str) -> OSError:
    """Say which limit it is over."""
    if error.errno not in _LIMITS:
        return error
    text = f"{what} of {size >> 20} MiB has more than {_LIMITS[error.errno]}"
    return OSError(error.errno, f"{text}: give less log_bytes=, or raise the limit")
