"""What a fork of a child needs, and what it refuses."""

from pathlib import Path

from users import run_as_user

PROCESSES = """
import os, resource, signal, time
from supervisor import ChildSpec, GenServer, Supervisor

class Any(GenServer):
    def handle_call(self, request, sender):
        return os.getpid()

if __name__ == "__main__":
    sup = Supervisor.start_link([ChildSpec("a", Any)], intensity=3, period=5.0)
    events, before = sup.events(), resource.prlimit(sup.pid, resource.RLIMIT_NPROC)
    resource.prlimit(sup.pid, resource.RLIMIT_NPROC, (1, before[1]))
    former = sup.child("a").call("pid")
    os.kill(former, signal.SIGKILL)
    while [events.next(20).kind for _ in range(6)][-1] != "failed":
        pass
    resource.prlimit(sup.pid, resource.RLIMIT_NPROC, before)
    assert sup.child("a").call("pid") != former
    print("restarted")
"""


def test_a_fork_that_fails_for_a_moment(tmp_path: Path) -> None:
    found = run_as_user(PROCESSES, tmp_path)
    assert "restarted" in found.stdout, found.stderr
