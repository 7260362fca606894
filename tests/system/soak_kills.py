"""Two hundred kills at 150,000 packets a second, and between large ones: ``make soak``."""

from typing import Any

import pytest
from devices import TAP, TUN
from processes import Run
from test_kills import kills_under_load
from test_kills_as_it_reads import kills_as_it_reads
from test_large_kills import kills_with_large_packets

from tuncer import Flag

pytestmark = pytest.mark.timeout(600)


@pytest.mark.parametrize("kind", [TUN, TAP], ids=["tun", "tap"])
def test_two_hundred_kills_lose_nothing(run: Run, kind: Flag, capfd: Any) -> None:
    kills_under_load(run, kind, 200, 150_000, 1_000_000, packets=1 << 20)
    capfd.readouterr()


@pytest.mark.parametrize("kind", [TUN, TAP], ids=["tun", "tap"])
def test_two_hundred_kills_between_large_packets_lose_nothing(
    run: Run, kind: Flag, capfd: Any
) -> None:
    kills_with_large_packets(run, kind, 200)
    capfd.readouterr()


@pytest.mark.parametrize("kind", [TUN, TAP], ids=["tun", "tap"])
def test_two_hundred_kills_as_it_reads_lose_nothing(run: Run, kind: Flag, capfd: Any) -> None:
    kills_as_it_reads(run, kind, 200, 150_000, 1_000_000)
    capfd.readouterr()
