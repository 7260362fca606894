"""Filters of what a device's reader gets, in the kernel.

Source: ``drivers/net/tun.c``: TUNATTACHFILTER, classic BPF, and TUNSETTXFILTER, MAC addresses, are
for a TAP; TUNSETFILTEREBPF is for both.
"""

from __future__ import annotations

import errno
import os
import struct

from tuncer.tunctl.flags import Flag
from tuncer.tunctl.linux import bpf, ioctls
from tuncer.tunctl.pcap import Program

_ALL_MULTICAST = 0x0001  # TUN_FLT_ALLMULTI
_LONGEST = 0xFFFF  # instructions: of struct sock_fprog, and more than the verifier takes
_NONE = -1  # instead of an eBPF program's descriptor
_NOT_TAKEN = {errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOSYS, errno.ENOTTY, errno.E2BIG}


def attach_filter(fd: int, program: Program) -> bool:
    """Have the kernel keep back what a filter refuses; it counts that as dropped (tx_dropped).

    What was queued before is still to be read.

    Returns:
        Whether the kernel took it: a TUN's wants CAP_BPF, and not every program can be told.

    Raises:
        OSError: EBADFD the device was deleted, ...
    """
    if not isinstance(program, Program):
        raise TypeError(f"a program is what compile_filter returns, not {program!r}")
    tap = Flag.TAP in ioctls.interface(fd)[1]
    try:
        if len(program) > _LONGEST:
            return False
        if tap and bpf.has_same_verdicts(program.instructions):
            argument = struct.pack("@HP", len(program), program.address)
            ioctls.call(fd, ioctls.TUNATTACHFILTER, argument, "filter")
            _detach_extended(fd)
        else:
            _attach_extended(fd, bpf.convert(program.instructions))
            _detach_classic(fd)
    except bpf.CannotConvert:
        return False
    except OSError as error:
        if error.errno not in _NOT_TAKEN:
            raise
        return False
    return True


def _attach_extended(fd: int, program: bytes) -> None:
    loaded = bpf.load(program)
    try:
        ioctls.call(fd, ioctls.TUNSETFILTEREBPF, ioctls.INT.pack(loaded), "filter")
    finally:
        os.close(loaded)


def detach_filter(fd: int) -> None:
    """Let the reader get everything, whatever filter an earlier user has left.

    Raises:
        OSError: EBADFD the device was deleted, ...
    """
    _detach_extended(fd)
    _detach_classic(fd)


def _detach_extended(fd: int) -> None:
    with ioctls.if_known():
        ioctls.call(fd, ioctls.TUNSETFILTEREBPF, ioctls.INT.pack(_NONE), "filter")


def _detach_classic(fd: int) -> None:
    try:
        with ioctls.if_known():
            ioctls.call(fd, ioctls.TUNDETACHFILTER, struct.pack("@HP", 0, 0), "filter")
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOENT}:  # a TUN has none, or there is none
            raise


def set_receive_filter(fd: int, macs: list[bytes], all_multicast: bool) -> None:
    """Do what ``receive_filter`` says, with addresses of 6 bytes.

    Raises:
        OSError: EINVAL on a TUN.
    """
    head = struct.pack("=HH", _ALL_MULTICAST if all_multicast else 0, len(macs))
    ioctls.call(fd, ioctls.TUNSETTXFILTER, head + b"".join(macs), "receive filter")
