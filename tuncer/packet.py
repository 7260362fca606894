"""What a subscription yields."""

from typing import NamedTuple


class Packet(NamedTuple):
    """A packet that the kernel sent through the device."""

    data: bytes
    """As the device frames it: an IP packet (TUN) or an Ethernet frame (TAP)."""
    seq: int
    """Its number since the device was created: 0, 1, 2, ..., without gaps over restarts."""
    timestamp: int
    """When the worker read it, in nanoseconds since the epoch."""
    device: str
    """The device's name at its creation."""
    lost: int = 0
    """How many packets before this one the subscription was too slow for."""


class DeviceEvent(NamedTuple):
    """Something happened to the device: ``kind`` is "up" or "down"."""

    kind: str
    device: str


class DeviceError(OSError):
    """The device has ended, or cannot be reached: errno, what happened, the device's name."""
