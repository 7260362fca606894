"""A packet's length, from its own headers."""

from hypothesis import given
from hypothesis import strategies as st

from tuncer.worker.packet_length import frame_length, ip_length


@given(st.binary(min_size=0, max_size=100), st.integers(0, 2), st.sampled_from([4, 6]))
def test_a_packet_says_how_long_it_is(payload: bytes, tags: int, version: int) -> None:
    if version == 4:
        packet = b"\x45\x00" + (20 + len(payload)).to_bytes(2, "big") + bytes(16) + payload
    else:
        packet = b"\x60\0\0\0" + len(payload).to_bytes(2, "big") + b"\x3b" + bytes(33) + payload
    kind = b"\x08\x00" if version == 4 else b"\x86\xdd"
    frame = bytes(12) + b"\x81\x00\x00\x05" * tags + kind + packet
    rest = b"left over from an earlier packet"
    assert ip_length(memoryview(packet + rest)) == len(packet)
    assert frame_length(memoryview(frame + rest)) == len(frame)


def test_what_says_nothing_of_its_length_is_not_guessed() -> None:
    assert frame_length(memoryview(bytes(12) + b"\x08\x06" + bytes(50))) == 42
    assert frame_length(memoryview(bytes(12) + b"\x88\xcc" + bytes(50))) is None
    assert ip_length(memoryview(bytes(60))) is None
