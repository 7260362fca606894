"""The headers of packets, read where they lie. Pure.

What does not fit into the packet's bytes is None: no bytes, however hostile, raise an exception.
Sources: IEEE 802.3 and 802.1Q; RFC 791, RFC 8200 (and its extension headers), RFC 4302 (AH);
RFC 792 and RFC 4443 (ICMP); RFC 826 (ARP); the ports are those of TCP, UDP, SCTP, DCCP, UDP-Lite.
"""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple, Protocol

from tuncer.protocol.frames import ARP, ETHERNET, IPV4, IPV6

ICMP, TCP, UDP, DCCP, ICMPV6, SCTP, UDP_LITE = 1, 6, 17, 33, 58, 132, 136
"""Protocol numbers of IANA."""

_WITH_PORTS = {TCP, UDP, DCCP, SCTP, UDP_LITE}
_ERRORS = {ICMP: {3, 4, 5, 11, 12}, ICMPV6: {1, 2, 3, 4}}
"""ICMP types that carry the beginning of the packet that was refused."""

_IPV4 = struct.Struct("!B5xHBB").unpack_from  # version and length, fragment, TTL, protocol
_PLAIN = struct.Struct("!BxH2xHxB2x4s4s2s2s").unpack_from  # length, addresses, and ports behind
_PLAIN_IPV4 = 0x45  # version 4, a header of 20 bytes
_IN_PARTS = 0x3FFF  # more fragments, or an offset
_IS_IPV4 = b"\x08\0"
_TCP_OR_UDP = {TCP: b"\x06", UDP: b"\x11"}
_new = tuple.__new__

_TAGS = {0x8100, 0x88A8}
_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AUTHENTICATION, _DESTINATION = 0, 43, 44, 51, 60
_EXTENSIONS = {_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AUTHENTICATION, _DESTINATION}
_MOST_EXTENSIONS = 16  # headers in a row: more of them are an attack


class Vlan(NamedTuple):
    """A VLAN tag."""

    id: int
    priority: int
    tpid: int
    """Its EtherType: 0x8100, or 0x88A8 of a service tag."""


class Ethernet(NamedTuple):
    """An Ethernet header, with its VLAN tags."""

    dst: str
    """As "02:00:00:00:00:01"."""
    src: str
    kind: int
    """The EtherType of what it carries, behind the tags; a length, if it is below 0x600."""
    vlans: tuple[Vlan, ...]
    """The tags, the outermost first."""
    start: int
    """Where in the packet's ``data`` begins what it carries."""


class Fragment(NamedTuple):
    """Which part of a datagram an IP packet has."""

    id: int
    offset: int
    """Bytes before it."""
    more: bool
    """Whether more of them follow."""


class _IpFields(NamedTuple):
    version: int
    proto: int
    """The protocol of what it carries: in IPv6, behind the extension headers."""
    ttl: int
    """The hop limit."""
    fragment: Fragment | None
    """None: this is a whole datagram."""
    start: int
    """Where in the packet's ``data`` begins what it carries."""
    data: bytes
    begin: int
    """Where in the packet's ``data`` it begins itself."""


class Ip(_IpFields):
    """An IP header, IPv4 or IPv6."""

    __slots__ = ()

    @property
    def src(self) -> str:
        """The source address, as "10.9.0.1" or "fd00::1"."""
        return self._address(12, 8)

    @property
    def dst(self) -> str:
        """The destination address."""
        return self._address(16, 24)

    def _address(self, in_ipv4: int, in_ipv6: int) -> str:
        if self.version == 4:
            at = self.begin + in_ipv4
            return socket.inet_ntop(socket.AF_INET, self.data[at : at + 4])
        at = self.begin + in_ipv6
        return socket.inet_ntop(socket.AF_INET6, self.data[at : at + 16])

    def __repr__(self) -> str:
        fields = ("version", "src", "dst", "proto", "ttl", "fragment", "start")
        return f"Ip({', '.join(f'{name}={getattr(self, name)!r}' for name in fields)})"


class Icmp(NamedTuple):
    """An ICMP or ICMPv6 header."""

    type: int
    code: int
    start: int
    """Where in the packet's ``data`` begins what follows these, and the checksum."""


class Arp(NamedTuple):
    """An ARP packet, for Ethernet and IPv4."""

    operation: int
    """1 a request, 2 a reply."""
    sender_mac: str
    sender_ip: str
    target_mac: str
    target_ip: str


class _Network(NamedTuple):
    """Where the parts of an IP packet lie."""

    version: int
    begin: int
    proto: int
    start: int
    fragment: Fragment | None


def ethernet(data: bytes, begin: int = 0) -> Ethernet | None:
    """Return the Ethernet header that begins at an offset."""
    found = _payload_of_frame(data, begin)
    if found is None:
        return None
    kind, start = found
    places = range(begin + ETHERNET - 2, start - 2, 4)
    vlans = tuple(_vlan(data, place) for place in places)
    return Ethernet(_mac(data, begin), _mac(data, begin + 6), kind, vlans, start)


def vlan(data: bytes, begin: int = 0) -> Vlan | None:
    """Return the outermost VLAN tag of an Ethernet frame."""
    found = _payload_of_frame(data, begin)
    if found is None or found[1] == begin + ETHERNET:
        return None
    return _vlan(data, begin + ETHERNET - 2)


def ip(data: bytes, begin: int = 0, *, is_frame: bool = False) -> Ip | None:
    """Return the IP header of a packet.

    Args:
        data: the bytes.
        begin: where the packet begins.
        is_frame: whether an Ethernet frame begins there, otherwise it is the IP header itself.
    """
    if is_frame and data[begin + 12 : begin + 14] == _IS_IPV4:
        begin, is_frame = begin + ETHERNET, False
    if not is_frame and len(data) >= begin + 20:
        first, part, ttl, number = _IPV4(data, begin)
        if first == _PLAIN_IPV4 and not part & _IN_PARTS:
            return _new(Ip, (4, number, ttl, None, begin + 20, data, begin))
    where = _network(data, begin, is_frame=is_frame)
    if where is None:
        return None
    version, at, proto, start, fragment = where
    ttl = data[at + (8 if version == 4 else 7)]
    return Ip(version, proto, ttl, fragment, start, data, at)


def proto(data: bytes, begin: int = 0, *, is_frame: bool = False) -> int | None:
    """Return the protocol that an IP packet carries. Arguments as of ``ip``."""
    where = _network(data, begin, is_frame=is_frame)
    return None if where is None else where.proto


def ports(data: bytes, begin: int = 0, *, is_frame: bool = False) -> tuple[int, int] | None:
    """Return the source and the destination port. Arguments as of ``ip``.

    None of what has no ports, and of a fragment but the first.
    """
    where = _network(data, begin, is_frame=is_frame)
    both = None if where is None else _ports(data, where)
    if both is None:
        return None
    return int.from_bytes(both[:2], "big"), int.from_bytes(both[2:], "big")


def icmp(data: bytes, begin: int = 0, *, is_frame: bool = False) -> Icmp | None:
    """Return the ICMP or ICMPv6 header. Arguments as of ``ip``."""
    where = _network(data, begin, is_frame=is_frame)
    if where is None or not _is_icmp(data, where):
        return None
    return Icmp(data[where.start], data[where.start + 1], where.start + 4)


def arp(data: bytes, begin: int = 0) -> Arp | None:
    """Return the ARP packet in an Ethernet frame."""
    found = _payload_of_frame(data, begin)
    if found is None or found[0] != ARP:
        return None
    at = found[1]
    if data[at : at + 6] != b"\0\1\10\0\6\4" or len(data) < at + 28:
        return None
    return Arp(
        int.from_bytes(data[at + 6 : at + 8], "big"),
        _mac(data, at + 8),
        socket.inet_ntop(socket.AF_INET, data[at + 14 : at + 18]),
        _mac(data, at + 18),
        socket.inet_ntop(socket.AF_INET, data[at + 24 : at + 28]),
    )


def flow(data: bytes, begin: int = 0, *, is_frame: bool = False) -> bytes | None:
    """Return what identifies the flow of a packet; None of what is no IP. Arguments as of ``ip``.

    Both directions of a connection have the same one. An ICMP error has that of the packet that it
    tells of. A fragment but the first has no ports: ``FragmentTable`` finds them.

    Returns:
        The two ends, each an address and a port, the lower one first; then the protocol.
        ``flow_text`` shows it.
    """
    return _plain_flow(data, begin, is_frame) or _odd_flow(data, begin, is_frame=is_frame)


def _plain_flow(data: bytes, begin: int, is_frame: bool) -> bytes | None:  # noqa: FBT001 - for speed
    """Return the flow of what most packets are: TCP or UDP, IPv4 without options, whole."""
    if is_frame:
        if data[begin + 12 : begin + 14] != _IS_IPV4:
            return None
        begin += ETHERNET
    if len(data) < begin + 24:
        return None
    first, size, part, number, source, destination, sport, dport = _PLAIN(data, begin)
    if first != _PLAIN_IPV4 or part & _IN_PARTS or number not in _TCP_OR_UDP or 0 < size < 24:
        return None
    one: bytes = source + sport
    other: bytes = destination + dport
    return (one + other if one < other else other + one) + _TCP_OR_UDP[number]


def _odd_flow(data: bytes, begin: int, *, is_frame: bool) -> bytes | None:
    where = _network(data, begin, is_frame=is_frame)
    return None if where is None else flow_at(data, where)


def flow_at(data: bytes, where: _Network) -> bytes:
    """Return what identifies the flow of an IP packet."""
    if _is_icmp(data, where) and data[where.start] in _ERRORS[where.proto]:
        inner = _ip_at(data, where.start + 8)
        if inner is not None:
            return _flow(data, inner)
    return _flow(data, where)


def _flow(data: bytes, where: _Network) -> bytes:
    first, size = (where.begin + 12, 4) if where.version == 4 else (where.begin + 8, 16)
    middle = first + size
    both = _ports(data, where) or b"\0\0\0\0"
    one = data[first:middle] + both[:2]
    other = data[middle : middle + size] + both[2:]
    return (one + other if one < other else other + one) + bytes((where.proto,))


def flow_text(flow: bytes) -> str:
    """Return a flow for people to read: "tcp 10.9.0.1:40000 10.9.0.2:80".

    Raises:
        ValueError: this is no flow.
    """
    if len(flow) not in {13, 37}:
        raise ValueError(f"a flow has 13 or 37 bytes, of IPv4 or of IPv6, not {len(flow)}")
    family = socket.AF_INET if len(flow) == 13 else socket.AF_INET6
    half = len(flow) // 2
    names = {ICMP: "icmp", TCP: "tcp", UDP: "udp", ICMPV6: "icmpv6", SCTP: "sctp"}
    texts = [names.get(flow[-1], str(flow[-1]))]
    for end in (flow[:half], flow[half:-1]):
        address = socket.inet_ntop(family, end[:-2])
        port = int.from_bytes(end[-2:], "big")
        shown = f"[{address}]" if port and family == socket.AF_INET6 else address
        texts.append(f"{shown}:{port}" if port else address)
    return " ".join(texts)


class FlowsOfDatagrams(Protocol):
    """The flows of datagrams of which the first fragment was seen; old ones may be left out."""

    def get(self, datagram: bytes) -> bytes | None:
        """Return the flow of a datagram, if it is known."""

    def put(self, datagram: bytes, flow: bytes) -> None:
        """Take note of the flow of a datagram."""


class LatestDatagrams:
    """The flows of so many datagrams, the latest ones, in a process's own memory."""

    def __init__(self, most: int = 4096) -> None:
        self._flows: dict[bytes, bytes] = {}
        self._most = most
        self.get = self._flows.get

    def put(self, datagram: bytes, flow: bytes) -> None:
        """Take note of the flow of a datagram."""
        if len(self._flows) >= self._most:
            del self._flows[next(iter(self._flows))]
        self._flows[datagram] = flow


class FragmentTable:
    """Finds the flow of fragments: only the first one of a datagram has ports.

    A fragment that comes before the first one of its datagram is taken for one without ports.
    """

    def __init__(self, flows: FlowsOfDatagrams | None = None) -> None:
        """Keep the flows there; by default in this process's memory."""
        self._flows = LatestDatagrams() if flows is None else flows

    def flow(self, data: bytes, begin: int = 0, *, is_frame: bool = False) -> bytes | None:
        """Return what ``flow`` does; of a fragment that of its datagram."""
        plain = _plain_flow(data, begin, is_frame)
        if plain is not None:
            return plain
        where = _network(data, begin, is_frame=is_frame)
        if where is None:
            return None
        found = flow_at(data, where)
        fragment = where.fragment
        if fragment is None:
            return found
        size = 8 if where.version == 4 else 32
        first = where.begin + (12 if where.version == 4 else 8)
        datagram = data[first : first + size] + fragment.id.to_bytes(4, "big")
        if where.version == 4:  # of IPv6 only the first one tells the protocol (RFC 8200, 4.5)
            datagram += found[-1:]
        if fragment.offset:
            return self._flows.get(datagram) or found
        self._flows.put(datagram, found)
        return found


def _payload_of_frame(data: bytes, begin: int) -> tuple[int, int] | None:
    """Return the EtherType of what an Ethernet frame carries, and where it begins."""
    start = begin + ETHERNET
    size = len(data)
    if size < start:
        return None
    kind = data[start - 2] << 8 | data[start - 1]
    while kind in _TAGS:
        start += 4
        if size < start:
            return None
        kind = data[start - 2] << 8 | data[start - 1]
    return kind, start


def _network(data: bytes, begin: int, *, is_frame: bool) -> _Network | None:
    """Return where the parts of an IP packet lie, if it is one."""
    if is_frame:
        found = _payload_of_frame(data, begin)
        if found is None or found[0] not in {IPV4, IPV6}:
            return None
        begin = found[1]
    return _ip_at(data, begin)


def _ip_at(data: bytes, begin: int) -> _Network | None:
    size = len(data)
    if size < begin + 20:
        return None
    version = data[begin] >> 4
    if version == 6:
        return _ipv6_at(data, begin)
    start = begin + (data[begin] & 0xF) * 4
    if version != 4 or not begin + 20 <= start <= size:
        return None
    part = data[begin + 6] << 8 | data[begin + 7]
    fragment = None
    if part & 0x3FFF:
        identity = data[begin + 4] << 8 | data[begin + 5]
        fragment = Fragment(identity, (part & 0x1FFF) * 8, bool(part & 0x2000))
    return _Network(4, begin, data[begin + 9], start, fragment)


def _ipv6_at(data: bytes, begin: int) -> _Network | None:
    size, start = len(data), begin + 40
    if size < start:
        return None
    kind, fragment = data[begin + 6], None
    for _ in range(_MOST_EXTENSIONS):
        if kind not in _EXTENSIONS or (fragment is not None and fragment.offset):
            return _Network(6, begin, kind, start, fragment)
        if size < start + 8:
            return None
        if kind == _FRAGMENT:
            part = data[start + 2] << 8 | data[start + 3]
            identity = int.from_bytes(data[start + 4 : start + 8], "big")
            # An "atomic" fragment (RFC 6946) is a whole datagram.
            if part & 0xFFF9:
                fragment = Fragment(identity, part & 0xFFF8, bool(part & 1))
            length = 8
        elif kind == _AUTHENTICATION:
            length = (data[start + 1] + 2) * 4
        else:
            length = (data[start + 1] + 1) * 8
        kind = data[start]
        start += length
        if size < start:
            return None
    return None


def _ports(data: bytes, where: _Network) -> bytes | None:
    """Return the two ports, as they lie in the packet."""
    if where.proto not in _WITH_PORTS or end_of(data, where) < where.start + 4:
        return None
    if where.fragment is not None and where.fragment.offset:
        return None
    return data[where.start : where.start + 4]


def _is_icmp(data: bytes, where: _Network) -> bool:
    """Tell whether there is an ICMP header; a fragment but the first has none."""
    wanted = ICMP if where.version == 4 else ICMPV6
    is_first = where.fragment is None or not where.fragment.offset
    return where.proto == wanted and is_first and end_of(data, where) >= where.start + 4


def end_of(data: bytes, where: _Network | Ip) -> int:
    """Return where an IP packet ends: behind it an Ethernet frame may have padding."""
    at = where.begin
    if where.version == 4:
        size = data[at + 2] << 8 | data[at + 3]
    else:
        size = data[at + 4] << 8 | data[at + 5]
        size = size and 40 + size
    # Packets of more than 64 KiB have a length of 0.
    return min(len(data), at + size) if size else len(data)


def _vlan(data: bytes, at: int) -> Vlan:
    tag = data[at + 2] << 8 | data[at + 3]
    return Vlan(tag & 0xFFF, tag >> 13, data[at] << 8 | data[at + 1])


def _mac(data: bytes, at: int) -> str:
    return data[at : at + 6].hex(":")
