"""The ioctls of ``/dev/net/tun``. Source: ``linux/if_tun.h``, and ``drivers/net/tun.c``."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Iterator

from tuncer.tunctl.errors import explain
from tuncer.tunctl.flags import Flag

TUNSETIFF = 0x400454CA
TUNSETPERSIST = 0x400454CB
TUNSETOWNER = 0x400454CC
TUNSETLINK = 0x400454CD
TUNSETGROUP = 0x400454CE
TUNGETFEATURES = 0x800454CF
TUNSETOFFLOAD = 0x400454D0
TUNSETTXFILTER = 0x400454D1
TUNGETIFF = 0x800454D2
TUNGETSNDBUF = 0x800454D3
TUNSETSNDBUF = 0x400454D4
TUNATTACHFILTER = 0x401054D5
TUNDETACHFILTER = 0x401054D6
TUNGETVNETHDRSZ = 0x800454D7
TUNSETVNETHDRSZ = 0x400454D8
TUNSETQUEUE = 0x400454D9
TUNSETFILTEREBPF = 0x800454E1
TUNSETCARRIER = 0x400454E2
TUNGETDEVNETNS = 0x54E3

IFREQ = struct.Struct("16sH22x")
"""``struct ifreq`` of ``linux/if.h``: ifr_name, ifr_flags, the rest."""
INT = struct.Struct("=i")


def call(fd: int, request: int, argument: int | bytes, operation: str, device: str = "") -> bytes:
    """Make an ioctl; return the argument as the kernel left it.

    Args:
        fd: of the device.
        request: which.
        argument: a number by value, or the bytes that the kernel gets a pointer to.
        operation: what is tried, for the error.
        device: its name, for the error; empty: it is asked for.

    Raises:
        OSError: with a sentence on how to mend it, and the device's name.
    """
    try:
        result = fcntl.ioctl(checked(fd), request, argument)
    except OSError as error:
        raise explain(error.errno or 0, operation, device or _name(fd)) from error
    return result if isinstance(result, bytes) else INT.pack(result)


@contextlib.contextmanager
def if_known() -> Iterator[None]:
    """Take away what a kernel that does not know it cannot have: ENOTTY is no error then.

    Linux before 4.16 knows no eBPF filter; gVisor's driver knows hardly more than TUNSETIFF.
    """
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOTTY:
            raise


def checked(fd: int) -> int:
    """Return what can be a descriptor.

    Raises:
        TypeError: no number.
        OSError: EBADF, no descriptor has this number.
    """
    if isinstance(fd, bool) or not isinstance(fd, int):
        raise TypeError(f"a descriptor is a number, not {fd!r}")
    if not 0 <= fd < 1 << 31:
        raise explain(errno.EBADF, f"use descriptor {fd}")
    return fd


def interface(fd: int) -> tuple[str, Flag]:
    """Return the name and the flags of the device of a descriptor (TUNGETIFF).

    The bit of NO_PI is set also when no filter is attached (``IFF_NOFILTER`` has its value). A name
    need not be UTF-8 (``os.fsdecode``).

    Raises:
        OSError: EBADFD when the device was deleted, ENOTTY when it never was a device's.
    """
    checked(fd)
    try:
        raw, bits = IFREQ.unpack(fcntl.ioctl(fd, TUNGETIFF, bytes(IFREQ.size)))
    except OSError as error:
        raise explain(error.errno or 0, "ask for the device's name") from error
    return os.fsdecode(raw.rstrip(b"\0")), Flag(bits & sum(Flag))


def printable(name: str) -> str:
    """Return a device's name, of which what is not UTF-8 is told by backslashes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _name(fd: int) -> str:
    try:
        return printable(interface(fd)[0])
    except OSError:
        return ""
