"""pyzmq's ROUTER and DEALER alone, between two processes. Usage: bare.py call|cast N."""

import json
import os
import sys
import tempfile
import time

import zmq


def serve(path: str, ready: int, kind: str, number: int) -> None:
    socket = zmq.Context().socket(zmq.ROUTER)
    socket.RCVHWM = 0
    socket.bind(path)
    os.write(ready, b"x")
    if kind == "call":
        while True:
            socket.send_multipart(socket.recv_multipart())
    for _ in range(number):
        sender, _ = socket.recv_multipart()
    socket.send_multipart([sender, b"done"])
    time.sleep(60)  # until it is killed


def main(kind: str, number: int) -> dict[str, float]:
    path = f"ipc://{tempfile.mkdtemp()}/s"
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        serve(path, writer, kind, number)
    os.read(reader, 1)
    socket = zmq.Context().socket(zmq.DEALER)
    socket.SNDHWM = 0
    socket.connect(path)
    if kind == "call":
        for _ in range(number // 10):
            socket.send(b"hello12345")
            socket.recv()
    began = time.perf_counter()
    if kind == "call":
        for _ in range(number):
            socket.send(b"hello12345")
            socket.recv()
        found = {"us": (time.perf_counter() - began) / number * 1e6}
    else:
        for _ in range(number):
            socket.send(b"hello12345")
        socket.recv()
        found = {"per_s": number / (time.perf_counter() - began)}
    os.kill(child, 9)
    os.waitpid(child, 0)
    return found


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]))))
