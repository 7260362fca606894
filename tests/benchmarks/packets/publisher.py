"""The peer of our publisher: reads a TUN device, and sends by pyzmq what it reads.

Usage: python publisher.py KIND NAME ENDPOINT SECONDS. It prints "ready", and a line of JSON.

- messages: each packet is a message.
- bare: msgpack of up to 256 packets.
"""

import json
import os
import select
import sys
import time

import msgpack
import zmq

from tuncer import Flag, tunctl


def main() -> None:
    kind, name, endpoint, seconds = sys.argv[1:]
    fd = tunctl.create(name, Flag.TUN | Flag.NO_PI)
    tunctl.txqueuelen(fd, 10_000)
    tunctl.up(fd, "10.98.0.1/24", link_local=False)
    os.set_blocking(fd, False)
    context = zmq.Context()
    socket = context.socket(zmq.PUB)
    socket.setsockopt(zmq.SNDHWM, 100_000 if kind == "messages" else 512)
    socket.bind(endpoint)
    print("ready", flush=True)
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    while not poller.poll(10):  # tell subscribers that they are there
        socket.send(b"")
    end, count = time.monotonic() + float(seconds), 0
    while time.monotonic() < end:
        packets: list[bytes] = []
        try:
            while len(packets) < 256:
                packets.append(os.read(fd, 65535))
        except BlockingIOError:
            poller.poll(0 if packets else 100)
        if kind == "messages":
            for packet in packets:
                socket.send(packet)
        elif packets:
            socket.send(msgpack.packb(packets))
        count += len(packets)
    print(json.dumps({"read": count, "per_s": count / float(seconds)}))
    socket.close(1000)
    context.term()


if __name__ == "__main__":
    main()
