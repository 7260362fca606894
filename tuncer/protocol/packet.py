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
    queue: int = 0
    """The device's queue that it came by; each queue has numbers of its own."""


EventValue = bool | int | str | None
"""What an event tells: see ``DeviceEvent``."""


class DeviceEvent(NamedTuple):
    """Something happened to the device, after the packets that came before it.

    | kind | value | |
    | --- | --- | --- |
    | "up", "down" | None | administratively |
    | "carrier" | True, False | |
    | "mtu" | bytes | |
    | "name" | the new name | it was renamed |
    | "address_added", "address_removed" | "10.0.0.1/24" | |
    | "missed" | how many | events that the subscription was too slow for |
    | "passive" | None | the packets that ``setopt(active=N)`` asked for have come |
    | "moved" | None | to another network namespace |
    | "deleted" | None | by somebody else; a ``DeviceError`` follows |
    """

    kind: str
    device: str
    """The device's name at its creation."""
    value: EventValue = None
    queue: int = 0
    """The queue that has become "passive"; of anything else 0."""


class DeviceError(OSError):
    """The device has ended, or cannot be reached: errno, what happened, the device's name."""
