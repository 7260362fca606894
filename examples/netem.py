"""A bad link between two network namespaces: delay, loss, reordering, a limited rate. Like netem.

Run:    sudo .venv/bin/python examples/netem.py A B delay=20 loss=10 reorder=5 rate=8000000 seed=1
        A and B are network namespaces: names of "ip netns", paths, or pids of processes in them.
        They get the interfaces bad0 (10.4.0.1) and bad1 (10.4.0.2). delay is in milliseconds, each
        way; loss and reorder are percentages; rate is in bits a second. The same seed loses the
        same packets, by their numbers.
See:    what ping and iperf3 measure between 10.4.0.1 and 10.4.0.2.
"""

import contextlib
import heapq
import itertools
import random
import sys
import time

import tuncer
from supervisor import ChildSpec, run
from supervisor.lowlevel import Timer
from tuncer import Batch, Flag


class Link:
    """One direction of the link: when a packet arrives at the other end, if it does."""

    def __init__(self, delay: float, loss: float, reorder: float, rate: float, seed: int) -> None:
        self.delay, self.loss, self.reorder, self.rate = delay / 1000, loss, reorder, rate
        self.chance = random.Random(seed)  # noqa: S311 - no secret
        self.free_at = 0.0  # when the link has sent what is under way

    def arrival(self, now: float, size: int) -> float | None:
        """Return when a packet of so many bytes arrives; None: it is lost."""
        if self.chance.uniform(0, 100) < self.loss:
            return None
        if self.rate:
            self.free_at = max(now, self.free_at) + size * 8 / self.rate
            now = self.free_at
        is_early = self.chance.uniform(0, 100) < self.reorder  # it overtakes those before it
        return now if is_early else now + self.delay


class Netem(tuncer.Follower):
    """Holds packets back, each as long as its link takes."""

    def init(self, namespaces: list[str | int], options: dict[str, float]) -> None:
        """Follow both ends."""
        told = {"delay": 0.0, "loss": 0.0, "reorder": 0.0, "rate": 0.0} | options
        seed = int(told.pop("seed", 0))
        names = ["bad0", "bad1"]
        ends = [tuncer.attach(*pair) for pair in zip(names, namespaces, strict=True)]
        self.links = {name: Link(**told, seed=seed + n) for n, name in enumerate(names)}
        self.others = {"bad0": ends[1], "bad1": ends[0]}
        self.waiting: list[tuple[float, int, str, bytes]] = []
        self.numbers = itertools.count()
        self.timer: Timer | None = None
        for end in ends:
            self.follow(end)

    def handle_packets(self, batch: Batch) -> None:
        """Decide when each packet arrives."""
        link, now = self.links[batch.device], time.monotonic()
        for data in batch.payloads():
            at = link.arrival(now, len(data))
            if at is not None:
                heapq.heappush(self.waiting, (at, next(self.numbers), batch.device, data))
        self.deliver()

    def deliver(self) -> None:
        """Deliver what is due; come back when the next one is."""
        while self.waiting and self.waiting[0][0] <= time.monotonic():
            _, _, device, data = heapq.heappop(self.waiting)
            with contextlib.suppress(OSError):  # the end is down
                self.others[device].send(data)
        if self.timer is not None:
            self.cancel_timer(self.timer)
        self.timer = None
        if self.waiting:
            left = self.waiting[0][0] - time.monotonic()
            self.timer = self.call_later(max(0.0, left), self.deliver)


def main(arguments: list[str]) -> int:
    """Run the link until a signal comes."""
    namespaces = [int(where) if where.isdecimal() else where for where in arguments[:2]]
    options = {name: float(value) for name, value in (one.split("=") for one in arguments[2:])}
    ends = [
        tuncer.child_spec(
            f"end {number}",
            f"bad{number}",
            Flag.TUN | Flag.NO_PI,
            namespace=where,
            addresses=[f"10.4.0.{number + 1}/24"],
        )
        for number, where in enumerate(namespaces)
    ]
    netem = ChildSpec("netem", Netem, (namespaces, options), name="netem")
    return run([*ends, netem], intensity=100)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
