"""Reading and writing a device's descriptor directly, past any worker."""

from __future__ import annotations

import errno
import os
import select
import time

from tuncer.protocol.timeouts import DAY, check_timeout
from tuncer.tunctl import devname
from tuncer.tunctl.errors import explain
from tuncer.tunctl.linux.ioctls import checked

MOST = 1 << 20
"""More bytes than any packet has."""


def read(fd: int, size: int = 65535, timeout: float | None = None) -> bytes:
    """Return one packet, waiting for it.

    Args:
        fd: of ``Device.getfd`` or ``tunctl.create``.
        size: bytes at most: the kernel cuts off what is over, without a word.
        timeout: seconds to wait; None waits as long as the device lives.

    Raises:
        TimeoutError: none came in time.
        OSError: EBADFD the device was deleted.
        ValueError, TypeError: no size, no number of seconds.
    """
    check_timeout(timeout)
    if isinstance(size, bool) or not isinstance(size, int):
        raise TypeError(f"a size is a number of bytes, not {size!r}")
    if size < 1:
        raise ValueError(f"a packet has 1 byte or more, not {size}")
    size = min(size, MOST)
    deadline = None if timeout is None else time.monotonic() + timeout
    poller = select.poll()
    poller.register(checked(fd), select.POLLIN)
    while True:
        try:
            return os.read(fd, size)
        except BlockingIOError:
            remaining = None if deadline is None else deadline - time.monotonic()
            if remaining is not None and remaining <= 0:
                problem = f"no packet within {timeout} s"
                raise TimeoutError(errno.ETIMEDOUT, problem, _name(fd)) from None
            poller.poll(None if remaining is None else min(remaining, DAY) * 1000 + 1)
        except OSError as error:
            raise explain(error.errno or 0, "read", _name(fd)) from error


def write(fd: int, data: bytes | bytearray | memoryview) -> int:
    """Write one packet; return its bytes.

    Raises:
        OSError: EIO the device is down, EINVAL empty or no packet for this kind of device,
            EBADFD the device was deleted.
    """
    try:
        return os.write(fd, data)
    except OSError as error:
        raise explain(error.errno or 0, "write", _name(fd)) from error


def _name(fd: int) -> str:
    try:
        return devname(fd)
    except OSError:
        return ""
