"""A DNS server for a lab, on a TUN: answers for the names in a table (RFC 1035).

Run:    sudo .venv/bin/python examples/lab_dns.py web=10.9.0.80 db=10.9.0.90
        and then, say: dig @10.9.0.53 web.lab, or "nameserver 10.9.0.53" in /etc/resolv.conf
See:    a line for each question. What is not in the table does not exist (NXDOMAIN).
"""

import ipaddress
import struct
import sys

import tuncer

ZONE = "lab"
A, IN = 1, 1  # a host address, the Internet
TTL = 60  # seconds


def question_in(message: bytes) -> tuple[str, int, int] | None:
    """Return the name and the type that a DNS message asks for, and where the question ends."""
    labels, place = [], 12
    while place < len(message) and message[place]:
        size = message[place]
        labels.append(message[place + 1 : place + 1 + size].decode("ascii", "replace").lower())
        place += 1 + size
    end = place + 5  # after the root label, the type and the class
    is_query = len(message) >= end and not message[2] & 0x80
    return (
        (".".join(labels), int.from_bytes(message[end - 4 : end - 2], "big"), end)
        if is_query
        else None
    )


def reply_to(message: bytes, hosts: dict[str, bytes]) -> bytes | None:
    """Return the answer to a DNS message, if it is a question."""
    asked = question_in(message)
    if asked is None:
        return None
    name, kind, end = asked
    address = hosts.get(name)
    answers = b""
    if address is not None and kind == A:  # 0xC00C: the name of the question
        answers = struct.pack("!HHHIH", 0xC00C, A, IN, TTL, 4) + address
    flags = 0x8580 if address is not None else 0x8583  # an authoritative answer; NXDOMAIN
    head = message[:2] + struct.pack("!HHHHH", flags, 1, bool(answers), 0, 0)
    print(f"{name}: {ipaddress.ip_address(address) if address else 'there is none'}", flush=True)
    return head + message[12:end] + answers


def back(packet: tuncer.Packet, payload: bytes) -> bytes:
    """Return a datagram to where a packet came from; IPv4 needs no checksum of UDP."""
    assert packet.ip is not None
    begin = packet.ip.start
    length = 8 + len(payload)
    udp = packet.data[begin + 2 : begin + 4] + packet.data[begin : begin + 2]
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 0, 0, 64, 17, 0)
    head += packet.data[16:20] + packet.data[12:16]
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = 0xFFFF - (total & 0xFFFF) - (total >> 16)
    return (
        head[:10]
        + struct.pack("!H", checksum)
        + head[12:]
        + udp
        + struct.pack("!HH", length, 0)
        + payload
    )


def main(arguments: list[str]) -> None:
    """Answer until Ctrl-C."""
    pairs = (argument.split("=") for argument in arguments)
    hosts = {f"{name}.{ZONE}": ipaddress.IPv4Address(address).packed for name, address in pairs}
    with tuncer.create("lab0", tuncer.Flag.TUN | tuncer.Flag.NO_PI) as device:
        device.filter("ip and udp and dst host 10.9.0.53 and dst port 53")
        with device.subscribe() as packets:
            device.up("10.9.0.1/24")
            for packet in packets:
                if packet.ip is not None and packet.ip.fragment is None:
                    reply = reply_to(packet.data[packet.ip.start + 8 :], hosts)
                    if reply is not None:
                        device.send(back(packet, reply))


if __name__ == "__main__":
    main(sys.argv[1:])
