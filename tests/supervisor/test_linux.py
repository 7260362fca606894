"""The system calls for processes."""

import os
import sys
from pathlib import Path

import pytest
from actors import Counter
from processes import PATIENCE, program

from supervisor.spawn import launch

CLOSES = """
import os
from supervisor import GenServer

class Asked(GenServer):
    def handle_call(self, request, sender):
        return "served"

if __name__ == "__main__":
    ref = Asked.start_link(name="x")
    os.closerange(3, 1000)
    from supervisor.client import connections
    connections._table.connections.clear()
    for _ in range(100):
        assert ref.call("?") == "served"
    print("served as ever", flush=True)
"""


def test_a_program_that_closes_all_its_descriptors_has_not_ended(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(CLOSES)
    with program(sys.executable, f"{tmp_path}/program.py") as run:
        run.expect("served as ever")
        assert run.process.wait(PATIENCE) == 0


@pytest.mark.slow
def test_what_has_ended_is_forgotten() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        Counter.start_link().stop()
    assert len(launch._linked) <= 1
    assert len(os.listdir("/proc/self/fd")) <= before + 3
