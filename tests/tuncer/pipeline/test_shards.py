"""Which worker gets a packet."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipelines import key, packet, udp
from scapy.layers.inet import ICMP, IP, UDP, fragment

from tuncer.pipeline import shards
from tuncer.pipeline.records import Routed
from tuncer.protocol.packet import Frame, Packet


def raising(_: Packet, error: Exception) -> None:
    raise error


def made(data: Any) -> Packet:
    return Packet(bytes(data), 0, 0, "lab0")


@given(st.lists(st.integers(0, 300), max_size=40), st.integers(1, 8))
def test_nothing_is_lost_and_order_stays(numbers: list[int], workers: int) -> None:
    items = [packet(n) for n in numbers]
    for shares in (shards.by_flow(workers), shards.by_key(workers, key, raising)):
        found = shares(items)
        assert len(found) == workers
        for share in found:
            at = [next(n for n, one in enumerate(items) if one is item) for item in share]
            assert at == sorted(at)
        assert sum(map(len, found)) == len(items)


def test_a_flow_stays_together_with_what_belongs_to_it() -> None:
    shares = shards.by_flow(8)
    out = IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=7, dport=53) / bytes(2000)
    back = IP(src="10.0.0.2", dst="10.0.0.1") / UDP(sport=53, dport=7)
    error = IP(src="10.9.9.9", dst="10.0.0.1") / ICMP(type=3) / bytes(out)[:28]
    together = [made(out), made(back), made(error), *map(made, fragment(out, 500))]
    filled = [share for share in shares(together) if share]
    assert len(filled) == 1
    routed = [Routed("alarm", one) for one in together]
    assert [len(share) for share in shares(routed)] == [len(s) for s in shares(together)]


def test_flows_are_spread() -> None:
    items = [made(udp(0, flow=flow)) for flow in range(400)]
    assert all(60 < len(share) < 140 for share in shards.by_flow(4)(items))


def test_frames_without_ip_go_by_their_addresses() -> None:
    def frame(dst: int, src: int) -> Frame:
        return Frame(bytes([2, 0, 0, 0, 0, dst, 2, 0, 0, 0, 0, src, 0x88, 0xCC]), 0, 0, "lab0")

    shares = shards.by_flow(8)([frame(1, 2), frame(2, 1)])
    assert sorted(map(len, shares)) == [0] * 7 + [2]


@pytest.mark.parametrize("wrong", [object(), [1], {"a": 1}])
def test_a_key_is_the_same_in_every_process(wrong: Any) -> None:
    with pytest.raises(TypeError, match="a key is a number, text, bytes, None or a tuple"):
        shards.by_key(2, lambda _: wrong, raising)([packet(1)])
    for fine in (1, -1, "a", b"a", None, (1, "a"), True, 2**80):
        shards.by_key(2, lambda _, fine=fine: fine, raising)([packet(1)])  # type: ignore[misc]


def test_without_a_key_a_packet_is_left_out_unless_it_only_passes_by() -> None:
    failed = []

    def told(packet: Packet, error: Exception) -> None:
        failed.append((packet, error))

    by = shards.by_key(3, lambda packet: 1 // packet.seq, told)
    passing = Routed("out", packet(0))
    assert by([packet(0), packet(1), passing]) == [[passing], [packet(1)], []]
    ((left, error),) = failed
    assert left == packet(0)
    assert isinstance(error, ZeroDivisionError)
