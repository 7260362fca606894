"""A sink in a worker of the last segment: a ZeroMQ endpoint, for subscribers in any language."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Sequence

import zmq

from supervisor import GenServer
from tuncer.pipeline.records import in_bytes
from tuncer.pipeline.sinks import Sink
from tuncer.protocol import wire_format
from tuncer.protocol.packet import Packet

_A_MESSAGE = 256 << 10  # bytes of packets in a message, unless one has more
_LONGEST_SUBSCRIPTION = 1024  # bytes; whoever sends more is disconnected
_IDLE = 1.0  # seconds between messages, at most
_A_TURN = 256  # subscriptions that are read before the worker does something else


class ZmqSink(Sink):
    """A ZeroMQ endpoint of the wire format. The position is the next packet's number.

    It answers the handshakes of subscribers, and repeats the next packet's number while it has
    nothing to send: see ``protocol.wire_format``.
    """

    is_numbered = True

    def __init__(
        self, position: int, endpoint: str, topic: str, pipeline: bytes, worker: GenServer
    ) -> None:
        """Bind the endpoint.

        Args:
            position: that was committed.
            endpoint: as ZeroMQ writes it.
            topic: of the messages.
            pipeline: what distinguishes this pipeline from all others, 8 bytes.
            worker: has the loop.

        Raises:
            OSError: it cannot be bound.
        """
        super().__init__()
        self.position = position
        self._topic = topic.encode()
        self._stream = wire_format.stream_of(int.from_bytes(pipeline, "little"))
        self._worker = worker
        self._sent_at = time.monotonic()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.XPUB)
        self._socket.setsockopt(zmq.LINGER, 1000)
        self._socket.setsockopt(zmq.MAXMSGSIZE, _LONGEST_SUBSCRIPTION)
        self._socket.setsockopt(zmq.XPUB_VERBOSE, 1)  # two subscribers may send the same handshake
        try:
            self._socket.bind(endpoint)
        except zmq.ZMQError as error:
            self._close_socket()
            raise OSError(error.errno, f"{error.strerror}: {endpoint}") from None
        worker.add_reader(int(self._socket.getsockopt(zmq.FD)), self._answer_handshakes)
        worker.call_every(_IDLE / 2, self._tell_position)

    def deliver(self, packets: Sequence[Packet]) -> int:
        """Publish packets, those of one framing as a message."""
        for framing, run in itertools.groupby(packets, lambda packet: packet.framing):
            left = list(run)
            while left:
                count = in_bytes(left, _A_MESSAGE)
                datas = [packet.data for packet in left[:count]]
                told = (self._topic, self.position, datas, packets[0].timestamp, 0)
                self._send(wire_format.encode(*told, framing=framing, stream=self._stream))
                self.position += count
                left = left[count:]
        # Its descriptor tells of changes alone: a subscription that came while this sent has not
        # made it readable.
        self._answer_handshakes()
        return 0

    def _answer_handshakes(self) -> None:
        for _ in range(_A_TURN):
            try:
                word = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            if word[:1] == b"\1" and word[1:].startswith(wire_format.HELLO):
                self._send(self._without_packets(word[1:]))
        self._worker.call_later(0.0, self._answer_handshakes_later)

    def _answer_handshakes_later(self) -> None:
        if not self._socket.closed:
            self._answer_handshakes()

    def _tell_position(self) -> None:
        if not self._socket.closed and time.monotonic() - self._sent_at >= _IDLE / 2:
            self._send(self._without_packets(self._topic))
            self._answer_handshakes()

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
        self._close_socket()

    def _close_socket(self) -> None:
        self._socket.close()
        self._context.term()
