"""The wire format: packets as ZeroMQ messages, for subscribers in any language.

A message is a batch, in three frames:

1. topic: the device's name at its creation, UTF-8;
2. header: a msgpack map: ``v`` 1, ``seq`` the first packet's number, ``n`` how many packets,
   ``ts`` when the first was read, in nanoseconds since the epoch, ``epoch`` the worker's
   incarnation, ``queue`` which of the device's, each with numbers and an endpoint of its own,
   ``framing`` whether a packet is an Ethernet frame, and how many bytes precede it, ``stream``
   which numbering ``seq`` belongs to: after a change the numbers have begun anew.
   More keys may come: ignore what you do not know;
3. payload: a msgpack array of ``n`` byte strings, one a packet.

``n`` = 0 says "the next packet will be number ``seq``". It is repeated while nothing comes, so
that a gap at the end is seen as well. A message with the key ``end`` is the device's last.
After a restart of the worker packets are sent again: drop what is below the number you expect.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgpack

from tuncer.protocol.packet import Framing

VERSION = 1
HELLO = b"\0hello "
"""A subscription to this and any further bytes is answered once, under that topic, by a message
with ``n`` = 0: everything from ``seq`` on is then sent to the subscriber."""


class Message(NamedTuple):
    """A message, decoded."""

    topic: bytes
    seq: int
    timestamp: int
    epoch: int
    queue: int
    packets: list[bytes]
    end: str | None
    framing: Framing
    stream: int
    """Which numbering ``seq`` belongs to; 0: the sender does not tell."""


def stream_of(mark: int) -> int:
    """Return the name of a numbering, 1 to 2**53 - 1, which every language has as a number.

    Args:
        mark: 64 random bits, drawn when the numbering begins. They stay secret: a sender of packets
            that knows a ring's mark could have its successor take one packet for none.
    """
    digest = hashlib.blake2b(mark.to_bytes(8, "little"), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 11 or 1


def encode(
    topic: bytes,
    seq: int,
    packets: Sequence[bytes | memoryview],
    timestamp: int,
    epoch: int,
    end: str | None = None,
    queue: int = 0,
    framing: Framing | None = None,
    stream: int = 0,
) -> list[bytes]:
    """Return the frames of a message."""
    header: dict[str, Any] = {
        "v": VERSION,
        "seq": seq,
        "n": len(packets),
        "ts": timestamp,
        "epoch": epoch,
        "queue": queue,
    }
    if framing is not None:
        header["framing"] = framing
    if stream:
        header["stream"] = stream
    if end is not None:
        header["end"] = end
    return [topic, msgpack.packb(header), msgpack.packb(list(packets))]


def decode(frames: list[bytes]) -> Message:
    """Return what the frames of a message say.

    Raises:
        ValueError: they are no message of this format, or of a later version.
    """
    try:
        topic, head, payload = frames
        header = msgpack.unpackb(head)
        packets = msgpack.unpackb(payload)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise ValueError(f"no message of tuncer's wire format: {error!r}") from error
    match header:
        case {"v": int(version)} if version != VERSION:
            raise ValueError(
                f"the message has version {version} of the wire format, this reader knows {VERSION}"
            )
        case {"v": int(), "seq": int(seq), "n": int(count), "ts": int(when), "epoch": int(epoch)}:
            framing = _framing(header.get("framing", [False, 0]))
            told = (header.get("queue", 0), packets, header.get("end"), framing)
            found = Message(topic, seq, when, epoch, *told, header.get("stream", 0))
        case _:
            raise ValueError(f"no message of tuncer's wire format: {header!r:.100}")
    if not (
        isinstance(packets, list)
        and all(isinstance(packet, bytes) for packet in packets)
        and isinstance(found.queue, int)
        and isinstance(found.stream, int)
        and isinstance(found.end, str | None)
    ):
        raise ValueError(f"no message of tuncer's wire format: {found!r:.100}")
    if count != len(packets):
        raise ValueError(f"the header speaks of {count} packets, the payload has {len(packets)}")
    return found


def _framing(told: Any) -> Framing:
    match told:
        case [bool(is_frame), int(start)] if start >= 0:
            return Framing(is_frame, start)
    raise ValueError(f"no message of tuncer's wire format: framing {told!r:.100}")
