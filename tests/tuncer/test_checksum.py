"""Checksums that the kernel has left to whoever sends the packet."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packets import checksum, large_tcp, large_udp, problems

from tuncer import GsoType, VnetHdr
from tuncer.offload.checksum import complete, ones_complement_sum


@given(st.binary(max_size=100))
def test_a_sum_is_the_one_of_rfc_1071(data: bytes) -> None:
    assert (65535 - ones_complement_sum(data)) % 65535 == checksum(data) % 65535


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("size", [1, 2, 999, 1000])
def test_packets_are_completed(version: int, size: int) -> None:
    for packet, header in (
        large_tcp(size, 0, version=version),
        large_udp(size, 0, version=version),
    ):
        whole = header._replace(gso_type=GsoType.NONE)
        assert problems(packet) == ["its checksum"]
        assert problems(complete(packet, whole)) == []


def test_a_udp_checksum_of_0_is_sent_as_65535() -> None:
    packet, header = large_udp(2, 0)
    rest = checksum(packet[20:26] + packet[26:28] + b"\0\0")
    packet = packet[:28] + rest.to_bytes(2, "big")  # now the sum is 65535
    assert complete(packet, header)[26:28] == b"\xff\xff"


@pytest.mark.parametrize(("start", "offset"), [(29, 0), (0, 29), (65535, 65535)])
def test_a_field_outside_of_the_packet(start: int, offset: int) -> None:
    with pytest.raises(ValueError, match="checksum"):
        complete(bytes(30), VnetHdr(1, 0, 0, 0, start, offset))
