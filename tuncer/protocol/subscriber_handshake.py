"""The handshake of a new subscriber: what client and worker agree on before the first packet.

1. The client sends ``SUBSCRIBE`` or ``SUBSCRIBE_ZMQ`` by the control socket. The connection stays
   open: the kernel closes it when either side ends.
2. The worker stores the connection, for the ring an eventfd, and of a lossless subscriber for how
   long it may hold the worker back, with its supervisor. Their names there are in
   ``fd_store_keys``. Until ``HANDSHAKE`` is taken out of the store, a successor of a
   worker that was killed answers, perhaps for the second time.
3. The worker answers ``SUBSCRIBED``, the ``seq`` of the first packet, and how many events there
   were; to a ring subscriber with the descriptors of the ring and of the eventfd.
4. A ZeroMQ subscriber subscribes to a topic of its own: ``wire_format.HELLO`` and random bytes.
   The publisher's answer under that topic has the ``seq`` of the first packet that it sends there.

A lossless subscriber sends ``ACKNOWLEDGED``, and the ``seq`` of the next packet that it needs:
when it has read a sixteenth of the ring since, when it reads and has sent none for a second, and
when the worker asks by ``ACKNOWLEDGE``.
"""

from __future__ import annotations

SUBSCRIBE = "subscribe"
"""A request by the control socket: packets come by the ring. With it come whether events are
wanted, whether the subscriber is lossless, and for how many seconds it may hold the worker back;
None: as long as it lives."""
SUBSCRIBE_ZMQ = "subscribe_zmq"
"""A request, with whether events are wanted: packets come by ZeroMQ."""
SUBSCRIBED = "subscribed"
"""The answer to both."""

ACKNOWLEDGE, ACKNOWLEDGED = "acknowledge", "acknowledged"
DROPPED = (
    "lossless subscription held the device back for longer than its hold_timeout, and was ended"
)
"""What a lossless subscriber is told of its end."""
