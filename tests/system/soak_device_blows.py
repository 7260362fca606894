"""A thousand kills of two processes at a time, and a thousand other blows. Run by ``make soak``."""

from collections.abc import Callable
from typing import Any

import pytest
from device_blows import blow, double_kill, trial

pytestmark = pytest.mark.timeout(1800)


@pytest.mark.parametrize("act", [double_kill, blow])
def test_devices_addresses_and_packets_are_as_before(
    act: Any, run: Callable[..., str], capfd: Any
) -> None:
    trial(run, act, rounds=1000, seed=1)
