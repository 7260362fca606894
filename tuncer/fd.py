"""Reading and writing a device's descriptor directly, past any worker."""

from __future__ import annotations

import os
import select

from tuncer.tunctl import devname
from tuncer.tunctl.errors import explain


def read(fd: int, size: int = 65535) -> bytes:
    """Return one packet, waiting for it.

    Args:
        fd: of ``Device.getfd`` or ``tunctl.create``.
        size: bytes at most: the kernel cuts off what is over, without a word.

    Raises:
        OSError: EBADFD the device was deleted.
    """
    while True:
        try:
            return os.read(fd, size)
        except BlockingIOError:
            poller = select.poll()
            poller.register(fd, select.POLLIN)
            poller.poll()
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
