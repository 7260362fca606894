"""Flags of a TUN/TAP interface, with the kernel's names and values.

Source: ``linux/if_tun.h`` and the kernel's ``Documentation/networking/tuntap.rst``.
"""

import enum


class Flag(enum.IntFlag):
    """``IFF_*`` of ``linux/if_tun.h``: what TUNSETIFF is asked for and TUNGETIFF reports."""

    TUN = 0x0001
    """Layer 3: packets begin with an IP header."""
    TAP = 0x0002
    """Layer 2: packets begin with an Ethernet header."""
    NAPI = 0x0010
    """Written packets enter the stack through NAPI."""
    NAPI_FRAGS = 0x0020
    """TAP only: written iovecs become fragments; for testing drivers, needs CAP_NET_ADMIN."""
    MULTI_QUEUE = 0x0100
    """Several descriptors may attach to the device, each with a queue of its own."""
    PERSIST = 0x0800
    """Only reported: the device stays when its last descriptor is closed."""
    NO_PI = 0x1000
    """No packet information: without it four bytes of flags and protocol precede each packet."""
    ONE_QUEUE = 0x2000
    """Accepted and ignored by kernels since 2.6.27."""
    VNET_HDR = 0x4000
    """A ``virtio_net_hdr`` precedes each packet."""
    TUN_EXCL = 0x8000
    """Fail with EBUSY if the device exists already."""


KIND = Flag.TUN | Flag.TAP
"""Exactly one of these must be asked for."""

REPORTED = KIND | Flag.NAPI | Flag.NAPI_FRAGS | Flag.MULTI_QUEUE | Flag.VNET_HDR
"""What TUNGETIFF truly tells of what TUNSETIFF was asked: the rest is a wish, a state, or NO_PI."""


def parse(flags: int) -> Flag:
    """Check a combination of flags to ask the kernel for.

    Raises:
        ValueError: a bit that is no flag, neither or both of TUN and TAP, or PERSIST,
            which is a state and set by ``persist``.
    """
    unknown = int(flags) & ~sum(Flag)
    if unknown:
        raise ValueError(
            f"unknown interface flags {unknown:#x}: see tuncer.Flag for the known ones"
        )
    wanted = Flag(flags)
    if wanted & KIND not in (Flag.TUN, Flag.TAP):
        raise ValueError("an interface is either a TUN or a TAP: give exactly one of these flags")
    if wanted & Flag.PERSIST:
        raise ValueError("PERSIST is a state, not a wish: use persist=True or persist()")
    return wanted
