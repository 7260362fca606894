"""Answers the kernel's pings on a TUN.

Run:    sudo .venv/bin/python examples/ping_responder.py
        and in another terminal: ping 10.9.0.2
        (nothing on the host changes if both run in one: sudo unshare --net bash)
See:    a line for each ping, and ping(8) happy. Ctrl-C ends it, and the interface goes with it.
        Kill the worker meanwhile (its pid is in the first line): ping misses nothing.
"""

import tuncer

ECHO_REQUEST, ECHO_REPLY, ICMP = 8, 0, 1


def reply_to(packet: bytes) -> bytes | None:
    """Return the reply to an ICMP echo request over IPv4 (RFC 792), or None for anything else."""
    if len(packet) < 28 or packet[0] != 0x45 or packet[9] != ICMP or packet[20] != ECHO_REQUEST:
        return None
    source, destination = packet[12:16], packet[16:20]
    # The type goes from 8 to 0, so the one's complement checksum grows by 8 in its high byte.
    checksum = int.from_bytes(packet[22:24], "big") + (ECHO_REQUEST << 8)
    checksum = (checksum & 0xFFFF) + (checksum >> 16)
    head = bytes([ECHO_REPLY, 0]) + checksum.to_bytes(2, "big")
    return packet[:12] + destination + source + head + packet[24:]


def main() -> None:
    """Answer until Ctrl-C."""
    with tuncer.create("lab0", tuncer.Flag.TUN | tuncer.Flag.NO_PI) as dev:
        dev.up("10.9.0.1/24")
        print(f"{dev.name} is up, its worker is process {dev.pid}: ping 10.9.0.2", flush=True)
        for packet in dev.subscribe():
            reply = reply_to(packet.data)
            if reply is not None:
                dev.send(reply)
                print(f"packet {packet.seq}: answered {len(reply)} bytes", flush=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("bye")
