"""The control socket of a device: a Unix socket where others get descriptors, and find the worker.

Requests and answers are messages of ``supervisor.protocol.channel``. The listening descriptor lies
in the fd store: during a restart a request waits in its queue for the next worker, and when worker
and supervisors are gone for good, it is refused.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
import time
from pathlib import Path
from typing import Any

from supervisor.lowlevel import Channel, RLock, close_all, peer_of, restoration, runtime_dir
from tuncer.protocol import paths
from tuncer.protocol.packet import DeviceError
from tuncer.protocol.subscriber_handshake import ACKNOWLEDGE

_BACKLOG = 1024  # connections that wait to be accepted, at most net.core.somaxconn

receiving = RLock()
"""Held while descriptors arrive: a fork that waits for it knows all that it inherits."""

PATIENCE = 10.0
"""Seconds in which a worker must answer."""

EVENT, END = "event", "end"
UNASKED = (EVENT, END, ACKNOWLEDGE)
"""What a worker sends without a request: an event's kind; at the end an errno, 0 for an end in
order, a text, and how many packets the log has; or that a lossless subscriber is to acknowledge."""

WAS_DELETED = "the device was deleted"


def listen(path: Path, device: str) -> int:
    """Return a descriptor that listens at a path, which is taken over from a dead device.

    Raises:
        OSError: EBUSY, a living worker has this device already.
    """
    kind = socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    with runtime_dir.lock(), socket.socket(socket.AF_UNIX, kind) as listener:
        if paths.is_open(path):
            raise OSError(errno.EBUSY, "the device has a worker already", device)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        listener.bind(str(path))
        listener.listen(_BACKLOG)
        return listener.detach()


def accept(listener: socket.socket) -> Channel | None:
    """Return the next connection, or None if there is none.

    Raises:
        OSError: EMFILE, there are too many descriptors.
    """
    try:
        connection, _ = listener.accept()
    except (BlockingIOError, ConnectionAbortedError):
        return None
    return Channel(connection.detach())


def request(
    path: Path,
    device: str,
    *terms: Any,
    timeout: float,
    descriptors: int = 0,
    arriving: set[int] | None = None,
) -> tuple[list[Any], list[int], Channel]:
    """Ask a device's worker for something; wait over a restart of it.

    A worker that was killed between accepting and answering has done nothing that matters: its
    successor is asked again.

    Args:
        path: of the control socket.
        device: its name, for the errors.
        *terms: the request.
        timeout: seconds.
        descriptors: how many come with the answer.
        arriving: gets their numbers before a fork can take place: see ``receiving``.

    Returns:
        The answer, the descriptors that came with it, and the connection.

    Raises:
        DeviceError: ENODEV if there is no such device any more, ETIMEDOUT if its worker did not
            answer in so many seconds.
        OSError: what the worker answered; EMFILE if this process may not open so many
            descriptors as come with the answer.
    """
    deadline = time.monotonic() + timeout
    while True:
        channel = connect(path, device, deadline - time.monotonic())
        try:
            channel.send(*terms)
            answer, fds = _answer(channel, device, deadline, arriving)
        except (EOFError, BrokenPipeError, ValueError):
            channel.close()
            if time.monotonic() > deadline:
                raise _silent(device) from None
            continue
        except BaseException:
            channel.close()
            raise
        if isinstance(answer[0], Exception):
            _refuse(channel, fds, arriving)
            raise answer[0]
        if len(fds) < descriptors:  # the kernel leaves out those that there is no room for
            _refuse(channel, fds, arriving)
            raise OSError(errno.EMFILE, "this process may not open more descriptors", device)
        return answer, fds, channel


def _refuse(channel: Channel, fds: list[int], arriving: set[int] | None) -> None:
    if arriving is not None:
        arriving.clear()  # before their numbers are others'
    channel.close()
    close_all(fds)


def connect(path: Path, device: str, timeout: float) -> Channel:
    """Connect to a device's worker, or to the successor of one that was killed.

    Raises:
        DeviceError: ENODEV if there is no such device any more, ETIMEDOUT if there are too many
            connections that a worker has not accepted, for so many seconds.
    """
    deadline = time.monotonic() + timeout
    found = restoration.look_up(lambda: _connected(path, device, deadline))
    if found is None:
        raise _gone(device)
    return found


def _connected(path: Path, device: str, deadline: float) -> Channel | None:
    """Return a connection, or None if nobody listens there."""
    remaining = max(0.001, deadline - time.monotonic())
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    # A full queue makes a non-blocking connect fail at once: block, with the kernel's own timeout.
    timeout = struct.pack("@ll", int(remaining), int(remaining % 1 * 1_000_000))
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)
    try:
        client.connect(str(path))
        user = peer_of(client)[1]
        if user not in {0, os.geteuid(), os.getuid()}:  # who has made a removed directory again
            problem = f"user {user} listens in place of the device's worker"
            raise DeviceError(errno.EPERM, problem, device)
        return Channel(client.detach())
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
        return None
    except BlockingIOError:
        raise _silent(device) from None
    except PermissionError as error:
        problem = "the device belongs to another user: a program that changes its user must call"
        mend = "subscribe() and getfd() before the change"
        raise DeviceError(error.errno, f"{problem} {mend}", device) from None
    finally:
        client.close()


def _answer(
    channel: Channel, device: str, deadline: float, arriving: set[int] | None
) -> tuple[list[Any], list[int]]:
    poller = select.poll()
    poller.register(channel.fileno(), select.POLLIN)
    while True:
        with receiving:
            received = channel.receive()
            if received is not None and arriving is not None:
                arriving.update(received[1])
        if received is not None and received[0][0] not in UNASKED:
            return received
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise _silent(device)
        if received is None:
            poller.poll(remaining * 1000 + 1)


def _gone(device: str) -> DeviceError:
    return DeviceError(
        errno.ENODEV, "there is no such device: no worker serves it, any more or yet", device
    )


def _silent(device: str) -> DeviceError:
    return DeviceError(
        errno.ETIMEDOUT, "the device's worker does not answer: 'tuncer list' shows its pid", device
    )
