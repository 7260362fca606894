"""What tests do with devices."""

from processes import kill

from tuncer import Device


def kill_worker(dev: Device) -> None:
    """Kill the worker, and wait until it has ended."""
    kill(dev.pid)
