"""Devices of one program, and blows at random on whatever runs below its root."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from processes import PATIENCE, Run, children
from traffic import NUMBER, PORT, number_of

import tuncer
from supervisor import ActorError
from tuncer import Device, Flag, Subscription

KINDS = {
    "tun0": (Flag.TUN | Flag.NO_PI, 1),
    "tap0": (Flag.TAP | Flag.NO_PI, 1),
    "wide0": (Flag.TUN | Flag.NO_PI, 2),
}
PACKETS = 16
"""To each device, before and after each blow."""


def below(pid: int) -> list[int]:
    """Return all descendants of a process."""
    found = []
    for child in children(pid):
        found += [child, *below(child)]
    return found


class Lab:
    """Three devices, a subscriber of each, and senders to all."""

    def __init__(self, run: Run, stack: contextlib.ExitStack) -> None:
        self._run = run
        self.devices: dict[str, Device] = {}
        self._subscriptions: dict[str, Subscription] = {}
        self._senders: dict[str, list[socket.socket]] = {}
        self._sent = 0
        for number, (name, (flags, queues)) in enumerate(KINDS.items()):
            device = stack.enter_context(tuncer.create(name, flags, queues=queues))
            device.up(f"10.9.{number}.1/24", link_local=False)
            if Flag.TAP in flags:
                there = (f"10.9.{number}.2", "lladdr", "02:00:00:00:00:02", "dev", name)
                run("ip", "neighbor", "add", *there)
            self.devices[name] = device
            self._subscriptions[name] = stack.enter_context(device.subscribe())
            self._senders[name] = []
            for _ in range(4):  # flows, which the kernel spreads over the queues
                sender = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                sender.connect((f"10.9.{number}.2", PORT))
                self._senders[name].append(sender)
        self.root = int(Path(f"/proc/{self.devices['tun0'].pid}/stat").read_text().split()[3])
        self.before = self.links()

    def links(self) -> dict[str, object]:
        """Return what ``ip`` shows of the devices, but for their counters."""
        shown = json.loads(self._run("ip", "-j", "addr"))
        return {
            link["ifname"]: (link["ifindex"], link["flags"], str(link["addr_info"]))
            for link in shown
            if link["ifname"] in KINDS
        }

    def send(self) -> set[int]:
        """Send packets to each device; return their numbers."""
        numbers = set(range(self._sent, self._sent + PACKETS))
        self._sent += PACKETS
        for senders in self._senders.values():
            for number in numbers:
                senders[number % len(senders)].send(NUMBER.pack(number))
        return numbers

    def check(self, numbers: set[int]) -> None:
        """See that all links are as before, and that every subscriber gets these packets, once."""
        for name, subscription in self._subscriptions.items():
            missing, deadline = set(numbers), time.monotonic() + PATIENCE
            while missing:
                packet = subscription.recv(timeout=max(0.0, deadline - time.monotonic()))
                assert packet.lost == 0, name
                number = number_of(packet.data, tap=name == "tap0")
                if number is not None:
                    missing.remove(number)
        assert self.links() == self.before

    def settle(self) -> None:
        """Wait until every device answers."""
        for device in self.devices.values():
            deadline = time.monotonic() + PATIENCE
            while True:
                try:
                    device.statistics()
                    break
                except (ActorError, OSError):
                    assert time.monotonic() < deadline, device.name


@contextlib.contextmanager
def lab(run: Run) -> Iterator[Lab]:
    with contextlib.ExitStack() as stack:
        yield Lab(run, stack)


def strike(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def double_kill(there: Lab, chance: random.Random) -> None:
    """Kill two processes within 20 ms: supervisors and workers, but not the root."""
    victims = chance.sample(below(there.root), 2)
    strike(victims[0], signal.SIGKILL)
    time.sleep(chance.uniform(0.0, 0.02))
    others = below(there.root) or victims
    strike(chance.choice([victims[1], chance.choice(others)]), signal.SIGKILL)


def blow(there: Lab, chance: random.Random) -> None:
    """Kill, or stop and continue, a process; not the root."""
    victim = chance.choice(below(there.root))
    if chance.random() < 0.5:
        strike(victim, signal.SIGKILL)
        return
    strike(victim, signal.SIGSTOP)
    time.sleep(chance.uniform(0.0, 0.05))
    strike(victim, signal.SIGCONT)


def trial(run: Run, act: Callable[[Lab, random.Random], None], rounds: int, seed: int) -> None:
    """Do something to three devices, again and again; after each time all is as before."""
    chance = random.Random(seed)
    with lab(run) as there:
        for _ in range(rounds):
            numbers = there.send()
            act(there, chance)
            numbers |= there.send()
            there.settle()
            there.check(numbers)
