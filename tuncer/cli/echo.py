"""A host that answers ARP requests and pings. Pure. Sources: RFC 826, RFC 792, RFC 1071."""

from __future__ import annotations

import ipaddress

_ETHERNET = 14
_ARP, _IPV4 = b"\x08\x06", b"\x08\x00"
_REQUEST, _REPLY = b"\x00\x01", b"\x00\x02"
_ICMP, _ECHO_REQUEST = 1, 8
_SHORTEST = 28  # bytes: an IPv4 header, and the header of an echo request


class Host:
    """A host with one IPv4 address."""

    def __init__(self, address: str, *, frames: bool) -> None:
        self._address = ipaddress.IPv4Address(address).packed
        self._mac = b"\x02\x00" + self._address  # locally administered
        self._frames = frames

    def answer(self, data: bytes) -> bytes | None:
        """Return what the host sends when it receives this; None for nothing."""
        if not self._frames:
            return self._echo(data)
        kind, payload = data[12:_ETHERNET], data[_ETHERNET:]
        reply = (
            self._arp(payload) if kind == _ARP else self._echo(payload) if kind == _IPV4 else None
        )
        return None if reply is None else data[6:12] + self._mac + kind + reply

    def _arp(self, request: bytes) -> bytes | None:
        if request[6:8] != _REQUEST or request[24:28] != self._address:
            return None
        return request[:6] + _REPLY + self._mac + self._address + request[8:18]

    def _echo(self, packet: bytes) -> bytes | None:
        if len(packet) < _SHORTEST or packet[0] != 0x45 or packet[9] != _ICMP:
            return None
        if packet[20] != _ECHO_REQUEST or packet[16:20] != self._address:
            return None
        # Only the type changes, from 8 to 0: so the checksum grows by 8 in its high byte.
        checksum = int.from_bytes(packet[22:24], "big") + (_ECHO_REQUEST << 8)
        checksum = (checksum & 0xFFFF) + (checksum >> 16)
        head = packet[:12] + packet[16:20] + packet[12:16]
        return head + b"\x00\x00" + checksum.to_bytes(2, "big") + packet[24:]
