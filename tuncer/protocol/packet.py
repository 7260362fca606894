"""What a subscription yields."""

from __future__ import annotations

import functools
from typing import Any, ClassVar, NamedTuple

from tuncer.protocol import headers
from tuncer.protocol.headers import Arp, Ethernet, Icmp, Ip, Vlan


class Framing(NamedTuple):
    """How a device frames packets: what lies at the beginning of a packet's ``data``."""

    is_frame: bool = False
    """Whether it is an Ethernet frame, of a TAP; otherwise an IP packet, of a TUN."""
    start: int = 0
    """Bytes before it: packet information, or a virtio_net_hdr of a large packet."""


class _Fields(NamedTuple):
    """The fields of a packet."""

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


class Packet(_Fields):
    """A packet that the kernel sent through the device.

    Its headers are attributes, which are read from ``data`` when they are asked for. What a packet
    does not have, or has not whole, is None. A packet knows how its device frames packets: those of
    a TAP, and those with packet information, are of subclasses.
    """

    __slots__ = ()

    framing: ClassVar[Framing] = Framing()

    @property
    def ethernet(self) -> Ethernet | None:
        """The Ethernet header, of a TAP's frame."""
        framing = self.framing
        return headers.ethernet(self.data, framing.start) if framing.is_frame else None

    @property
    def vlan(self) -> Vlan | None:
        """The outermost VLAN tag; ``ethernet.vlans`` has all."""
        framing = self.framing
        return headers.vlan(self.data, framing.start) if framing.is_frame else None

    @property
    def arp(self) -> Arp | None:
        """The ARP packet, for Ethernet and IPv4."""
        framing = self.framing
        return headers.arp(self.data, framing.start) if framing.is_frame else None

    @property
    def ip(self) -> Ip | None:
        """The IP header, IPv4 or IPv6."""
        is_frame, start = self.framing
        return headers.ip(self.data, start, is_frame=is_frame)

    @property
    def proto(self) -> int | None:
        """The protocol that the IP header tells: 6 is TCP. In IPv6, that behind the extensions."""
        is_frame, start = self.framing
        return headers.proto(self.data, start, is_frame=is_frame)

    @property
    def ports(self) -> tuple[int, int] | None:
        """The source and the destination port, of TCP, UDP, SCTP and DCCP."""
        is_frame, start = self.framing
        return headers.ports(self.data, start, is_frame=is_frame)

    @property
    def icmp(self) -> Icmp | None:
        """The ICMP or ICMPv6 header."""
        is_frame, start = self.framing
        return headers.icmp(self.data, start, is_frame=is_frame)

    @property
    def flow(self) -> bytes | None:
        """What identifies the flow, the same for both directions: see ``headers.flow``."""
        is_frame, start = self.framing
        return headers.flow(self.data, start, is_frame=is_frame)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.framing, *self)


class Frame(Packet):
    """An Ethernet frame of a TAP."""

    __slots__ = ()

    framing: ClassVar[Framing] = Framing(is_frame=True)


@functools.cache
def packet_class(framing: Framing) -> type[Packet]:
    """Return the class of a device's packets."""
    base = Frame if framing.is_frame else Packet
    if base.framing == framing:
        return base
    return type(base.__name__, (base,), {"__slots__": (), "framing": framing})


def _restored(framing: Framing, *fields: Any) -> Packet:
    """Return a packet that was pickled."""
    return packet_class(Framing(*framing))(*fields)


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
