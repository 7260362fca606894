"""The door of a device: a Unix socket where others get descriptors, and find the worker.

Requests and answers are messages of ``supervisor.channel``. The listening descriptor lies in the
fd store: during a restart a request waits in its queue for the next worker, and when worker and
supervisors are gone for good, it is refused.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import time
from pathlib import Path
from typing import Any

from supervisor.channel import Channel, close_all
from tuncer.packet import DeviceError

_BACKLOG = 64


def listen(path: Path) -> int:
    """Return a descriptor that listens at a path, which is taken over from a dead device."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as listener:
        listener.bind(str(path))
        listener.listen(_BACKLOG)
        listener.setblocking(False)
        return listener.detach()


def path(listener: int) -> Path:
    """Return the path that a descriptor listens at."""
    with socket.socket(fileno=os.dup(listener)) as door:
        return Path(door.getsockname())


def accept(listener: int) -> Channel | None:
    """Return the next connection, or None if there is none."""
    with socket.socket(fileno=os.dup(listener)) as door:
        try:
            connection, _ = door.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return None
    return Channel(connection.detach())


def knock(
    path: Path, device: str, request: str, timeout: float, descriptors: int = 0
) -> tuple[list[Any], list[int], Channel]:
    """Ask a device's worker for something; wait over a restart of it.

    A worker that was killed between accepting and answering has done nothing that matters: its
    successor is asked again.

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
        channel = _connect(path, device, deadline)
        try:
            channel.send(request)
            answer, fds = _answer(channel, device, deadline)
        except (EOFError, BrokenPipeError):
            channel.close()
            continue
        except BaseException:
            channel.close()
            raise
        if isinstance(answer[0], Exception):
            channel.close()
            close_all(fds)
            raise answer[0]
        if len(fds) < descriptors:  # the kernel leaves out those that there is no room for
            channel.close()
            close_all(fds)
            raise OSError(errno.EMFILE, "this process may not open more descriptors", device)
        return answer, fds, channel


def _connect(path: Path, device: str, deadline: float) -> Channel:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        client.settimeout(max(0.001, deadline - time.monotonic()))
        client.connect(str(path))
    except (FileNotFoundError, ConnectionRefusedError):
        client.close()
        raise _gone(device) from None
    except TimeoutError:
        client.close()
        raise _silent(device) from None
    return Channel(client.detach())


def _answer(channel: Channel, device: str, deadline: float) -> tuple[list[Any], list[int]]:
    poller = select.poll()
    poller.register(channel.fileno(), select.POLLIN)
    while True:
        received = channel.receive()
        if received is not None:
            return received
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise _silent(device)
        poller.poll(remaining * 1000 + 1)


def _gone(device: str) -> DeviceError:
    return DeviceError(errno.ENODEV, "there is no such device of tuncer, or no more", device)


def _silent(device: str) -> DeviceError:
    return DeviceError(errno.ETIMEDOUT, "the device's worker does not answer", device)
