"""Those who speak to a mailbox by themselves: raw sockets, with or without the protocol."""

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

from processes import PATIENCE, eventually

from supervisor import linux
from supervisor.protocol import codec, framing
from supervisor.protocol import runtime_dir as runtime


@contextlib.contextmanager
def stranger(pid: int) -> Iterator[socket.socket]:
    """Connect to the mailbox of a process."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connected:
        connected.settimeout(PATIENCE)
        connected.connect(str(runtime.mailbox(linux.process(pid))))
        yield connected


def say(connected: socket.socket, message: Any) -> None:
    """Send a message."""
    connected.sendall(message if isinstance(message, bytes) else codec.pack(message))


def hear(connected: socket.socket) -> Any:
    """Return the next answer; None at the end."""
    frames = framing.frames(codec.LIMIT)
    while data := connected.recv(1):  # and so nothing of the next one
        frames.feed(data)
        for answer in frames:
            return codec.unpack(answer)
    return None


def is_closed(connected: socket.socket) -> bool:
    """Wait until the other side has closed the connection; tell whether it has."""
    try:
        eventually(lambda: not (connected.recv(65536)))
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False
    return True
