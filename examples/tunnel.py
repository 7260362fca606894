"""A point-to-point tunnel between two hosts: over UDP, or over TCP by ZeroMQ, encrypted (CURVE).

Run:    on one host:   sudo .venv/bin/python examples/tunnel.py 10.5.0.1/24 192.0.2.1 192.0.2.2
        on the other:  sudo .venv/bin/python examples/tunnel.py 10.5.0.2/24 192.0.2.2 192.0.2.1
        The arguments: this end's address in the tunnel, this host's address, the other host's.
        Over UDP nothing is encrypted. For CURVE each host makes itself a pair of keys,
                       .venv/bin/python examples/tunnel.py keys left
        and gives the other one left.key, the public one. Then both name their own secret key and
        the other's public one, as two more arguments: ... left.key_secret right.key
See:    ping 10.5.0.2 on the first one. Unplug the hosts' link, and plug it in again: it goes on.
        Kill the device's worker: nobody notices. docs/benchmarks.md has the throughput.
"""

import asyncio
import contextlib
import ipaddress
import os
import socket
import sys
from collections.abc import Sequence
from typing import Any

import zmq
import zmq.asyncio
import zmq.auth
from zmq.auth.asyncio import AsyncioAuthenticator

import tuncer
from tuncer import Device, Flag

PORT = 1194
UDP_MTU = 1500 - 20 - 8  # of the link, less an IPv4 and a UDP header
TCP_MTU = 1500  # TCP cuts packets as it likes
AT_ONCE = 64  # datagrams that are read before they are written
WAITING = 100  # batches that wait for the link: what comes while it is away is lost, as on a wire


def write(device: Device, packets: Sequence[bytes]) -> None:
    """Write what the other host has sent to the device, if these are IP packets."""
    found = [packet for packet in packets if packet and packet[0] >> 4 in {4, 6}]
    with contextlib.suppress(OSError):  # the device is down
        if found:
            device.send(*found)


async def over_udp(device: Device, here: str, other: str) -> None:
    """Send each packet of the device as a datagram, and write what comes."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        peer.bind((here, PORT))
        peer.connect((other, PORT))  # the kernel takes datagrams of nobody else
        peer.settimeout(0)

        def receive() -> None:
            packets: list[bytes] = []
            with contextlib.suppress(OSError):  # nothing more has come, or the other host is away
                while len(packets) < AT_ONCE:
                    packets.append(peer.recv(2048))
            write(device, packets)

        asyncio.get_running_loop().add_reader(peer, receive)
        async with await device.asubscribe(batch=True) as batches:
            print("ready", flush=True)
            async for batch in batches:
                for packet in batch.payloads():
                    with contextlib.suppress(OSError):  # it is away, or the link is full
                        peer.send(packet)


class OnlyPeer:
    """Lets in whoever has one key."""

    def __init__(self, key: bytes) -> None:
        self.key = key

    def callback(self, _: str, key: bytes) -> bool:
        """Tell whether a client is let in."""
        return key == self.key


def connected(context: Any, here: str, other: str, keys: Sequence[str]) -> Any:
    """Return a socket to the other host: the one with the lower address binds."""
    peer = context.socket(zmq.DEALER)
    peer.curve_publickey, peer.curve_secretkey = zmq.auth.load_certificate(keys[0])
    their_key, _ = zmq.auth.load_certificate(keys[1])
    peer.sndhwm = peer.rcvhwm = WAITING
    peer.immediate = 1  # nothing waits for a host that is away
    peer.linger = 0
    peer.heartbeat_ivl, peer.heartbeat_timeout = 1000, 3000  # milliseconds
    peer.reconnect_ivl, peer.reconnect_ivl_max = 100, 1000
    if int(ipaddress.ip_address(here)) < int(ipaddress.ip_address(other)):
        guard = AsyncioAuthenticator(context)
        guard.start()
        guard.configure_curve_callback("*", credentials_provider=OnlyPeer(their_key))
        peer.curve_server = True
        peer.bind(f"tcp://{here}:{PORT}")
    else:
        peer.curve_serverkey = their_key
        peer.connect(f"tcp://{here}:0;{other}:{PORT}")
    return peer


async def over_zeromq(device: Device, here: str, other: str, keys: Sequence[str]) -> None:
    """Send each batch of the device as a message, encrypted, and write what comes."""
    peer = connected(zmq.asyncio.Context(), here, other, keys)

    async def receive() -> None:
        while True:
            write(device, await peer.recv_multipart())

    receiving = asyncio.create_task(receive())
    async with await device.asubscribe(batch=True) as batches:
        print("ready", flush=True)
        async for batch in batches:
            with contextlib.suppress(zmq.Again):  # the other host is away, or too slow
                await peer.send_multipart(batch.payloads(), zmq.NOBLOCK)
    await receiving


async def main(inside: str, here: str, other: str, *keys: str) -> None:
    """Pass packets on, in both directions, until Ctrl-C."""
    async with await tuncer.acreate("tunnel0", Flag.TUN | Flag.NO_PI) as device:
        await asyncio.to_thread(device.mtu, TCP_MTU if keys else UDP_MTU)
        await device.aup(inside)
        if keys:
            await over_zeromq(device, here, other, keys)
        else:
            await over_udp(device, here, other)


if __name__ == "__main__":
    if sys.argv[1] == "keys":
        os.umask(0o077)  # nobody else reads the secret one
        zmq.auth.create_certificates(".", sys.argv[2])
    else:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(main(*sys.argv[1:]))
