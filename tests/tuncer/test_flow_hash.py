"""The flow of a packet: the same for both directions, and spread over queues."""

import struct
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from processes import PATIENCE
from traffic import FLOWS, flow_of, send_flows

from tuncer import Device
from tuncer.client import flow_hash

UDP = 17
PORTS = st.integers(0, 65535)


def ip4(source: bytes, target: bytes, protocol: int, rest: bytes, fragment: int = 0) -> bytes:
    size = 20 + len(rest)
    return struct.pack("!BBHHHBBH", 0x45, 0, size, 1, fragment, 64, protocol, 0) + (
        source + target + rest
    )


def ip6(source: bytes, target: bytes, protocol: int, rest: bytes) -> bytes:
    return struct.pack("!IHBB", 6 << 28, len(rest), protocol, 64) + source + target + rest


@given(
    st.sampled_from([(ip4, 4), (ip6, 16)]),
    st.data(),
    st.sampled_from([1, 6, 17, 33, 58, 132]),
    PORTS,
    PORTS,
)
def test_both_directions_are_one_flow(
    kind: tuple[object, int], data: st.DataObject, protocol: int, here: int, there: int
) -> None:
    make, size = kind
    a, b = (data.draw(st.binary(min_size=size, max_size=size)) for _ in range(2))
    one = make(a, b, protocol, struct.pack("!HH", here, there) + bytes(8))  # type: ignore[operator]
    other = make(b, a, protocol, struct.pack("!HH", there, here) + bytes(8))  # type: ignore[operator]
    assert flow_hash.of_packet(one) == flow_hash.of_packet(other) > 0
    tagged = b"\x81\x00\0\7" * 2
    frame = bytes(6) + bytes([2] * 6) + tagged + (b"\x08\0" if size == 4 else b"\x86\xdd") + one
    assert flow_hash.of_frame(frame) == flow_hash.of_packet(one)
    assert flow_hash.of_frame(b"prefix" + frame, 6) == flow_hash.of_packet(one)


@pytest.mark.parametrize("fragment", [0x2000, 1, 0x2001])
def test_the_fragments_of_a_packet_are_one_flow(fragment: int) -> None:
    a, b = b"abcd", b"efgh"
    first = ip4(a, b, 17, b"12345678", 0x2000)
    assert flow_hash.of_packet(ip4(a, b, 17, b"abcdefgh", fragment)) == flow_hash.of_packet(first)


@given(st.binary(max_size=70), st.integers(0, 10), st.integers(1, 256))
def test_any_bytes_have_a_queue(packet: bytes, start: int, queues: int) -> None:
    for flow in (flow_hash.of_packet(packet, start), flow_hash.of_frame(packet, start)):
        assert 0 <= flow_hash.choose(flow, queues) < queues


def test_flows_are_spread() -> None:
    packets = [ip4(b"\x0a\0\0\1", b"\x0a\0\0\2", 17, struct.pack("!HH", p, 9)) for p in range(4000)]
    found = Counter(flow_hash.choose(flow_hash.of_packet(packet), 4) for packet in packets)
    assert min(found.values()) > 800, found


def answer(packet: bytes) -> bytearray:
    """Return a packet of the other direction, without a checksum, which UDP need not have."""
    found = bytearray(packet)
    found[12:16], found[16:20] = packet[16:20], packet[12:16]
    found[20:22], found[22:24] = packet[22:24], packet[20:22]
    found[26:28] = b"\0\0"
    return found


@pytest.mark.parametrize("by", ["queue", "flow"])
def test_flows_stay_spread_when_they_are_answered(two_queues: Device, by: str) -> None:
    """The kernel moves a flow to the queue by which somebody has last written a packet of it."""
    with two_queues.subscribe() as subscription:

        def queues_of_flows(answers: bool) -> dict[int, int]:
            send_flows()
            found = {}
            while len(found) < FLOWS:
                packet = subscription.recv(PATIENCE)
                if packet.data[9] != UDP:  # the host's answers to answers that nobody expects
                    continue
                found[flow_of(packet)[0]] = packet.queue
                if answers:
                    queue = packet.queue if by == "queue" else None
                    two_queues.send(answer(packet.data), queue=queue)
            return found

        before, after, again = (queues_of_flows(answers) for answers in (True, False, False))
    assert after == again
    assert min(Counter(after.values()).values()) >= FLOWS // 8
    if by == "queue":
        assert after == before
