"""A tree of supervisors is whole again after each of a thousand blows. Run by ``make soak``."""

import random
from pathlib import Path
from typing import Any

import pytest
from tree_blows import trial


@pytest.mark.timeout(600)
def test_a_thousand_blows(runtime_dir: Path, capfd: Any) -> None:
    trial(1000, random.randrange(1 << 32), runtime_dir, capfd)
