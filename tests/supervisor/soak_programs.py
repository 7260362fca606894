"""Hundreds of kills: of actors that keep their state, of pools, of programs that start and stop."""

import contextlib
import random
import signal
import subprocess
from pathlib import Path

import pytest
from processes import PATIENCE
from test_kept import kill_often
from test_pool import test_many_kills_lose_no_idempotent_call as pool_under_kills
from test_program import BOTH, tree


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(3))
def test_what_was_acknowledged_is_kept(seed: int) -> None:
    kill_often(150, seed)


@pytest.mark.timeout(300)
def test_no_idempotent_call_of_a_pool_is_lost(tmp_path: Path) -> None:
    for _ in range(10):
        pool_under_kills(tmp_path)


@pytest.mark.timeout(300)
def test_programs_that_are_told_to_stop_at_any_time_leave_nothing(tmp_path: Path) -> None:
    """The fixture counts what is left. Some are told twice."""
    chance = random.Random(7)
    for _ in range(100):
        with tree(tmp_path, preexec_fn=BOTH) as running:
            running.expect("starts")
            for number in chance.choices((signal.SIGTERM, signal.SIGINT), k=chance.randint(1, 2)):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    running.process.wait(chance.uniform(0.0, 0.25))
                running.process.send_signal(number)
            assert running.process.wait(PATIENCE) in {0, 130, 143, -signal.SIGTERM, -signal.SIGINT}
