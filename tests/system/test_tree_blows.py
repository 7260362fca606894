"""A tree of supervisors is whole again after each of many blows: the short form."""

from pathlib import Path
from typing import Any

import pytest
from tree_blows import trial


@pytest.mark.slow
def test_a_tree_under_blows_becomes_whole_again(runtime_dir: Path, capfd: Any) -> None:
    trial(150, 1, runtime_dir, capfd)
