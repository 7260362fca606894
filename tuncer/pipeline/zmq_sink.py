"""A sink in a worker of the last segment: a ZeroMQ endpoint, for subscribers in any language."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import socket as unix
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import zmq

from supervisor import GenServer
from tuncer.pipeline.records import in_bytes
from tuncer.pipeline.sinks import Sink
from tuncer.protocol import paths, wire_format
from tuncer.protocol.packet import Packet

_A_MESSAGE = 128 << 10  # bytes of packets in a message, unless one has more
_QUEUE = 256  # messages that may wait for each subscriber: 32 MiB
_LONGEST_SUBSCRIPTION = 1024  # bytes; whoever sends more is disconnected
_IDLE = 1.0  # seconds between messages, at most
_A_TURN = 256  # subscriptions that are read before the worker does something else


class Given(NamedTuple):
    """What a worker gives to a sink of its own."""

    worker: GenServer
    """Whose loop polls what the sink opens."""
    wake: Callable[[], None]
    """Has the worker look whether it can go on."""
    sent: memoryview
    """A word of the pipeline's memory, which is not part of a commit."""


class ZmqSink(Sink):
    """A ZeroMQ endpoint of the wire format. The position is the next packet's number.

    It answers the handshakes of subscribers, and repeats the next packet's number while it has
    nothing to send: see ``protocol.wire_format``.

    After a kill the same packets are sent again, with the same numbers; but those that are given up
    are not. So the sink notes, before it sends, how far its numbers may have got: other packets
    then have later ones. Whoever did not get the former packets sees a gap.
    """

    is_numbered = True

    def __init__(
        self, position: int, options: dict[str, Any], pipeline: bytes, given: Given
    ) -> None:
        """Bind the endpoint.

        Args:
            position: that was committed.
            options: of ``Zmq``: endpoint, topic, subscribers.
            pipeline: what distinguishes this pipeline from all others, 8 bytes.
            given: by the worker.

        Raises:
            OSError: it cannot be bound: EADDRINUSE, somebody else has it.
        """
        super().__init__()
        self.position = position
        self._topic = options["topic"].encode()
        self._awaited = options["subscribers"] if position == 0 else 0
        self._subscribers = 0
        self._stream = wire_format.stream_of(int.from_bytes(pipeline, "little"))
        self._worker, self._wake, self._sent = given
        self._sent_at = time.monotonic()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.XPUB)
        self._socket.setsockopt(zmq.LINGER, 1000)
        self._socket.setsockopt(zmq.SNDHWM, _QUEUE)
        self._socket.setsockopt(zmq.MAXMSGSIZE, _LONGEST_SUBSCRIPTION)
        self._socket.setsockopt(zmq.XPUB_VERBOSER, 1)  # tells of each subscriber, and its end
        try:
            self._file = _bind(self._socket, options["endpoint"])
        except OSError:
            self._socket.close(0)
            self._context.term()
            raise
        self._worker.add_reader(int(self._socket.getsockopt(zmq.FD)), self._serve)
        self._worker.call_every(_IDLE / 2, self._tell_position)

    def offer(self, packets: Sequence[Packet]) -> bool:
        """Tell whether the subscribers have come that are awaited before the first packet."""
        del packets
        if self._awaited and self._subscribers >= self._awaited:
            self._awaited = 0
        return not self._awaited

    def deliver(self, packets: Sequence[Packet]) -> int:
        """Publish packets, those of one framing as a message."""
        for framing, run in itertools.groupby(packets, lambda packet: packet.framing):
            left = list(run)
            while left:
                count = in_bytes(left, _A_MESSAGE)
                datas = [packet.data for packet in left[:count]]
                told = (self._topic, self.position, datas, left[0].timestamp, 0)
                self._sent[0] = max(self._sent[0], self.position + count)
                self._send(wire_format.encode(*told, framing=framing, stream=self._stream))
                self.position += count
                left = left[count:]
        # Its descriptor tells of changes alone: a subscription that came while this sent has not
        # made it readable.
        self._serve()
        return 0

    def given_up(self) -> None:
        """Leave out the numbers of packets that may have been sent, and are not sent again."""
        self.position = max(self.position, self._sent[0])

    def _serve(self) -> None:
        """Read subscriptions: count them, and answer handshakes."""
        for _ in range(_A_TURN):
            try:
                word = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            comes, topic = word[:1] == b"\1", word[1:]
            if word[:1] in {b"\0", b"\1"} and self._topic.startswith(topic):
                self._subscribers += 1 if comes else -1
                if self._awaited:
                    self._wake()
            elif comes and topic.startswith(wire_format.HELLO):
                self._send(self._without_packets(topic))
        self._worker.call_later(0.0, self._serve_later)

    def _serve_later(self) -> None:
        if not self._socket.closed:
            self._serve()

    def _tell_position(self) -> None:
        if not self._socket.closed and time.monotonic() - self._sent_at >= _IDLE / 2:
            self._send(self._without_packets(self._topic))
            self._serve()

    def _without_packets(self, topic: bytes, end: str | None = None) -> list[bytes]:
        now = time.time_ns()
        return wire_format.encode(topic, self.position, [], now, 0, end, stream=self._stream)

    def _send(self, frames: list[bytes]) -> None:
        self._socket.send_multipart(frames, zmq.NOBLOCK)
        self._sent_at = time.monotonic()

    def close(self) -> None:
        """Say that nothing more comes, and close the socket when that has gone, or a second later.

        A successor in the same pipeline goes on with the numbers, which does subscribers no harm.
        """
        with contextlib.suppress(zmq.ZMQError):
            self._send(self._without_packets(self._topic, "closed"))
        if self._file is not None and self._file == _identity_of(self._file.path):
            os.unlink(self._file.path)  # ZeroMQ leaves it there
        self._socket.close()
        self._context.term()


class _File(NamedTuple):
    """The socket of an endpoint in the file system."""

    path: str
    device: int
    inode: int


def _identity_of(path: str) -> _File | None:
    with contextlib.suppress(OSError):
        found = os.lstat(path)
        return _File(path, found.st_dev, found.st_ino)
    return None


def _bind(socket: zmq.Socket[bytes], endpoint: str) -> _File | None:
    """Bind an endpoint; return its file, if it has one.

    Raises:
        OSError: why that is not possible.
    """
    path = endpoint.removeprefix("ipc://")
    in_files = endpoint.startswith("ipc://") and path[:1] not in {"@", "*"}
    # ZeroMQ would take it away from whoever listens there.
    if in_files and paths.is_open(Path(path), unix.SOCK_STREAM):
        raise OSError(errno.EADDRINUSE, f"{os.strerror(errno.EADDRINUSE)}: {endpoint}")
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        raise OSError(error.errno, f"{error.strerror}: {endpoint}") from None
    return _identity_of(path) if in_files else None
