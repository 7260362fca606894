"""The host of the demo, which answers ARP requests and pings."""

from hypothesis import given
from hypothesis import strategies as st

from tuncer.cli.echo import Host

THERE, HERE = bytes([10, 9, 0, 1]), bytes([10, 9, 0, 2])


def checksum(data: bytes) -> int:
    """RFC 1071's, of which a whole packet's is 0."""
    data += bytes(len(data) % 2)
    total = sum(int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def request(identifier: bytes, payload: bytes) -> bytes:
    echo = b"\x08\0\0\0" + identifier + payload
    echo = echo[:2] + checksum(echo).to_bytes(2, "big") + echo[4:]
    header = b"\x45\0" + (20 + len(echo)).to_bytes(2, "big") + b"\0\0\0\0\x40\x01\0\0"
    header += THERE + HERE
    return header[:10] + checksum(header).to_bytes(2, "big") + header[12:] + echo


@given(st.binary(min_size=4, max_size=4), st.binary(max_size=60))
def test_a_ping_is_answered_with_right_checksums(identifier: bytes, payload: bytes) -> None:
    reply = Host("10.9.0.2", frames=False).answer(request(identifier, payload))
    assert reply is not None
    assert (reply[12:16], reply[16:20], reply[20]) == (HERE, THERE, 0)
    assert reply[24:] == identifier + payload
    assert checksum(reply[:20]) == 0
    assert checksum(reply[20:]) in {0, 0xFFFF}  # the two zeros of one's complement


def test_an_arp_request_is_answered() -> None:
    mac = bytes.fromhex("02000a090001")
    arp = b"\0\1\x08\0\6\4\0\1" + mac + THERE + bytes(6) + HERE
    frame = b"\xff" * 6 + mac + b"\x08\x06" + arp
    reply = Host("10.9.0.2", frames=True).answer(frame)
    assert reply is not None
    assert reply[:6] == mac
    assert reply[14:] == b"\0\1\x08\0\6\4\0\2" + reply[6:12] + HERE + mac + THERE
    assert Host("10.9.0.3", frames=True).answer(frame) is None


@given(st.binary(max_size=80), st.booleans())
def test_any_bytes_are_answered_or_not(data: bytes, frames: bool) -> None:
    answer = Host("10.9.0.2", frames=frames).answer(data)
    assert answer is None or len(answer) == len(data)
