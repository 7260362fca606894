"""A DHCP server on a TAP, in 40 lines: gives one address, over and over (RFC 2131).

Run:    sudo unshare --net bash
        .venv/bin/python examples/dhcp_server.py &
        udhcpc -i lab0 -n -q -f        (or: dhclient -1 -v lab0)
See:    "lease of 10.8.0.50 obtained", and a line for each message here.
"""

import ipaddress
import struct

import tuncer

SERVER, LEASED = ipaddress.ip_address("10.8.0.1"), ipaddress.ip_address("10.8.0.50")
MAC = bytes.fromhex("020000000001")
ANSWERS = {1: 2, 3: 5}  # DISCOVER: OFFER, REQUEST: ACK
FILTER = "udp and src port 68 and dst port 67"


def message_type(bootp: bytes) -> int:
    """Return what option 53 says, or 0."""
    place = 240  # after the magic cookie
    while place + 2 < len(bootp) and bootp[place] != 255:  # the end
        if bootp[place] == 53:
            return bootp[place + 2]
        place += 2 + bootp[place + 1] if bootp[place] else 1
    return 0


def answer(frame: bytes) -> bytes | None:
    """Return the frame that answers a client's, or None."""
    bootp = frame[14 + (frame[14] & 15) * 4 + 8 :]
    if (kind := ANSWERS.get(message_type(bootp))) is None:
        return None
    options = bytes([53, 1, kind, 54, 4]) + SERVER.packed + b"\x33\x04" + struct.pack("!I", 3600)
    options += b"\x01\x04\xff\xff\xff\x00\x03\x04" + SERVER.packed + b"\xff"
    fixed = b"\x02" + bootp[1:16] + LEASED.packed + SERVER.packed + bootp[24:44] + bytes(192)
    reply = fixed + bootp[236:240] + options
    udp = struct.pack("!HHHH", 67, 68, 8 + len(reply), 0) + reply
    ip = struct.pack("!BBHIBBH", 0x45, 0, 20 + len(udp), 0, 64, 17, 0) + SERVER.packed + b"\xff" * 4
    total: int = sum(struct.unpack("!10H", ip))
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return b"\xff" * 6 + MAC + b"\x08\0" + ip[:10] + checksum.to_bytes(2, "big") + ip[12:] + udp


def main() -> None:
    """Serve until Ctrl-C."""
    with tuncer.create("lab0", tuncer.Flag.TAP | tuncer.Flag.NO_PI) as dev:
        dev.up()
        print(f"{dev.name}: the {dev.filter(FILTER)} passes on only DHCP", flush=True)
        for packet in dev.subscribe():
            if reply := answer(packet.data):
                dev.send(reply)
                print(f"{packet.data[6:12].hex(':')} was told {LEASED}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("bye")
