"""A subscription that gets ZeroMQ messages of the wire format, as a reader elsewhere does."""

from __future__ import annotations

import errno
import time
import uuid
from collections import deque
from pathlib import Path

import zmq

from tuncer.client.queue_subscription import QueueSubscription
from tuncer.protocol import control_socket, paths, wire_format
from tuncer.protocol.batch import Batch
from tuncer.protocol.control_socket import PATIENCE
from tuncer.protocol.packet import DeviceError
from tuncer.protocol.subscriber_handshake import SUBSCRIBE_ZMQ

_QUEUE = 128  # batches of 256 KiB that wait here, besides as many at the worker
_STRAGGLERS = 1000  # ms that the last messages may be late after the device's end


class ZmqSubscription(QueueSubscription):
    """Receives messages of the wire format."""

    def __init__(
        self, path: Path, device: str, *, batch: int | None, events: bool, queue: int = 0
    ) -> None:
        answer, _, channel = control_socket.request(
            path, device, SUBSCRIBE_ZMQ, events, timeout=PATIENCE
        )
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RCVHWM, _QUEUE)
        # With ZeroMQ's default of 100 ms, a restart of the worker would lose hundreds of batches.
        self._socket.setsockopt(zmq.RECONNECT_IVL, 1)
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        self._socket.setsockopt(zmq.SUBSCRIBE, device.encode())
        self._socket.connect(f"ipc://{paths.publisher(path)}")
        hello = wire_format.HELLO + uuid.uuid4().bytes
        # After connect: the publisher gets both subscriptions in this order.
        self._socket.setsockopt(zmq.SUBSCRIBE, hello)
        wakeup_fd = int(self._socket.getsockopt(zmq.FD))
        super().__init__(device, channel, wakeup_fd, batch=batch, events=events, queue=queue)
        self._event_seq = answer[2]
        self._early: deque[wire_format.Message] = deque()
        self._had_last = False
        self._untold = 0
        try:
            self._seq = self._handshake(hello)
        except BaseException:
            self.close()
            raise
        self._socket.setsockopt(zmq.UNSUBSCRIBE, hello)
        # ZeroMQ's descriptor is edge-triggered: a message that has arrived during these calls will
        # not make it readable.
        self._stay_readable()

    def _handshake(self, hello: bytes) -> int:
        """Wait for the publisher's answer to ``hello``; return the ``seq`` of the first packet.

        Batches that arrive before the answer are kept.
        """
        deadline = time.monotonic() + PATIENCE
        while True:
            remaining = deadline - time.monotonic()
            if remaining <= 0 or not self._socket.poll(int(remaining * 1000) + 1):
                raise DeviceError(errno.ETIMEDOUT, "the publisher does not answer", self._device)
            message = wire_format.decode(self._socket.recv_multipart())
            if message.topic == hello:
                return message.seq
            self._early.append(message)

    def _clear_wakeup(self) -> None:
        """Nothing to do: the socket's descriptor is not readable when all has been received."""

    def _take_packets(self) -> Batch | None:
        while True:
            message = self._early.popleft() if self._early else self._receive()
            if message is not None:
                batch = self._accept(message)
                if batch is not None:
                    return batch
            elif not self._more_to_come():
                return None

    def _more_to_come(self) -> bool:
        """After the device's end, wait for messages that are under way, up to the last one."""
        if self._end is None or self._had_last or self._socket.closed:
            return False
        self._had_last = not self._socket.poll(_STRAGGLERS)
        if self._had_last and self._log_end is not None:
            # The publisher has dropped what this subscriber was too slow for.
            self._lost += max(0, self._log_end - self._seq)
            self._seq = max(self._seq, self._log_end)
        return not self._had_last

    def _receive(self) -> wire_format.Message | None:
        if self._socket.closed:
            return None
        try:
            frames = self._socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return None
        return wire_format.decode(frames)

    def _accept(self, message: wire_format.Message) -> Batch | None:
        """Return the packets of a message that are new, if any; count those that are missing."""
        if message.topic != self._device.encode():
            return None
        if message.end is not None:
            self._had_last = True
            if message.end == "closed":
                self._end = self._end or self._over()
        seen = max(0, self._seq - message.seq)
        packets = message.packets[seen:]
        first = message.seq + seen
        lost = max(0, first - self._seq) if packets or not message.packets else 0
        self._lost += lost
        # A message without packets shows the gap; the next packet reports it.
        self._untold += lost
        self._seq = max(self._seq, message.seq + len(message.packets))
        if not packets:
            return None
        untold, self._untold = self._untold, 0
        told = (message.timestamp, self._device, untold, self._queue, message.framing)
        return Batch.of(packets, first, *told)

    def close(self) -> None:
        """End the subscription; the device goes on."""
        if not self._socket.closed:
            self._socket.close(0)
            self._context.term()
            super().close()
