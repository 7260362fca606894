"""Headers of altered packets, by the million: hostile bytes give None, never an exception."""

import random

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPerror, UDPerror
from scapy.layers.inet6 import ICMPv6DestUnreach, IPv6, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from test_headers import look_at_all

_V4, _V6 = IP(src="10.0.0.1", dst="10.0.0.2"), IPv6(src="fd00::1", dst="fd00::2")
WHOLE = [
    _V4 / TCP(sport=1, dport=2),
    _V4 / UDP(sport=1, dport=2) / b"payload",
    IP(src="10.0.0.1", dst="10.0.0.2", flags="MF", frag=3) / b"part",
    IP(options=b"\x94\x04\0\0") / UDP(),
    _V4 / ICMP(type=3) / IPerror(src="10.0.0.2", dst="10.0.0.1") / UDPerror(sport=2, dport=1),
    _V6 / TCP(),
    _V6 / IPv6ExtHdrHopByHop() / IPv6ExtHdrFragment(offset=0, m=1) / UDP(),
    _V6 / ICMPv6DestUnreach() / IPv6(src="fd00::2", dst="fd00::1") / UDP(),
    Ether() / ARP(),
    Ether() / Dot1Q(vlan=5) / _V4 / TCP(),
    Ether() / Dot1AD(vlan=1) / Dot1Q(vlan=2) / _V6 / UDP(),
]
LENGTHS = (0, 1, 3, 4, 5, 15, 20, 0x45, 0x4F, 0x60, 0x7F, 0x80, 0xFF)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(4))
def test_altered_packets_raise_nothing(seed: int) -> None:
    rng = random.Random(seed)
    kinds = [bytes(one) for one in WHOLE]
    for _ in range(50_000):
        data = bytearray(rng.choice(kinds))
        for _ in range(rng.randint(1, 6)):
            # Lengths, versions and next headers lie among the first bytes.
            place = rng.randrange(min(len(data), rng.choice((20, 60, 120))))
            data[place] = rng.choice(LENGTHS) if rng.random() < 0.5 else rng.randrange(256)
        cut = rng.randrange(len(data) + 1) if rng.random() < 0.5 else len(data)
        look_at_all(bytes(data[:cut]))
