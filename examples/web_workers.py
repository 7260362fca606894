"""A web service that survives: a pool of workers behind a listening socket that outlives crashes.

    python examples/web_workers.py [PORT]           (no privileges needed; Ctrl-C stops it)

The front accepts connections and hands each request to a pool. Its listening socket lies with the
supervisor: if the front is killed, connections wait in the kernel for its successor, and none is
refused. If a worker is killed, its request goes to another one. Try it: while

    ab -r -n 20000 -c 8 http://127.0.0.1:8000/

runs, kill -9 any process that "python -m supervisor tree" shows below the root.
"""

import contextlib
import os
import socket
import sys
from functools import partial

from supervisor import (
    ActorError,
    CallFuture,
    ChildSpec,
    GenServer,
    Pool,
    PoolRef,
    handler,
    named,
    run,
)

MOST = 64 << 10  # bytes of a request's head


class Worker(GenServer):
    """Serves requests, one at a time."""

    @handler
    def serve(self, path: str) -> str:
        """Return a page."""
        return f"{path} was served by process {os.getpid()}\n"


class Front(GenServer):
    """Accepts connections, and reads and writes them; what is in between is the workers'."""

    def init(self, port: int) -> None:
        """Take up the listening socket of the last incarnation, or make one."""
        self.workers: PoolRef[Worker] = named("workers", PoolRef).within(5.0, retry=5.0)
        fd = self.stored_fds().get("listener")
        if fd is None:
            self.listener = socket.create_server(("127.0.0.1", port), backlog=4096)
            self.store_fd("listener", self.listener.fileno())
        else:
            self.listener = socket.socket(fileno=fd)
        self.listener.settimeout(0)
        self.add_reader(self.listener.fileno(), self.accept)

    @handler
    def port(self) -> int:
        """Return where it listens."""
        return int(self.listener.getsockname()[1])

    def accept(self) -> None:
        """Take a connection, if it is still there."""
        with contextlib.suppress(OSError):
            connection, _ = self.listener.accept()
            connection.settimeout(0)
            self.add_reader(connection.fileno(), partial(self.read, connection, bytearray()))

    def read(self, connection: socket.socket, head: bytearray) -> None:
        """Read the head of a request; when it is whole, ask the pool for the page."""
        try:
            data = connection.recv(4096)
        except OSError:
            data = b""
        head += data
        if data and b"\r\n\r\n" not in head and len(head) < MOST:
            return
        self.remove_reader(connection.fileno())
        if b"\r\n\r\n" not in head:
            connection.close()
            return
        path = head.split()[1].decode(errors="replace")
        try:
            page = self.workers.call_async(Worker.serve, path)
        except ActorError as error:  # the pool itself is being restarted
            self.write(connection, "503 Service Unavailable", f"{error}\n")
        else:
            page.add_done_callback(partial(self.answer, connection))

    def answer(self, connection: socket.socket, page: CallFuture[str]) -> None:
        """Answer by the page, or by why there is none."""
        if error := page.exception():
            self.write(connection, "503 Service Unavailable", f"{error}\n")
        else:
            self.write(connection, "200 OK", page.result())

    def write(self, connection: socket.socket, status: str, text: str) -> None:
        """Write a response, which finds room in the socket's buffer, and close the connection."""
        body = text.encode()
        head = f"HTTP/1.0 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        with connection, contextlib.suppress(OSError):  # who has asked may have gone
            connection.send(head.encode() + body)


def main(port: int) -> int:
    """Serve until a signal comes."""
    template = ChildSpec("worker", Worker)
    children = [
        ChildSpec("workers", Pool, (template,), {"size": 4, "intensity": 1000}, name="workers"),
        ChildSpec("front", Front, (port,), name="front"),
    ]
    return run(children, name="web", intensity=1000, period=10.0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 8000))
