"""Capture files: pcap and pcapng are read, pcapng is written.

Sources: draft-ietf-opsawg-pcapng (Section Header, Interface Description, Simple and Enhanced Packet
Block, Interface Statistics), draft-ietf-opsawg-pcap; the link types are those of LINKTYPE_*.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import IO, NamedTuple

from tuncer.protocol.packet import Framing, Packet, packet_class

SECTION, INTERFACE, SIMPLE, STATISTICS, ENHANCED = 0x0A0D0D0A, 1, 3, 5, 6
_BYTE_ORDER = 0x1A2B3C4D
_PCAP_MAGIC = {0xA1B2C3D4: 1000, 0xA1B23C4D: 1}
"""Nanoseconds of a unit of time."""

ETHERNET, RAW, IPV4, IPV6 = 1, 101, 228, 229
"""LINKTYPE_ETHERNET, LINKTYPE_RAW, LINKTYPE_IPV4, LINKTYPE_IPV6."""
_LINKS = {
    ETHERNET: Framing(is_frame=True),
    RAW: Framing(),
    12: Framing(),  # DLT_RAW of some systems
    IPV4: Framing(),
    IPV6: Framing(),
}

_COMMENT, _END, _IF_NAME, _IF_RESOLUTION, _PACKETS_LOST = 1, 0, 2, 9, 4
_SECOND = 1_000_000_000
_LONGEST_BLOCK = 1 << 24
_LONGEST_TEXT = 60_000  # bytes of an option, which has 16 bits for its length


class Captured(NamedTuple):
    """A packet of a capture file."""

    data: bytes
    timestamp: int
    """Nanoseconds since the epoch."""
    framing: Framing
    interface: str
    """The interface's name, if the file tells it."""
    end: int
    """Where in the file the next record begins."""
    missing: int = 0
    """Bytes at the packet's end that the capture has left out: it had a snapshot length."""

    def packet(self, seq: int) -> Packet:
        """Return it as a packet of this number."""
        kind = packet_class(self.framing)
        return kind(self.data, seq, self.timestamp, self.interface)


# -- writing ---------------------------------------------------------------------------------------


def section(comment: str = "") -> bytes:
    """Return a section header, of a section of unknown length."""
    options = _text(comment) + _option(_END) if comment else b""
    return _block(SECTION, struct.pack("<IHHq", _BYTE_ORDER, 1, 0, -1) + options)


def interface(name: str, link: int, snaplen: int = 0) -> bytes:
    """Return the description of an interface whose times are in nanoseconds.

    Args:
        name: of the interface.
        link: its link type.
        snaplen: bytes of a packet that are captured, at most; 0: all.
    """
    options = _option(_IF_NAME, name.encode()) + _option(_IF_RESOLUTION, b"\x09") + _option(_END)
    return _block(INTERFACE, struct.pack("<HHI", link, 0, snaplen) + options)


def packet(
    number: int, timestamp: int, data: bytes, comment: str = "", *, lost: int = 0, snaplen: int = 0
) -> bytes:
    """Return an enhanced packet block: a packet of an interface.

    Args:
        number: the interface's, in its section.
        timestamp: nanoseconds since the epoch.
        data: the whole packet.
        comment: with a text, if there is one.
        lost: how many packets of the interface before this one are missing (``epb_dropcount``).
        snaplen: bytes of it that are written, at most; 0: all.
    """
    size = len(data)
    if snaplen:
        data = data[:snaplen]
    high, low = timestamp >> 32 & 0xFFFFFFFF, timestamp & 0xFFFFFFFF
    head = struct.pack("<IIIII", number, high, low, len(data), size)
    options = _text(comment)
    if lost:
        options += _option(_PACKETS_LOST, struct.pack("<Q", lost))
    if options:
        options += _option(_END)
    return _block(ENHANCED, b"".join((head, data, bytes(-len(data) % 4), options)))


def statistics(number: int, timestamp: int, received: int, dropped: int) -> bytes:
    """Return the counters of an interface: ``isb_ifrecv`` and ``isb_ifdrop``."""
    head = struct.pack("<III", number, timestamp >> 32 & 0xFFFFFFFF, timestamp & 0xFFFFFFFF)
    options = _option(4, struct.pack("<Q", received)) + _option(5, struct.pack("<Q", dropped))
    return _block(STATISTICS, head + options + _option(_END))


class Interface(NamedTuple):
    """An interface that a section describes, and what the section has of it."""

    number: int
    packets: int = 0
    lost: int = 0
    """Packets before these that are missing."""


Interfaces = dict[tuple[str, int], Interface]
"""The interfaces of a section, by name and link type."""


def blocks(
    packets: Sequence[Packet], known: Interfaces, snaplen: int = 0
) -> tuple[bytes, Interfaces]:
    """Return the blocks of packets, and what their section describes behind these blocks.

    Args:
        packets: of any devices.
        known: what the section describes before; it is left as it is.
        snaplen: bytes of a packet that are written, at most; 0: all.
    """
    found = []
    known = dict(known)
    for one in packets:
        key = one.device, link_of(one.framing)
        counted = known.get(key)
        if counted is None:
            counted = Interface(len(known))
            found.append(interface(*key, snaplen))
        number, count, lost = counted
        known[key] = Interface(number, count + 1, lost + one.lost)
        data = one.data[one.framing.start :]
        found.append(packet(number, one.timestamp, data, lost=one.lost, snaplen=snaplen))
    return b"".join(found), known


def ending(known: Interfaces, timestamp: int) -> bytes:
    """Return the counters of a section's interfaces, which end it."""
    return b"".join(statistics(one[0], timestamp, *one[1:]) for one in known.values())


def link_of(framing: Framing) -> int:
    """Return the link type of packets."""
    return ETHERNET if framing.is_frame else RAW


def _block(kind: int, body: bytes) -> bytes:
    size = struct.pack("<I", len(body) + 12)
    return b"".join((struct.pack("<I", kind), size, body, size))


def _text(comment: str) -> bytes:
    """Return an option with a comment; nothing, if there is none."""
    if not comment:
        return b""
    cut = comment.encode(errors="replace")[:_LONGEST_TEXT]
    return _option(_COMMENT, cut.decode(errors="ignore").encode())


def _option(code: int, value: bytes = b"") -> bytes:
    return struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)


# -- reading ---------------------------------------------------------------------------------------


class CaptureError(ValueError):
    """A file is no capture, or is damaged."""


def read(file: IO[bytes], name: str = "") -> Iterator[Captured]:
    """Yield the packets of a capture file. What is cut at its end ends it.

    Args:
        file: at its beginning; a pipe will do.
        name: for errors.

    Raises:
        CaptureError: it is none, it is damaged, or has a link type that is no IP nor Ethernet.
    """
    reader = _Reader(file, name)
    magic = reader.take(4)
    if len(magic) < 4:
        raise CaptureError(f"{reader.who} is empty, or no capture")
    for order in "<>":
        number = struct.unpack(f"{order}I", magic)[0]
        if number == SECTION:
            return _pcapng(reader)
        if number in _PCAP_MAGIC:
            return _pcap(reader, order, _PCAP_MAGIC[number])
    raise CaptureError(f"{reader.who} is neither pcap nor pcapng: it begins with {magic.hex()}")


class _Reader:
    """A file, and how far it was read."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._file = file
        self.who = name or "the capture"
        self.position = 0

    def take(self, size: int) -> bytes:
        """Return so many bytes, or fewer at the end."""
        data = self._file.read(size)
        while 0 < len(data) < size and (more := self._file.read(size - len(data))):
            data += more  # of a pipe
        self.position += len(data)
        return data

    def damaged(self, what: str) -> CaptureError:
        return CaptureError(f"{self.who} is damaged before byte {self.position}: {what}")


def _framing(reader: _Reader, link: int) -> Framing:
    framing = _LINKS.get(link)
    if framing is None:
        raise CaptureError(
            f"{reader.who} has packets of link type {link}; Ethernet (1) and IP (101, 228, 229) are"
            " read"
        )
    return framing


def _pcap(reader: _Reader, order: str, unit: int) -> Iterator[Captured]:
    head = reader.take(20)
    if len(head) < 20:
        raise reader.damaged("its header is cut")
    framing = _framing(reader, struct.unpack(f"{order}I", head[16:])[0] & 0xFFFF)
    record = struct.Struct(f"{order}IIII")
    while len(head := reader.take(16)) == 16:
        seconds, parts, size, whole = record.unpack(head)
        if size > _LONGEST_BLOCK:
            raise reader.damaged(f"a packet of {size} bytes")
        data = reader.take(size)
        if len(data) < size:
            return
        when, missing = seconds * _SECOND + parts * unit, max(0, whole - size)
        yield Captured(data, when, framing, "", reader.position, missing)


class _Interface(NamedTuple):
    framing: Framing
    name: str
    resolution: int
    """``if_tsresol``."""


def _pcapng(reader: _Reader) -> Iterator[Captured]:
    order = _section(reader)
    if not order:
        raise reader.damaged("a section header that is cut")
    interfaces: list[_Interface] = []
    while True:
        head = reader.take(4)
        if len(head) < 4:
            return
        kind = SECTION if head == b"\n\r\r\n" else struct.unpack(f"{order}I", head)[0]
        if kind == SECTION:
            order, interfaces = _section(reader), []
            if not order:
                return
        else:
            head = reader.take(4)
            if len(head) < 4:
                return
            body = _body(reader, order, struct.unpack(f"{order}I", head)[0])
            if body is None:
                return
            if kind == INTERFACE:
                interfaces.append(_described(reader, order, body))
            elif kind in {ENHANCED, SIMPLE}:
                yield _packet(reader, order, kind, body, interfaces)


def _section(reader: _Reader) -> str:
    """Read a section header behind its type; return the byte order, or "" if it is cut."""
    head = reader.take(8)
    if len(head) < 8:
        return ""
    for order in "<>":
        if struct.unpack(f"{order}I", head[4:])[0] == _BYTE_ORDER:
            size = struct.unpack(f"{order}I", head[:4])[0]
            if 28 <= size <= _LONGEST_BLOCK:
                return order if len(reader.take(size - 12)) == size - 12 else ""
    raise reader.damaged("a section header")


def _body(reader: _Reader, order: str, size: int) -> bytes | None:
    """Return a block's body; None if it is cut at the file's end."""
    if not 12 <= size <= _LONGEST_BLOCK or size % 4:
        raise reader.damaged(f"a block of {size} bytes")
    body = reader.take(size - 12)
    end = reader.take(4)
    if len(end) < 4:
        return None
    if struct.unpack(f"{order}I", end)[0] != size:
        raise reader.damaged("a block's two lengths differ")
    return body


def _described(reader: _Reader, order: str, body: bytes) -> _Interface:
    if len(body) < 8:
        raise reader.damaged("an interface's description")
    name, resolution = "", 6
    place = 8
    while place + 4 <= len(body):
        code, size = struct.unpack_from(f"{order}HH", body, place)
        value = body[place + 4 : place + 4 + size]
        place += 4 + size + -size % 4
        if code == _END:
            break
        if code == _IF_NAME:
            name = value.decode(errors="replace")
        elif code == _IF_RESOLUTION and value:
            resolution = value[0]
    link = struct.unpack_from(f"{order}H", body)[0]
    return _Interface(_framing(reader, link), name, resolution)


def _packet(
    reader: _Reader, order: str, kind: int, body: bytes, interfaces: list[_Interface]
) -> Captured:
    try:
        if kind == SIMPLE:
            one, time = interfaces[0], 0
            start, whole = 4, struct.unpack_from(f"{order}I", body)[0]
            size = min(whole, len(body) - start)  # the interface's snapshot length may be shorter
        else:
            number, high, low, size, whole = struct.unpack_from(f"{order}IIIII", body)
            one, time, start = interfaces[number], high << 32 | low, 20
    except (struct.error, IndexError):
        raise reader.damaged("a packet's block") from None
    if start + size > len(body):
        raise reader.damaged("a packet that is longer than its block")
    when = _nanoseconds(time, one.resolution)
    if when >= 1 << 64:
        raise reader.damaged("a packet of a time that is later than any")
    data, missing = body[start : start + size], max(0, whole - size)
    return Captured(data, when, one.framing, one.name, reader.position, missing)


def _nanoseconds(time: int, resolution: int) -> int:
    exponent = resolution & 0x7F
    base: int = 2 if resolution & 0x80 else 10
    return int(time * _SECOND // base**exponent)
