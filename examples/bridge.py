"""A learning switch over several TAPs: one actor, and for each port a device in its own process.

Run:    sudo .venv/bin/python examples/bridge.py NAMESPACE NAMESPACE ...
        Each is a network namespace: a name of "ip netns", a path, or the pid of a process in it. It
        gets an interface (port0, port1 ...) with an address (10.7.0.1/24, 10.7.0.2/24 ...).
See:    the namespaces reach one another. Kill the worker of a port: nobody notices.
"""

import contextlib
import sys
import time

import tuncer
from supervisor import ChildSpec, handler, run
from tuncer import Batch, Flag

AGE = 300.0  # seconds after which an address that has not sent is forgotten: IEEE 802.1D


class Bridge(tuncer.Follower):
    """Passes frames on to the port where their destination is, or to all others."""

    def init(self, namespaces: list[str | int]) -> None:
        """Follow the ports."""
        self.table: dict[bytes, tuple[str, float]] = {}
        self.ports = {
            f"port{number}": tuncer.attach(f"port{number}", where)
            for number, where in enumerate(namespaces)
        }
        for port in self.ports.values():
            self.follow(port)
        self.call_every(AGE / 10, self.forget)

    def handle_packets(self, batch: Batch) -> None:
        """Learn where frames come from, and pass them on."""
        now = time.monotonic()
        out: dict[str, list[bytes]] = {}
        for frame in batch.payloads():
            self.table[frame[6:12]] = batch.device, now
            known = self.table.get(frame[:6])
            for port in self.ports if known is None else [known[0]]:
                if port != batch.device:
                    out.setdefault(port, []).append(frame)
        for port, frames in out.items():
            with contextlib.suppress(OSError):  # it is down: on a wire these are lost, too
                self.ports[port].send(*frames)

    def forget(self) -> None:
        """Forget addresses that have not sent for long."""
        oldest = time.monotonic() - AGE
        self.table = {mac: seen for mac, seen in self.table.items() if seen[1] >= oldest}

    @handler
    def learnt(self) -> list[tuple[str, str]]:
        """Return the addresses, and the ports where they are."""
        return sorted((mac.hex(":"), port) for mac, (port, _) in self.table.items())


def main(arguments: list[str]) -> int:
    """Run the ports and the bridge until a signal comes."""
    namespaces = [int(where) if where.isdecimal() else where for where in arguments]
    ports = [
        tuncer.child_spec(
            f"port {number}",
            f"port{number}",
            Flag.TAP | Flag.NO_PI,
            namespace=where,
            addresses=[f"10.7.0.{number + 1}/24"],
        )
        for number, where in enumerate(namespaces)
    ]
    bridge = ChildSpec("bridge", Bridge, (namespaces,), name="bridge")
    return run([*ports, bridge], intensity=100)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
