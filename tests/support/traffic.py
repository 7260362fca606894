"""Numbered UDP packets, and programs that the tests run beside them."""

import re
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from devices import ADDRESS, OTHER
from processes import PATIENCE

from tuncer import Batch, DeviceEvent, Packet

PORT = 9
UDP_SEGMENT = 103  # of linux/udp.h
FLOWS = 64
NUMBER = struct.Struct("!Q")

_SENDER = """
import socket, struct, sys, time
address, rate, count, tag = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
s.connect((address, 9))
pack = struct.Struct('!Q').pack
print('go', flush=True)
began = time.perf_counter()
n = 0
while n < count:
    due = min(count, int((time.perf_counter() - began) * rate) + 1)
    while n < due:
        s.send(pack(n))
        n += 1
print(time.perf_counter() - began, flush=True)
"""


def send_numbered(address: str, rate: float, count: int) -> subprocess.Popen[str]:
    """Start a process that sends packets 0, 1, ... to a port of an address, so many a second."""
    command = [sys.executable, "-c", _SENDER, address, str(rate), str(count), "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "go\n"
    return process


def number_of(data: bytes, tap: bool = False) -> int | None:
    """Return the number in a packet of ``send_numbered``, or None for any other packet."""
    packet = data[14:] if tap else data
    if len(packet) == 36 and packet[0] == 0x45 and packet[9] == 17:
        return int(NUMBER.unpack_from(packet, 28)[0])
    return None


def ping(run: Callable[..., str], *destination: str, count: int, interval: float = 0.02) -> None:
    """Ping until so many replies have come.

    ping(8) has a deadline, since without one it waits for its last reply for two round trips only.
    It then goes on to send until the replies are there, and may receive more of them.
    """
    printed = run("ping", "-c", str(count), "-i", str(interval), "-w", "20", *destination)
    found = re.search(r"(\d+) received", printed)
    assert found is not None, printed
    assert int(found[1]) >= count, printed


def send_one(address: str, payload: bytes = b"hello") -> None:
    """Send one UDP packet."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(payload, (address, PORT))


def send_large(size: int = 2500, each: int = 1000) -> bytes:
    """Send datagrams by one call, as one packet; return their payloads."""
    payload = bytes(number * 7 % 251 for number in range(size))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.SOL_UDP, UDP_SEGMENT, each)
        sender.sendto(payload, (OTHER, 9))
    return payload


def send_numbers(first: int, last: int) -> None:
    """Send packets of which the text is a number, before the last."""
    for number in range(first, last):
        send_one(OTHER, b"%d" % number)


def number_in(item: Any) -> int | DeviceEvent:
    """Return the number in a packet of ``send_numbers``; an event as it is."""
    return int(item.data[28:]) if isinstance(item, Packet) else item


def numbers(subscription: Any, count: int) -> list[int | DeviceEvent]:
    """Return the numbers in the next packets of ``send_numbers``, and the events between them."""
    found: list[int | DeviceEvent] = []
    while len(found) < count:
        item = subscription.recv(PATIENCE)
        found += map(number_in, item) if isinstance(item, Batch) else [number_in(item)]
    return found


def send_flows(first: int = 0, count: int = FLOWS, each: int = 1, port: int = PORT) -> None:
    """Send packets of many flows: a source port each."""
    for flow in range(first, first + count):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.bind((ADDRESS, 20_000 + flow))
            for number in range(each):
                sender.sendto(b"%05d.%05d" % (flow, number), (OTHER, port))


def flow_of(packet: Any) -> tuple[int, int]:
    """Return the flow of a packet of ``send_flows``, and its number in it."""
    flow, _, number = packet.data[28:].partition(b".")
    return int(flow), int(number)


def take(subscription: Any, count: int = 1) -> list[Packet]:
    """Return the next packets of a subscription that gives them one by one."""
    return [subscription.recv(PATIENCE) for _ in range(count)]


def reply_to(packet: bytes) -> bytes | None:
    """Return the answer to an ICMP echo request in an IPv4 packet, or None for anything else."""
    if len(packet) < 28 or packet[0] != 0x45 or packet[9] != 1 or packet[20] != 8:
        return None
    answer = bytearray(packet)
    answer[12:16], answer[16:20] = packet[16:20], packet[12:16]
    answer[20] = 0
    checksum = int.from_bytes(packet[22:24], "big") + 0x0800
    answer[22:24] = ((checksum & 0xFFFF) + (checksum >> 16)).to_bytes(2, "big")
    return bytes(answer)


def until(deadline: float) -> float:
    """Return the seconds until a time of ``time.monotonic``, at least 0."""
    return max(0.0, deadline - time.monotonic())
