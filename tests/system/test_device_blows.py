"""Three devices (TUN, TAP, two queues) over kills of any two processes, and over stops."""

from collections.abc import Callable
from typing import Any

import pytest
from device_blows import blow, double_kill, trial


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("act", [double_kill, blow])
def test_devices_addresses_and_packets_are_as_before(
    act: Any, seed: int, run: Callable[..., str], capfd: Any
) -> None:
    trial(run, act, rounds=15, seed=seed)
