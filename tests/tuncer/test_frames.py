"""Where the headers of a packet begin."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packets import frame, ip, tcp

from tuncer.protocol.frames import IPV4, inside, ip_header

PACKET = ip(tcp(b"x"))


@pytest.mark.parametrize("tags", range(4))
def test_behind_vlan_tags(tags: int) -> None:
    assert inside(frame(PACKET, tags)) == (IPV4, 14 + 4 * tags)
    assert inside(b"--" + frame(PACKET, tags), 2) == (IPV4, 16 + 4 * tags)
    assert ip_header(frame(PACKET, tags), is_frame=True) == 14 + 4 * tags


def test_what_is_no_ip_packet() -> None:
    assert ip_header(PACKET, is_frame=False) == 0
    for data in (b"", b"\0" * 30, b"\x50"):
        assert ip_header(data, is_frame=False) is None
    arp = frame(PACKET)[:12] + b"\x08\x06" + PACKET
    for data in (b"", bytes(13), arp, frame(PACKET)[:14], frame(bytes(40))):
        assert ip_header(data, is_frame=True) is None


@given(st.binary(max_size=60))
def test_whatever_is_there(data: bytes) -> None:
    start = ip_header(data, is_frame=True)
    assert start is None or data[start] >> 4 in {4, 6}
