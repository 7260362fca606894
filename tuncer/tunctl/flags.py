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
    """TAP with NAPI only: written iovecs become fragments; for testing drivers."""
    NO_CARRIER = 0x0040
    """A new device comes without carrier, until ``carrier`` gives it one. Linux 6.0."""
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


class Offload(enum.IntFlag):
    """``TUN_F_*`` of ``linux/if_tun.h``: what the reader of a device with VNET_HDR can handle."""

    CSUM = 0x01
    """Packets whose checksum is still to be completed; needed by all the others."""
    TSO4 = 0x02
    """TCP segments over IPv4 of up to 64 KiB, to be cut."""
    TSO6 = 0x04
    """The same over IPv6."""
    TSO_ECN = 0x08
    """TCP segments with ECN bits; beside TSO4 or TSO6."""
    UFO = 0x10
    """UDP fragmentation; the kernel has not produced any since 4.14."""
    USO4 = 0x20
    """UDP segments over IPv4. Linux 6.2; only together with USO6."""
    USO6 = 0x40
    """UDP segments over IPv6. Linux 6.2; only together with USO4."""


KIND = Flag.TUN | Flag.TAP
"""Exactly one of these must be asked for."""

REPORTED = KIND | Flag.NAPI | Flag.NAPI_FRAGS | Flag.MULTI_QUEUE | Flag.VNET_HDR
"""What TUNGETIFF truly tells of what TUNSETIFF was asked: the rest is a wish, a state, or NO_PI."""


def parse(flags: int) -> Flag:
    """Check a combination of flags to ask the kernel for.

    Raises:
        TypeError: no number.
        ValueError: a bit that is no flag, neither or both of TUN and TAP, NAPI_FRAGS without
            NAPI or on a TUN, or PERSIST, which is a state and set by ``persist``.
    """
    if isinstance(flags, bool) or not isinstance(flags, int):
        raise TypeError(f"flags are a combination of tuncer.Flag, not {flags!r}")
    unknown = flags & ~sum(Flag)
    if unknown:
        raise ValueError(
            f"unknown interface flags {unknown:#x}: see tuncer.Flag for the known ones"
        )
    wanted = Flag(flags)
    if wanted & KIND not in (Flag.TUN, Flag.TAP):
        raise ValueError("an interface is either a TUN or a TAP: give exactly one of these flags")
    if wanted & Flag.PERSIST:
        raise ValueError("PERSIST is a state, not a wish: use persist=True or persist()")
    if Flag.NAPI_FRAGS in wanted and not {Flag.TAP, Flag.NAPI} <= set(wanted):
        raise ValueError("NAPI_FRAGS is for a TAP, together with NAPI")
    return wanted


def named(flags: int) -> str:
    """Return the names of flags, as users write them: ``TUN|NO_PI``."""
    return "|".join(str(flag.name) for flag in Flag(flags)) or "none"


def difference(asked: Flag, given: Flag, of: Flag = REPORTED) -> str:
    """Say which of some flags were asked for and not given, or given though not asked for."""
    missing, extra = asked & ~given & of, given & ~asked & of
    parts = [f"without {named(missing)}"] if missing else []
    parts += [f"with {named(extra)}"] if extra else []
    return " and ".join(parts)
