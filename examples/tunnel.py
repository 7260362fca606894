"""A point-to-point tunnel between two hosts, over UDP, with asyncio. Nothing is encrypted.

Run:    on one host:   sudo .venv/bin/python examples/tunnel.py 10.5.0.1/24 192.0.2.1 192.0.2.2
        on the other:  sudo .venv/bin/python examples/tunnel.py 10.5.0.2/24 192.0.2.2 192.0.2.1
        The arguments: this end's address in the tunnel, this host's address, the other host's.
See:    ping 10.5.0.2 on the first one. Unplug the hosts' link, and plug it in again: it goes on.
        Kill the device's worker: nobody notices.
"""

import asyncio
import contextlib
import sys

import tuncer
from tuncer import Device, Flag

PORT = 1194
MTU = 1500 - 20 - 8  # of the link, less an IPv4 and a UDP header


class Peer(asyncio.DatagramProtocol):
    """Writes what the other host sends to the device."""

    def __init__(self, device: Device, other: str) -> None:
        self.device, self.other = device, other

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        """Take a packet from the other host, and from nobody else."""
        if address == (self.other, PORT):
            with contextlib.suppress(OSError):  # it is no IP packet, or the device is down
                self.device.send(data)

    def error_received(self, error: Exception) -> None:
        """Go on: the other host is away."""
        print(f"{self.other}: {error}", flush=True)


async def main(inside: str, here: str, other: str) -> None:
    """Pass packets on, in both directions, until Ctrl-C."""
    loop = asyncio.get_running_loop()
    async with await tuncer.acreate("tunnel0", Flag.TUN | Flag.NO_PI) as device:
        await asyncio.to_thread(device.mtu, MTU)
        await device.aup(inside)
        transport, _ = await loop.create_datagram_endpoint(
            lambda: Peer(device, other), local_addr=(here, PORT)
        )
        print("ready", flush=True)
        async with await device.asubscribe(batch=True) as batches:
            async for batch in batches:
                for packet in batch.payloads():
                    transport.sendto(packet, (other, PORT))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(*sys.argv[1:]))
