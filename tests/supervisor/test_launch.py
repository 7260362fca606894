"""Starting an actor from a program, and what ends with whom."""

import os
import select
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import spawn
from pathlib import Path
from typing import Any

import pytest
from actors import Counter, Linked, Refuses, Starter
from processes import PATIENCE, SUPPORT, eventually, gone, program, run
from surroundings import Runner, run_in

from supervisor import (
    ChildSpec,
    GenServer,
    Ref,
    StartFailed,
    Supervisor,
    SupervisorRef,
    linux,
    whereis,
)
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


def test_a_start_that_is_told_to_end_fails(runtime_dir: Path) -> None:
    class_of = Linked.start_link(trap=False)
    class_of.stop()
    with pytest.raises(StartFailed, match="noproc"):
        LinksInInit.start_link(class_of)
    with pytest.raises(StartFailed) as caught:
        stopper = threading.Thread(target=stop_when_named, args=("starting",))
        stopper.start()
        Supervisor.start_link([ChildSpec("h", Refuses, ("hang",))], name="starting")
    stopper.join(PATIENCE)
    assert caught.value.reason == "normal"


def stop_when_named(name: str) -> None:
    eventually(lambda: whereis(name, SupervisorRef)).stop()


class LinksInInit(GenServer):
    """Links to another as it starts."""

    def init(self, ref: Ref) -> None:
        self.link(ref)


def test_a_program_that_exits_ends_an_actor_that_hangs(runtime_dir: Path) -> None:
    log = runtime_dir / "log"
    code = (
        f"import sys; sys.path.insert(0, {SUPPORT!r})\n"
        "from actors import Witness\n"
        "from supervisor import CallTimeout; from supervisor.spawn import launch\n"
        "launch._EXIT_PATIENCE = 0.2\n"
        f"ref = Witness.start_link({str(log)!r}, 'w')\n"
        "try: ref.call('never', timeout=0.1)\n"
        "except CallTimeout as error: print(error)\n"
        "print(ref.pid)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    said, pid = done.stdout.splitlines()
    assert said.endswith("has not replied to 'never' within 0.1 s")
    pidfd = os.pidfd_open(int(pid)) if Path(f"/proc/{pid}").exists() else None
    if pidfd is not None:
        assert linux.ended(pidfd, PATIENCE)
        os.close(pidfd)


def test_an_actor_may_start_another_which_ends_with_it() -> None:
    ref = Starter.start_link()
    other = ref.call("other")
    assert other.call("get") == 7
    monitor = other.monitor()
    os.kill(ref.pid, signal.SIGKILL)
    monitor.wait(PATIENCE)


def test_an_unlinked_actor_outlives_the_program_that_started_it(runtime_dir: Path) -> None:
    program = "import sys; sys.path.insert(0, 'tests/support'); from actors import Counter; {}"
    start = program.format("Counter.{}(1, name='{}')")
    command = [sys.executable, "-c", start.format("start", "free")]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL, timeout=PATIENCE)
    run(sys.executable, "-c", start.format("start_link", "bound"))
    assert whereis("bound") is None
    free = whereis("free")
    assert free is not None
    assert free.call("get") == 1
    free.stop()


def test_stopped_actors_leave_no_process(runtime_dir: Path) -> None:
    ref = Counter.start_link()
    pid = ref.pid
    ref.stop()
    assert gone(pid)


SPAWNS = """
import multiprocessing, signal
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])  # else Python's forkserver hangs
from supervisor import GenServer

class Asked(GenServer):
    def handle_call(self, request, sender):
        return "yes"

def work():
    assert Asked.start_link().call("?") == "yes"

if __name__ == "__main__":
    for method in ("fork", "spawn", "forkserver"):
        process = multiprocessing.get_context(method).Process(target=work)
        process.start()
        process.join()
        assert process.exitcode == 0, method
"""


def test_processes_of_multiprocessing_start_actors_too(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(SPAWNS)
    found = run_in(tmp_path, sys.executable, f"{tmp_path}/program.py")
    assert found.returncode == 0, found.stderr


def test_multiprocessings_start_method_can_still_be_chosen(tmp_path: Path) -> None:
    program = (
        "import multiprocessing, supervisor; supervisor.Supervisor.start_link([]).stop();"
        "multiprocessing.set_start_method('spawn')"
    )
    found = run_in(tmp_path, sys.executable, "-c", program)
    assert found.returncode == 0, found.stderr


EXECUTABLE = """
import multiprocessing, sys
from supervisor import Supervisor
sys.executable = sys.argv[1]
{heed}
Supervisor.start_link([]).stop()
"""


def test_an_interpreter_that_is_set_is_heeded(tmp_path: Path) -> None:
    program = EXECUTABLE.format(heed="multiprocessing.set_executable(sys.argv[2])")
    found = run_in(tmp_path, sys.executable, "-c", program, "", sys.executable)
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize("python", ["", "/no/python", "/etc/passwd"])
def test_an_interpreter_that_is_none_is_told(python: str, tmp_path: Path) -> None:
    program = EXECUTABLE.format(heed="multiprocessing.set_executable(sys.argv[1])")
    found = run_in(tmp_path, sys.executable, "-c", program, python)
    assert f"{python!r} is no Python that can be run" in found.stderr


def test_a_program_that_is_no_interpreter_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spawn, "get_executable", lambda: b"/bin/true")
    with pytest.raises(StartFailed, match="its process, of /bin/true, ended before it served"):
        Runner.start_link()


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


def test_threads_start_actors_at_the_same_time() -> None:
    """Each is told how its own start went, and leaves the others' alone."""

    def start(number: int) -> Any:
        if number % 3 == 2:
            with pytest.raises(StartFailed):
                Counter.start_link(1, 2, 3)
            return None
        return Counter.start_link(number)

    with ThreadPoolExecutor(6) as pool:
        refs = list(pool.map(start, range(12)))
    for number, ref in enumerate(refs):
        assert ref is None or ref.call("get") == number
    assert launch.starting() == []
