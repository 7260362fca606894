"""One device, and programs that come and go: each gets every packet, or knows how many it missed.

Run:    sudo .venv/bin/python examples/sniffer_farm.py device        # makes lab0, until Ctrl-C
        sudo .venv/bin/python examples/sniffer_farm.py count         # packets a second
        sudo .venv/bin/python examples/sniffer_farm.py write FILE    # a pcapng file
        sudo .venv/bin/python examples/sniffer_farm.py alert TEXT    # packets with this text
See:    start and stop the latter three as you like: neither the device nor the others notice. Kill
        the device's worker: they go on.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import tuncer
from supervisor import run
from tuncer import Batch
from tuncer.protocol import pcapng


def device() -> int:
    """Run the device until a signal comes."""
    flags = tuncer.Flag.TUN | tuncer.Flag.NO_PI
    return run([tuncer.child_spec("lab0", "lab0", flags, addresses=["10.9.0.1/24"])])


def count(batch: Batch) -> None:
    """Print how many packets came, and what was missed."""
    print(f"{len(batch)} packets up to {batch.seqs[-1]}, {batch.lost} lost before", flush=True)


class Writer:
    """Writes packets to a file."""

    def __init__(self, path: str) -> None:
        self.file = Path(path).open("wb", buffering=0)  # noqa: SIM115 - until the program ends
        self.file.write(pcapng.section() + pcapng.interface("lab0", pcapng.RAW))

    def __call__(self, batch: Batch) -> None:
        """Write them with one call."""
        blocks = [pcapng.packet(0, packet.timestamp, packet.data) for packet in batch]
        self.file.write(b"".join(blocks))


class Alert:
    """Prints packets that have a text in them."""

    def __init__(self, text: str) -> None:
        self.text = text.encode()

    def __call__(self, batch: Batch) -> None:
        """Look at all bytes at once first."""
        if self.text in batch.data:
            for packet in batch:
                if self.text in packet.data and packet.ip:
                    when = time.strftime("%X", time.localtime(packet.timestamp // 10**9))
                    print(f"{when} {packet.ip.src} to {packet.ip.dst}: {self.text!r}", flush=True)


def main(role: str, *arguments: str) -> int:
    """Be the device, or one of those who listen."""
    if role == "device":
        return device()
    listeners: dict[str, Callable[..., Callable[[Batch], None]]] = {
        "count": lambda: count,
        "write": Writer,
        "alert": Alert,
    }
    listen = listeners[role](*arguments)
    with tuncer.attach("lab0").subscribe(batch=True) as batches:
        print("listening", flush=True)
        for batch in batches:
            listen(batch)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
