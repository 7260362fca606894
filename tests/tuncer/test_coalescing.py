"""Ordinary packets put together to large ones: what was put together can be cut again."""

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packets import ACK, FIN, PSH, SYN, frame, ip, large_tcp, problems, tcp, udp

from tuncer import GsoType, VnetHdr
from tuncer.offload import coalescing
from tuncer.offload.checksum import PLAIN
from tuncer.offload.coalescing import coalesce
from tuncer.offload.segmentation import segment


def segments(count: int = 4, size: int = 100, last: int = 50, version: int = 4, **of: Any) -> Any:
    packet, header = large_tcp(size * (count - 1) + last, size, version=version, **of)
    return segment(packet, header).payloads()


def taken_apart(frames: list[bytes], *, is_frame: bool = False) -> list[bytes]:
    """Return the packets that the kernel makes of what is written."""
    found: list[bytes] = []
    for one in frames:
        header = VnetHdr.parse(one)
        cut = header.gso_type != GsoType.NONE
        found += (
            segment(header.payload, header, is_frame=is_frame).payloads()
            if cut
            else [header.payload]
        )
    return found


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("size", [100, 101])
def test_segments_become_one_packet(version: int, size: int) -> None:
    parts = segments(4, size, version=version, flags=ACK | PSH)
    (one,) = coalesce(parts)
    header = VnetHdr.parse(one)
    assert (header.flags, header.gso_size) == (1, size)
    assert header.hdr_len == header.csum_start + 20
    assert problems(header.payload) == ["its checksum"]  # the sum of the pseudo-header
    assert taken_apart([one]) == parts


def test_frames_become_one_frame() -> None:
    parts = [frame(part, 1) for part in segments()]
    (one,) = coalesce(parts, is_frame=True)
    assert taken_apart([one], is_frame=True) == parts
    assert coalesce(parts) == [PLAIN + part for part in parts]  # none is an IP packet


def changed(packet: bytes, place: int, value: int) -> bytes:
    return packet[:place] + bytes([value]) + packet[place + 1 :]


def follower(**of: Any) -> bytes:
    options = {key: of.pop(key) for key in ("identification", "fragment", "lifetime") if key in of}
    return ip(tcp(b"b" * 100, **{"number": 101, **of}), **{"identification": 8, **options})


FIRST = ip(tcp(b"a" * 100, number=1))
OTHERS = {
    "a gap": follower(number=102),
    "the same again": FIRST,
    "another flow": follower(ports=(1000, 2001)),
    "an end": follower(flags=ACK | FIN),
    "a beginning": follower(flags=SYN),
    "options": follower(options=b"\1\1\1\1"),
    "a shorter life": follower(lifetime=63),
    "a fragment": follower(fragment=0x2000),
    "may be fragmented": follower(fragment=0),
    "a wrong checksum": changed(follower(), 60, 0),
    "a wrong IP checksum": changed(follower(), 10, 1),
    "a wrong length": follower() + b"\0",
    "UDP": ip(udp(b"x" * 100), protocol=17),
    "no payload": ip(tcp(b"", number=101)),
    "longer": ip(tcp(b"b" * 101, number=101)),
    "no IP": b"\0" * 60,
    "short": b"\x45",
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_what_does_not_follow_goes_alone(other: bytes) -> None:
    for packets in ([FIRST, other], [other, FIRST], [other, other]):
        assert coalesce(packets) == [PLAIN + packet for packet in packets]


def test_what_follows_is_put_together() -> None:
    assert len(coalesce([FIRST, follower()])) == 1
    pushed = ip(tcp(b"a" * 100, number=1, flags=ACK | PSH))
    assert len(coalesce([pushed, follower()])) == 2  # the receiver is to have it now
    short = ip(tcp(b"b" * 50, number=101), identification=8)
    after = ip(tcp(b"c" * 50, number=151), identification=9)
    assert len(coalesce([FIRST, short, after])) == 2


@pytest.mark.parametrize("fragment", [0, 0x4000])
def test_identifications_follow_one_another(fragment: int) -> None:
    first = ip(tcp(b"a" * 100, number=1), identification=0xFFFF, fragment=fragment)
    assert len(coalesce([first, follower(identification=0, fragment=fragment)])) == 1
    assert len(coalesce([first, follower(identification=1, fragment=fragment)])) == 2


def test_no_packet_is_longer_than_ip_allows() -> None:
    parts = segments(40, 1000, 1000) + segments(30, 1000, 1000, number=40_001, identification=47)
    frames = coalesce(parts)
    assert max(map(len, frames)) <= 65535 + len(PLAIN)
    assert len(frames) == 2
    assert b"".join(one[40:] for one in taken_apart(frames)) == b"".join(p[40:] for p in parts)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 300), st.sampled_from([4, 6]))
def test_nothing_is_changed_or_lost(seed: int, count: int, size: int, version: int) -> None:
    """Several flows, mixed, some packets missing or wrong: what comes out is what went in."""
    chance = random.Random(seed)
    flows = [
        segments(count, size, chance.randint(1, size), version, number=chance.randrange(2**32))
        for _ in range(3)
    ]
    packets: list[bytes] = []
    while any(flows):
        flow = chance.choice([one for one in flows if one])
        for packet in flow[: chance.randint(1, count)]:
            flow.remove(packet)
            what = chance.random()
            if what < 0.1:
                place, value = chance.randrange(len(packet)), chance.randrange(256)
                packets.append(changed(packet, place, value))
            elif what < 0.9:
                packets.append(packet)
    frames = coalesce(packets)
    assert len(frames) <= len(packets)
    assert taken_apart(frames) == packets


def test_without_numpy_packets_go_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coalescing, "np", None)
    parts = segments()
    assert coalesce(parts) == [PLAIN + part for part in parts]
