"""A subscriber of a device, in a process of its own: counts until the device's end.

Usage: python subscriber.py KIND NAME [QUEUE]. It prints "ready", and at the end a line of JSON.

- batch, packet, lossless, queue (with its number): of the ring; batches are counted, or every
  packet is made.
- plain: of the wire format, by pyzmq and msgpack alone.
- messages, bare: of ``publisher.py``, a message a packet, or batches of 256.
"""

import json
import resource
import sys
from collections.abc import Iterator
from typing import Any

import msgpack
import zmq

import tuncer

QUIET = 1500  # ms after which the publisher has ended


def of_ring(kind: str, name: str, queue: int = 0) -> dict[str, int]:
    policy: Any = "lossless" if kind == "lossless" else "drop"
    dev = tuncer.attach(name)
    subscription = dev.subscribe(batch=kind != "packet", queue=queue, policy=policy)
    print("ready", flush=True)
    count = 0
    if kind != "packet":
        for batch in subscription:
            count += len(batch)
    else:
        for _ in subscription:
            count += 1
    stats = subscription.stats()
    assert stats["delivered"] == count
    return stats


def messages(endpoint: str, topic: str, high_water_mark: int) -> Iterator[list[bytes]]:
    context = zmq.Context()
    socket = context.socket(zmq.SUB)
    socket.setsockopt(zmq.RCVHWM, high_water_mark)
    socket.setsockopt(zmq.SUBSCRIBE, topic.encode())
    socket.connect(endpoint)
    socket.recv_multipart()  # the subscription is in force
    print("ready", flush=True)
    while socket.poll(QUIET):
        yield socket.recv_multipart()
    context.destroy(0)


def plain(name: str) -> dict[str, int]:
    delivered = lost = 0
    expected = 0
    for _, head, payload in messages(tuncer.attach(name).endpoint, name, 1000):
        header = msgpack.unpackb(head)
        packets = msgpack.unpackb(payload)
        lost += header["seq"] - expected
        expected = header["seq"] + len(packets)
        delivered += len(packets)
    return {"delivered": delivered, "lost": lost}


def of_publisher(kind: str, endpoint: str) -> dict[str, int]:
    count = 0
    for (data,) in messages(endpoint, "", 100_000 if kind == "messages" else 1000):
        if data:
            count += 1 if kind == "messages" else len(msgpack.unpackb(data))
    return {"delivered": count}


def main() -> None:
    kind, name, *queue = sys.argv[1:]
    if kind in {"batch", "packet", "queue", "lossless"}:
        found = of_ring(kind, name, *map(int, queue))
    else:
        found = plain(name) if kind == "plain" else of_publisher(kind, name)
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({**found, "cpu_s": used.ru_utime + used.ru_stime}))


if __name__ == "__main__":
    main()
