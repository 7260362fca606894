"""A Unix stream socket with msgpack between two processes. Usage: bare_unix.py call|cast N."""

import json
import os
import select
import socket
import sys
import tempfile
import time
from typing import Any

import msgpack

pack, unpack = msgpack.packb, msgpack.unpackb


def serve(end: socket.socket, number: int) -> None:
    """Serve calls, and count casts, as an actor's loop does: poll, receive, serve, answer."""
    poller, messages, counted = select.epoll(), msgpack.Unpacker(), 0
    poller.register(end, select.EPOLLIN)
    while True:
        poller.poll()
        data = end.recv(65536)
        if not data:
            return
        messages.feed(data)
        for kind, request, term in messages:
            if kind == 1:
                end.send(pack([2, request, term]))
            else:
                counted += 1
                if counted == number:
                    end.send(pack([2, request, counted]))


def main(kind: str, number: int) -> dict[str, float]:
    path = f"{tempfile.mkdtemp()}/s"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    child = os.fork()
    if child == 0:
        serve(listener.accept()[0], number)
        os._exit(0)
    end, poller = socket.socket(socket.AF_UNIX), select.poll()
    end.connect(path)
    poller.register(end, select.POLLIN)

    def call(request: int) -> Any:
        end.send(pack([1, request, "get"]))
        poller.poll(5000)
        return unpack(end.recv(65536))

    for request in range(number // 10):
        call(request)
    began = time.perf_counter()
    if kind == "call":
        for request in range(number):
            call(request)
        found = {"us": (time.perf_counter() - began) / number * 1e6}
    else:
        for _ in range(number):
            end.send(pack([0, 0, 1]))
        unpack(end.recv(65536))
        found = {"per_s": number / (time.perf_counter() - began)}
    end.close()
    os.waitpid(child, 0)
    return found


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]))))
