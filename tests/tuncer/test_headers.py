"""Headers of packets, compared with what scapy has made; hostile bytes give None."""

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packets import made
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPerror, UDPerror
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
)
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether

from tuncer.protocol import headers
from tuncer.protocol.headers import FragmentTable, LatestDatagrams, Vlan, flow_text
from tuncer.protocol.packet import Frame, Framing, packet_class

MACS = {"dst": "02:00:00:00:00:01", "src": "02:00:00:00:00:02"}

addresses4 = st.ip_addresses(v=4).map(str)
addresses6 = st.ip_addresses(v=6).map(str)
ports = st.integers(0, 65535)
transports = st.one_of(
    st.builds(lambda a, b: TCP(sport=a, dport=b), ports, ports),
    st.builds(lambda a, b: UDP(sport=a, dport=b), ports, ports),
)
networks = st.one_of(
    st.builds(lambda a, b, t: IP(src=a, dst=b, ttl=t), addresses4, addresses4, st.integers(0, 255)),
    st.builds(
        lambda a, b, t, n: IP(src=a, dst=b, ttl=t, options=b"\1" * n),
        *(addresses4, addresses4, st.integers(0, 255), st.integers(0, 40)),
    ),
    st.builds(
        lambda a, b, t: IPv6(src=a, dst=b, hlim=t), addresses6, addresses6, st.integers(0, 255)
    ),
    st.builds(
        lambda a, b: IPv6(src=a, dst=b) / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt(),
        *(addresses6, addresses6),
    ),
)
links = st.sampled_from(
    [
        None,
        Ether(**MACS),
        Ether(**MACS) / Dot1Q(vlan=7, prio=3),
        Ether(**MACS) / Dot1AD(vlan=4095) / Dot1Q(vlan=1),
    ]
)


@given(links, networks, transports, st.sampled_from([0, 4]))
def test_what_scapy_has_made(link: Any, network: Any, transport: Any, start: int) -> None:
    inner = network / transport
    packet = made(inner if link is None else link / inner, is_frame=link is not None, start=start)
    assert packet.ip is not None
    assert (packet.ip.src, packet.ip.dst) == (network.src, network.dst)
    assert packet.ip.ttl == (network.ttl if packet.ip.version == 4 else network.hlim)
    assert packet.proto == packet.ip.proto == (6 if isinstance(transport, TCP) else 17)
    assert packet.ports == (transport.sport, transport.dport)
    assert packet.data[packet.ip.start :] == bytes(packet.data)[-len(transport) :]
    assert packet.ip.fragment is packet.icmp is packet.arp is None
    if link is None:
        assert packet.ethernet is packet.vlan is None
    else:
        assert packet.ethernet is not None
        assert (packet.ethernet.dst, packet.ethernet.src) == (MACS["dst"], MACS["src"])


def test_tags() -> None:
    packet = made(Ether(**MACS) / Dot1AD(vlan=4095) / Dot1Q(vlan=1, prio=5) / IP(), is_frame=True)
    assert packet.vlan == Vlan(4095, 0, 0x88A8)
    assert packet.ethernet is not None
    assert packet.ethernet.vlans == (Vlan(4095, 0, 0x88A8), Vlan(1, 5, 0x8100))
    assert (packet.ethernet.kind, packet.ethernet.start) == (0x0800, 22)


def test_arp_and_icmp() -> None:
    request = made(Ether(**MACS) / ARP(psrc="10.9.0.1", pdst="10.9.0.2"), is_frame=True)
    assert request.arp is not None
    assert request.arp.operation == 1
    assert (request.arp.sender_ip, request.arp.target_ip) == ("10.9.0.1", "10.9.0.2")
    assert request.ip is request.flow is None
    echo = made(IP() / ICMP(type=8, code=0) / (b"x" * 8))
    assert echo.icmp == (8, 0, 24)
    assert echo.ports is None
    assert made(IPv6() / ICMPv6EchoRequest()).icmp == (128, 0, 44)
    assert made(IP() / UDP()).icmp is None


@given(networks, transports)
def test_both_directions_are_one_flow(network: Any, transport: Any) -> None:
    back = (network / transport).copy()
    back.src, back.dst = network.dst, network.src
    back[type(transport)].sport, back[type(transport)].dport = transport.dport, transport.sport
    flow = made(network / transport).flow
    assert flow == made(back).flow
    assert flow == made(Ether() / network / transport, is_frame=True).flow
    assert flow is not None
    shown = flow_text(flow)
    assert network.src in shown
    assert network.dst in shown


def test_flows_differ() -> None:
    def flow(**fields: Any) -> bytes | None:
        return made(IP(src="10.0.0.1", dst="10.0.0.2") / UDP(**fields)).flow

    assert flow(sport=1, dport=2) == flow(sport=1, dport=2)
    # Not symmetric over ports alone: 10.0.0.1:2 to 10.0.0.2:1 is another connection.
    assert len({flow(sport=a, dport=b) for a in (1, 2, 3) for b in (1, 2, 3)}) == 9


def test_texts_of_flows() -> None:
    tcp = made(IP(src="10.9.0.2", dst="10.9.0.1") / TCP(sport=80, dport=40000)).flow
    assert tcp is not None
    assert flow_text(tcp) == "tcp 10.9.0.1:40000 10.9.0.2:80"
    udp = made(IPv6(src="fd00::1", dst="fd00::2") / UDP(sport=1, dport=2)).flow
    assert udp is not None
    assert flow_text(udp) == "udp [fd00::1]:1 [fd00::2]:2"
    with pytest.raises(ValueError, match="13 or 37 bytes"):
        flow_text(b"")


def test_an_icmp_error_follows_the_flow_that_it_tells_of() -> None:
    sent = IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=1000, dport=53)
    error = IP(src="10.7.7.7", dst="10.0.0.1") / ICMP(type=3, code=3) / bytes(sent)[:28]
    assert made(error).flow == made(sent).flow
    assert IPerror in IP(bytes(error))  # scapy reads it so, too
    assert UDPerror in IP(bytes(error))
    sent6 = IPv6(src="fd00::1", dst="fd00::2") / UDP(sport=1000, dport=53)
    error6 = IPv6(src="fd00::7", dst="fd00::1") / ICMPv6DestUnreach() / bytes(sent6)
    assert made(error6).flow == made(sent6).flow
    cut = made(bytes(error)[:30]).flow  # what it tells of is missing
    assert cut is not None
    assert flow_text(cut) == "icmp 10.0.0.1 10.7.7.7"


@pytest.mark.parametrize("version", [4, 6])
def test_fragments_follow_their_datagram(version: int) -> None:
    table = FragmentTable(LatestDatagrams(2))

    def fragment(number: int, offset: int, *, more: bool) -> bytes:
        payload = bytes(UDP(sport=5, dport=6) / bytes(40))[8 * offset :][:16]
        if version == 4:
            head = IP(src="10.0.0.1", dst="10.0.0.2", id=number, proto=17, frag=offset)
            head.flags = "MF" if more else 0
            return bytes(head / payload)
        part = IPv6ExtHdrFragment(id=number, offset=offset, m=int(more), nh=17)
        return bytes(IPv6(src="fd00::1", dst="fd00::2") / part / payload)

    whole = table.flow(fragment(1, 0, more=True))
    assert whole is not None
    assert ":5" in flow_text(whole)
    assert table.flow(fragment(1, 2, more=True)) == whole
    assert table.flow(fragment(1, 4, more=False)) == whole
    assert table.flow(fragment(9, 2, more=True)) != whole  # of a datagram that has not begun
    for number in (2, 3):
        table.flow(fragment(number, 0, more=True))
    assert table.flow(fragment(1, 2, more=True)) != whole  # forgotten
    told = made(fragment(1, 2, more=True)).ip
    assert told is not None
    assert told.fragment == (1, 16, True)
    assert made(fragment(1, 2, more=True)).ports is None
    assert made(fragment(1, 0, more=True)).ports == (5, 6)


ALL = ("ethernet", "vlan", "arp", "ip", "proto", "ports", "icmp", "flow")


def look_at_all(data: bytes) -> None:
    for framing in (Framing(is_frame, start) for is_frame in (False, True) for start in (0, 4, 10)):
        packet = packet_class(framing)(data, 0, 0, "lab0")
        for name in ALL:
            getattr(packet, name)
        FragmentTable().flow(data, framing.start, is_frame=framing.is_frame)


@given(st.binary(max_size=120))
def test_hostile_bytes_raise_nothing(data: bytes) -> None:
    look_at_all(data)
    look_at_all(b"\x45" + data)
    look_at_all(b"\x60" + data)


@given(links, networks, transports, st.data())
def test_cut_and_altered_packets_raise_nothing(
    link: Any, network: Any, transport: Any, data: st.DataObject
) -> None:
    whole = bytearray(bytes(network / transport if link is None else link / network / transport))
    for _ in range(data.draw(st.integers(0, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    look_at_all(bytes(whole[: data.draw(st.integers(0, len(whole)))]))


def test_padding_of_a_frame_is_no_header() -> None:
    for proto in (17, 1):
        empty = bytes(IP(src="10.0.0.1", dst="10.0.0.2", proto=proto, len=20))
        padded = bytes(Ether(**MACS))[:12] + b"\x08\x00" + empty + b"PADDINGPADDING"
        packet = Frame(padded, 0, 0, "tap0")
        assert (packet.ports, packet.icmp) == (None, None)
        assert flow_text(packet.flow or b"").split()[1:] == ["10.0.0.1", "10.0.0.2"]
        assert packet.ip is not None


def test_endless_extension_headers_end() -> None:
    packet = bytes(IPv6(nh=0))[:40] + (b"\0" * 8) * 1000
    assert headers.ip(packet) is None


@pytest.mark.parametrize("framing", [Framing(), Framing(True, 0), Framing(False, 4), Framing(True)])
def test_a_packet_is_pickled_with_its_framing(framing: Framing) -> None:
    packet = packet_class(framing)(b"x", 1, 2, "lab0", 3, 4)
    again = pickle.loads(pickle.dumps(packet))
    assert again == packet
    assert type(again) is type(packet)
    assert isinstance(again, Frame) == framing.is_frame


def test_fragments_of_ipv6_with_options_behind_the_fragment_header_stay_together() -> None:
    def part(offset: int, more: int, payload: Any) -> bytes:
        fragment = IPv6ExtHdrFragment(id=7, offset=offset, m=more, nh=60)
        return bytes(IPv6(src="fd00::1", dst="fd00::2") / fragment / payload)

    options = bytes(IPv6ExtHdrDestOpt(nh=17)) + bytes(UDP(sport=5, dport=6))
    table = FragmentTable()
    first, second = table.flow(part(0, 1, options)), table.flow(part(2, 0, b"rest"))
    assert first == second
    assert first is not None
    assert flow_text(first) == "udp [fd00::1]:5 [fd00::2]:6"
