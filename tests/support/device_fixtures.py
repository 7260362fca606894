"""Devices for tests."""

from collections.abc import Iterator

import pytest
from devices import TAP, make

import tuncer
from tuncer import Device, Offload


@pytest.fixture(name="dev")
def device() -> Iterator[Device]:
    """Make a device with an address. The kernel sends no packets of its own to it."""
    with make() as dev:
        yield dev


@pytest.fixture(name="two_queues")
def device_with_two_queues() -> Iterator[Device]:
    """Make the same with two queues."""
    with make(queues=2) as dev:
        yield dev


@pytest.fixture(name="three_queues")
def device_with_three_queues() -> Iterator[Device]:
    """Make the same with three queues."""
    with make(queues=3) as dev:
        yield dev


@pytest.fixture(name="tap")
def device_without_address() -> Iterator[Device]:
    """Make a TAP device, which is down and has no address."""
    with tuncer.create("e0", TAP) as dev:
        yield dev


@pytest.fixture(name="large")
def device_with_offload() -> Iterator[Device]:
    """Make a device with an address, and with all offload that Linux 6.2 has."""
    with make(offload=True) as dev:
        if not dev.offload() & Offload.USO4:
            pytest.skip("this kernel has no USO")
        yield dev
