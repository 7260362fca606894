"""One queue of a device: framing, buffers, offload, attached or not. Source: ``linux/if_tun.h``."""

from __future__ import annotations

import errno
import struct

from tuncer.tunctl.flags import Flag, Offload
from tuncer.tunctl.linux import ioctls

_ATTACH_QUEUE, _DETACH_QUEUE = 0x0200, 0x0400  # IFF_ATTACH_QUEUE, IFF_DETACH_QUEUE


def vnet_hdr_size(fd: int, size: int | None = None) -> int:
    """Return the bytes of the virtio_net_hdr before each packet, after setting it if one is given.

    It is the device's, for all its queues: TUNSETVNETHDRSZ.

    Raises:
        OSError: EINVAL under 10 bytes, or the device has no VNET_HDR.
        TypeError, ValueError: no number.
    """
    if size is not None:
        packed = _packed(size, "a header's size")
        _check_vnet_hdr(fd, "a virtio_net_hdr")
        ioctls.call(fd, ioctls.TUNSETVNETHDRSZ, packed, "vnet_hdr_size")
    (found,) = ioctls.INT.unpack(
        ioctls.call(fd, ioctls.TUNGETVNETHDRSZ, bytes(4), "ask for the header's size")
    )
    return int(found)


def sndbuf(fd: int, size: int | None = None) -> int:
    """Return the bytes of written packets that may be under way, after setting it if given.

    By default there is no limit (2147483647): TUNSETSNDBUF. What waits longer is, for example,
    a packet in the queue of another device; then a write fails with EAGAIN.

    Raises:
        OSError: EINVAL, not above 0.
        TypeError, ValueError: no number.
    """
    if size is not None:
        ioctls.call(fd, ioctls.TUNSETSNDBUF, _packed(size, "a buffer's size"), "sndbuf")
    (found,) = ioctls.INT.unpack(
        ioctls.call(fd, ioctls.TUNGETSNDBUF, bytes(4), "ask for the buffer's size")
    )
    return int(found)


def _packed(size: int, what: str) -> bytes:
    if isinstance(size, bool) or not isinstance(size, int):
        raise TypeError(f"{what} is a number of bytes, not {size!r}")
    try:
        return ioctls.INT.pack(size)
    except struct.error:
        raise ValueError(f"{what} is a number of 31 bits, not {size}") from None


def offload(fd: int, what: int) -> None:
    """Tell the kernel what the reader can handle: a combination of ``Offload``, 0 for nothing.

    Source: TUNSETOFFLOAD. It is the device's, for all its queues.

    Raises:
        OSError: EINVAL, the device has no VNET_HDR, or the kernel does not know one of them, or
            not without another.
        TypeError, ValueError: no such combination.
    """
    if isinstance(what, bool) or not isinstance(what, int):
        raise TypeError(f"offload is a combination of tuncer.Offload, not {what!r}")
    unknown = what & ~sum(Offload)
    if unknown:
        raise ValueError(f"unknown offload {unknown:#x}: see tuncer.Offload for the known ones")
    if what:
        _check_vnet_hdr(fd, "offload")
    ioctls.call(fd, ioctls.TUNSETOFFLOAD, what, "offload")


def _check_vnet_hdr(fd: int, what: str) -> None:
    """Refuse what would only spoil packets: without the header nobody can tell what is missing."""
    name, bits = ioctls.interface(fd)
    if Flag.VNET_HDR not in bits:
        problem = f"{what} needs a device with VNET_HDR"
        raise OSError(errno.EINVAL, problem, ioctls.printable(name))


def is_attached(fd: int) -> bool:
    """Tell whether the kernel chooses this queue (TUNGETIFF).

    Raises:
        OSError: EBADFD when the device was deleted.
    """
    answer = ioctls.call(fd, ioctls.TUNGETIFF, bytes(ioctls.IFREQ.size), "ask for the queue")
    return not ioctls.IFREQ.unpack(answer)[1] & _DETACH_QUEUE


def attach_queue(fd: int) -> None:
    """Let the kernel choose this queue again, of a device with MULTI_QUEUE.

    Raises:
        OSError: EINVAL, it is attached, or the device has one queue only.
    """
    _queue(fd, _ATTACH_QUEUE, "attach the queue")


def detach_queue(fd: int) -> None:
    """Let the kernel no longer choose this queue; what it holds is thrown away.

    Raises:
        OSError: EINVAL, it is detached already, or the device has one queue only.
    """
    _queue(fd, _DETACH_QUEUE, "detach the queue")


def _queue(fd: int, what: int, operation: str) -> None:
    ioctls.call(fd, ioctls.TUNSETQUEUE, ioctls.IFREQ.pack(b"", what), operation)
