"""A packet as a line of text, much as tcpdump writes it. Pure.

Sources of the fields: RFC 9293 (TCP), RFC 768 (UDP), RFC 792 and RFC 4443 (ICMP), RFC 826 (ARP).
"""

from __future__ import annotations

from tuncer.protocol import headers
from tuncer.protocol.headers import Ip
from tuncer.protocol.packet import Packet

_FLAGS = ((0x02, "S"), (0x01, "F"), (0x04, "R"), (0x08, "P"), (0x20, "U"), (0x10, "."))
_NAMES = {headers.SCTP: "SCTP", headers.DCCP: "DCCP", headers.UDP_LITE: "UDP-Lite"}
_ICMP = {
    (4, 0): "echo reply",
    (4, 3): "destination unreachable",
    (4, 5): "redirect",
    (4, 8): "echo request",
    (4, 11): "time exceeded",
    (4, 12): "parameter problem",
    (6, 1): "destination unreachable",
    (6, 2): "packet too big",
    (6, 3): "time exceeded",
    (6, 4): "parameter problem",
    (6, 128): "echo request",
    (6, 129): "echo reply",
    (6, 133): "router solicitation",
    (6, 134): "router advertisement",
    (6, 135): "neighbor solicitation",
    (6, 136): "neighbor advertisement",
    (6, 143): "multicast listener report v2",
}
_ECHO = {(4, 0), (4, 8), (6, 128), (6, 129)}


def line(packet: Packet, *, with_macs: bool = False) -> str:
    """Return a packet as a line, without its time. No bytes, however hostile, raise an exception.

    Args:
        packet: of any device.
        with_macs: begin with the Ethernet header, of a TAP's frame.
    """
    told = _network(packet)
    ethernet = packet.ethernet
    if ethernet is None:
        return told
    if with_macs:
        told = f"{ethernet.src} > {ethernet.dst}, ethertype 0x{ethernet.kind:04x}, {told}"
    return "".join(f"vlan {tag.id}, " for tag in ethernet.vlans) + told


def _network(packet: Packet) -> str:
    ip = packet.ip
    if ip is not None:
        return _ip(packet, ip)
    arp = packet.arp
    if arp is not None:
        if arp.operation == 1:
            return f"ARP, Request who-has {arp.target_ip} tell {arp.sender_ip}"
        if arp.operation == 2:
            return f"ARP, Reply {arp.sender_ip} is-at {arp.sender_mac}"
        return f"ARP, operation {arp.operation}"
    size = len(packet.data) - packet.framing.start
    ethernet = packet.ethernet
    if ethernet is None:
        return f"{'a frame that is cut' if packet.framing.is_frame else 'no IP'}, length {size}"
    return f"ethertype 0x{ethernet.kind:04x}, length {size}"


def _ip(packet: Packet, ip: Ip) -> str:
    name = "IP" if ip.version == 4 else "IP6"
    source, destination = ip.src, ip.dst
    ports = packet.ports
    if ports is not None:
        source, destination = f"{source}.{ports[0]}", f"{destination}.{ports[1]}"
    told = f"{name} {source} > {destination}: {_transport(packet, ip)}"
    fragment = ip.fragment
    if fragment is not None:
        more = ", more follow" if fragment.more else ""
        told += f" (fragment {fragment.id} at {fragment.offset}{more})"
    return told


def _transport(packet: Packet, ip: Ip) -> str:
    """Return what is behind the IP header, which tells where the packet ends."""
    payload = packet.data[ip.start : headers.end_of(packet.data, ip)]
    if ip.fragment is not None and ip.fragment.offset:
        return f"proto {ip.proto}, length {len(payload)}"
    if ip.proto == headers.TCP:
        return _tcp(payload)
    if ip.proto == headers.UDP and len(payload) >= 8:
        return f"UDP, length {len(payload) - 8}"
    icmp = packet.icmp
    if icmp is not None:
        return _icmp(ip.version, icmp.type, icmp.code, payload)
    return f"{_NAMES.get(ip.proto, f'proto {ip.proto}')}, length {len(payload)}"


def _tcp(segment: bytes) -> str:
    if len(segment) < 20:
        return f"TCP, cut, length {len(segment)}"
    flags = "".join(letter for bit, letter in _FLAGS if segment[13] & bit) or "none"
    told = [f"Flags [{flags}]", f"seq {int.from_bytes(segment[4:8], 'big')}"]
    if segment[13] & 0x10:
        told.append(f"ack {int.from_bytes(segment[8:12], 'big')}")
    told.append(f"win {int.from_bytes(segment[14:16], 'big')}")
    size = len(segment) - (segment[12] >> 4) * 4
    return f"{', '.join(told)}, length {max(0, size)}"


def _icmp(version: int, kind: int, code: int, message: bytes) -> str:
    name = "ICMP" if version == 4 else "ICMP6"
    told = _ICMP.get((version, kind), f"type {kind} code {code}")
    if (version, kind) in _ECHO and len(message) >= 8:
        identity, number = int.from_bytes(message[4:6], "big"), int.from_bytes(message[6:8], "big")
        told += f", id {identity}, seq {number}"
    return f"{name} {told}, length {len(message)}"


def dump(data: bytes) -> str:
    """Return bytes as lines of hexadecimal digits and of text, sixteen bytes each."""
    lines = []
    for start in range(0, len(data), 16):
        some = data[start : start + 16]
        pairs = " ".join(some[at : at + 2].hex() for at in range(0, len(some), 2))
        text = "".join(chr(one) if 32 <= one < 127 else "." for one in some)
        lines.append(f"\t0x{start:04x}:  {pairs:<39}  {text}")
    return "\n".join(lines)
