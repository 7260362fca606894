"""Devices of the tests in this directory: descriptors, without a worker."""

from collections.abc import Iterator

import pytest
from devices import TAP, TUN
from ip_links import device


@pytest.fixture(name="tun")
def make_tun() -> Iterator[int]:
    """Make a TUN device."""
    with device("t0", TUN) as fd:
        yield fd


@pytest.fixture(name="tap")
def make_tap() -> Iterator[int]:
    """Make a TAP device."""
    with device("e0", TAP) as fd:
        yield fd
