"""A subscriber that knows nothing of tuncer but its wire format: pyzmq, msgpack and a page.

Usage: plain_subscriber.py ENDPOINT ...

It prints, as lines of JSON, how far it has got with each device.
"""

import json
import sys

import msgpack
import zmq


def main() -> None:
    """Subscribe to all endpoints, and count."""
    socket = zmq.Context().socket(zmq.SUB)
    socket.setsockopt(zmq.RECONNECT_IVL, 1)  # ms: back soon after a restart of the worker
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
    socket.setsockopt(zmq.SUBSCRIBE, b"")
    for endpoint in sys.argv[1:]:
        socket.connect(endpoint)
    expected: dict[tuple[str, int], int] = {}  # each queue of a device has numbers of its own
    streams: dict[tuple[str, int], int] = {}
    counts: dict[tuple[str, int], dict[str, int]] = {}
    while True:
        topic, header, payload = socket.recv_multipart()
        if topic.startswith(b"\0"):  # the answer to a handshake of some other subscriber
            continue
        device, head, packets = topic.decode(), msgpack.unpackb(header), msgpack.unpackb(payload)
        key = device, head.get("queue", 0)
        stream = head.get("stream")
        if streams.setdefault(key, stream) != stream:  # the numbers begin anew
            streams[key] = stream
            del expected[key]
        first = expected.setdefault(key, head["seq"])
        count = counts.setdefault(key, {"first": first, "received": 0, "lost": 0})
        count["lost"] += max(0, head["seq"] - first)
        seen = max(0, first - head["seq"])  # sent again after a restart: drop what was here before
        count["received"] += len(packets[seen:])
        expected[key] = count["next"] = max(first, head["seq"] + len(packets))
        if "end" in head:  # a device of the same name begins with other numbers
            del expected[key], streams[key]
        print(json.dumps({"device": device, **count}), flush=True)


if __name__ == "__main__":
    main()
