"""How much waits in an actor's mailbox: a word of shared memory, for others to look at.

An actor that hangs, or is stopped, cannot be asked. So each has a memfd open, which whoever may
look at the process finds by its name in /proc/PID/fd: see ``supervisor.tree.kernel``.
"""

from __future__ import annotations

import fcntl
import mmap
import os

from supervisor import linux


class MailboxGauge:
    """The bytes of messages that an actor has read and not served yet."""

    def __init__(self) -> None:
        fd = os.memfd_create(linux.MAILBOX_GAUGE, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, mmap.PAGESIZE)
            # Others may open it: if one of them cut it short, this actor would die of SIGBUS.
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
            self._map = mmap.mmap(fd, mmap.PAGESIZE)  # which has a descriptor of its own
        finally:
            os.close(fd)
        self.words = memoryview(self._map).cast("Q")
        """Of which the first one has the bytes; the mailbox stores them itself: it has no time for
        a call here."""

    def close(self) -> None:
        """Unmap it, and close its descriptor."""
        self.words.release()
        self._map.close()
