"""What a client may ask of a device's worker: the one list, by call, cast and control socket.

A call is ``[operation, arguments, options]``. An operation of ``TUNCTL`` is the function of that
name of ``tuncer.tunctl``, which gets the device's descriptor first. One of ``WORKER`` is the method
of the worker that has the same name behind an underscore. A new setting of a link takes a function
of ``tunctl``, a line here, and a method of ``Link``.

A request by the control socket is ``[request, ...]``. Its answer is a list, or an error.
"""

from __future__ import annotations

import errno
from typing import NamedTuple

from tuncer.protocol.subscriber_handshake import SUBSCRIBE, SUBSCRIBE_ZMQ


class Operation(NamedTuple):
    """Whether an operation may be repeated, when its worker was killed before it had answered."""

    idempotent: bool = True
    already_done: int | None = None
    """The errno that the second time says, if the first time was carried out."""


class SubscriberRow(NamedTuple):
    """A subscriber of a device."""

    pid: int
    """The process that has subscribed."""
    transport: str
    """"ring" or "zmq"."""
    policy: str
    """"drop" or "lossless"."""
    events: bool
    """Whether it gets the device's events, too."""
    behind: int | None
    """Of a lossless one: packets that it has not acknowledged. Others keep count themselves."""
    holds_back: bool
    """Whether the worker waits for it."""
    queue: int = 0


_ONCE = Operation(idempotent=False)

TUNCTL = {
    "add_address": Operation(),
    "add_route": Operation(),
    "alias": Operation(),
    "carrier": Operation(),
    "change_address": Operation(),
    "devname": Operation(),
    "down": Operation(),
    "flags": Operation(),
    "group": Operation(),
    "ifindex": Operation(),
    "is_up": Operation(),
    "link_local": Operation(),
    "link_type": Operation(),
    "list_addresses": Operation(),
    "list_routes": Operation(),
    "mac": Operation(),
    "master": Operation(),
    "move": Operation(),
    "mtu": Operation(),
    "owner": Operation(),
    "persist": Operation(),
    "place": Operation(),
    "receive_filter": Operation(),
    "remove_address": Operation(already_done=errno.EADDRNOTAVAIL),
    "remove_route": Operation(already_done=errno.ESRCH),
    "rename": Operation(),
    "sndbuf": Operation(),
    "txqueuelen": Operation(),
    "up": Operation(),
}

WORKER = {
    "add_active": _ONCE,
    "belongs": Operation(),
    "close": Operation(),
    "control_path": Operation(),
    "destroy": Operation(),
    "filter": Operation(),
    "offload": Operation(),
    "recv": _ONCE,
    "set_active": Operation(),
    "statistics": Operation(),
    "list_subscribers": Operation(),
    "vnet_hdr_size": Operation(),
}

OPERATIONS = TUNCTL | WORKER

# -- casts -----------------------------------------------------------------------------------------

WITHDRAW = "withdraw"
"""With a token: the caller of the ``recv`` that had this token does not wait any longer."""

# -- requests by the control socket: all may be repeated -------------------------------------------

WORKER_OF = "worker"
"""Answered by the same word, the worker's ``Ref``, the device's name, its number of queues, and
whether it has offload."""
GETFD = "getfd"
"""Answered by the same word, and a duplicate of the device's descriptor."""
PUBLISH = "publish"
"""Bind the publisher. Answered by the same word, and the path of its endpoint."""
BY_ZMQ = (PUBLISH, SUBSCRIBE_ZMQ)
"""Requests that a device with offload refuses."""
REQUESTS = (WORKER_OF, GETFD, PUBLISH, SUBSCRIBE, SUBSCRIBE_ZMQ)
