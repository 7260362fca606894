"""Devices of tests."""

from processes import kill

from tuncer import Device, Flag

TUN, TAP = Flag.TUN | Flag.NO_PI, Flag.TAP | Flag.NO_PI
ADDRESS, OTHER = "10.9.0.1", "10.9.0.2"
"""A device's address, and one that is reached through it."""
LOOP = "ip6 protochain 17 or udp port 53"
"""A filter with a loop, which the kernel does not take: it runs in the worker."""


def kill_worker(dev: Device) -> None:
    """Kill the worker, and wait until it has ended."""
    kill(dev.pid)
