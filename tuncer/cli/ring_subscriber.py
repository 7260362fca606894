"""A subscriber of ours: it reads the rings, answers what asks for an answer, and counts.

Usage: python -m tuncer.cli.ring_subscriber DEVICE=ADDRESS ...

It is the host with these addresses at the other end of each device, and prints, as lines of
JSON, how far it has got with each.
"""

import json
import select
import sys

import tuncer
from tuncer import Batch, Flag
from tuncer.cli import echo


def main() -> None:
    """Subscribe to all devices, answer and count."""
    poller = select.poll()
    followed = {}
    for argument in sys.argv[1:]:
        name, _, address = argument.partition("=")
        device = tuncer.attach(name)
        subscription = device.subscribe(batch=True)
        answer = echo.Host(address, frames=Flag.TAP in device.flags()).answer
        followed[subscription.fileno()] = (device, subscription, answer)
        poller.register(subscription.fileno(), select.POLLIN)
    counts: dict[str, dict[str, int]] = {}
    while True:
        for fd in [fd for fd, _ in poller.poll()]:
            device, subscription, answer = followed[fd]
            while (packets := _batch(subscription)) is not None:
                first = packets[0].seq - packets[0].lost
                count = counts.setdefault(device.name, {"first": first, "received": 0})
                count["received"] += len(packets)
                count["lost"] = subscription.stats()["lost"]
                count["next"] = packets[-1].seq + 1
                answers = [a for packet in packets if (a := answer(packet.data)) is not None]
                if answers:
                    device.send(*answers)
                print(json.dumps({"device": device.name, **count}), flush=True)


def _batch(subscription: tuncer.Subscription[Batch]) -> Batch | None:
    try:
        return subscription.recv(timeout=0)
    except TimeoutError:
        return None


if __name__ == "__main__":
    main()
