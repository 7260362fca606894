"""The handshake of a new subscriber: what client and worker agree on before the first packet.

1. The client sends ``SUBSCRIBE`` or ``SUBSCRIBE_ZMQ`` by the control socket. The connection stays
   open: the kernel closes it when either side ends.
2. The worker stores the connection, and for the ring an eventfd, with its supervisor. Their names
   there are in ``fd_store_keys``. Until ``HANDSHAKE`` is taken out of the store, a successor of a
   worker that was killed answers, perhaps for the second time.
3. The worker answers ``SUBSCRIBED``, the ``seq`` of the first packet, and how many events there
   were; to a ring subscriber with the descriptors of the ring and of the eventfd.
4. A ZeroMQ subscriber subscribes to a topic of its own: ``wire_format.HELLO`` and random bytes.
   The publisher's answer under that topic has the ``seq`` of the first packet that it sends there.
"""

from __future__ import annotations

SUBSCRIBE = "subscribe"
"""A request by the control socket, with whether events are wanted: packets come by the ring."""
SUBSCRIBE_ZMQ = "subscribe_zmq"
"""The same: packets come by ZeroMQ."""
SUBSCRIBED = "subscribed"
"""The answer to both."""
