"""A program that replaces itself by an exec has ended, for what it had started."""

import os
import select
import sys
from pathlib import Path

import pytest
from actors import Counter
from processes import PATIENCE, program

from supervisor.spawn import launch

AGAIN = """
import os, sys
from supervisor import AlreadyRegistered, ChildSpec, GenServer, Supervisor

class Asked(GenServer):
    def handle_call(self, request, sender):
        return os.getpid()

if __name__ == "__main__":
    while True:  # the one before may be about to end
        try:
            sup = Supervisor.start_link([ChildSpec("a", Asked)], name="the tree")
        except AlreadyRegistered:
            continue
        break
    print(sup.pid, sup.child("a").call("pid"), flush=True)
    if len(sys.argv) == 1:
        sys.stdin.readline()
        os.execv(sys.executable, [sys.executable, __file__, "again"])
"""


def test_what_it_had_started_ends(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(AGAIN)
    with program(sys.executable, f"{tmp_path}/program.py") as run:
        assert run.process.stdout is not None
        assert run.process.stdin is not None
        pidfds = [os.pidfd_open(int(pid)) for pid in run.process.stdout.readline().split()]
        run.process.stdin.write("go on\n")
        run.process.stdin.flush()
        for pidfd in pidfds:
            assert select.select([pidfd], [], [], PATIENCE)[0]
            os.close(pidfd)
        assert len(run.process.stdout.readline().split()) == 2
        assert run.process.wait(PATIENCE) == 0


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


FIRST = """
import os
from pathlib import Path
from supervisor import GenServer, StartFailed

class Any(GenServer):
    def init(self, fails=False):
        if fails:
            raise ValueError

if __name__ == "__main__":
    assert os.getpid() == 1
    for _ in range(5):
        Any.start_link().stop()
        try:
            Any.start_link(True)
        except StartFailed:
            pass
    stats = [path.read_text() for path in Path("/proc").glob("[0-9]*/stat")]
    assert not any(") Z " in stat for stat in stats), stats
    try:
        print("a stranger", os.wait())
    except ChildProcessError:
        print("nobody")
"""


def test_the_first_process_of_a_container_has_no_zombies(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(FIRST)
    command = ("unshare", "--pid", "--fork", "--mount-proc", sys.executable)
    with program(*command, f"{tmp_path}/program.py") as run:
        run.expect("nobody")
        assert run.process.wait(PATIENCE) == 0
