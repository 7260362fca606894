"""What actors start themselves lives as long as they do, and nobody else's children are touched."""

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from actors import Counter
from processes import PATIENCE, gone, program, wait_for_end
from trees import kill_actor, start

from supervisor import (
    ChildSpec,
    GenServer,
    Ref,
    Sender,
    Supervisor,
    SupervisorRef,
    linux,
)

DAEMONS = {
    "in the background": ["sh", "-c", "sleep 1000 >&- 2>&- & echo $!"],
    "in a session of its own": ["sh", "-c", "setsid sleep 1000 >&- 2>&- & echo $!"],
    "without an environment": ["sh", "-c", "env -i sleep 1000 >&- 2>&- & echo $!"],
    "forked twice": [
        sys.executable,
        "-c",
        """import os, time
reader, writer = os.pipe()
if os.fork():
    print(os.read(reader, 9).decode())
    raise SystemExit
os.setsid()
if os.fork():
    os._exit(0)
os.write(writer, b"%d" % os.getpid())
os.close(1)
time.sleep(1000)
""",
    ],
}


class Starter(GenServer):
    """Starts programs, and processes of multiprocessing."""

    def handle_call(self, request: Any, sender: Sender) -> int:
        if request == "multiprocessing":
            process = multiprocessing.get_context("fork").Process(target=signal.pause)
            process.start()
            assert process.pid is not None
            return process.pid
        return int(subprocess.check_output(request, stderr=subprocess.DEVNULL))


def starter() -> SupervisorRef:
    children = [ChildSpec("s", Starter), ChildSpec("other", Counter)]
    ref: SupervisorRef = Supervisor.start_link(children, intensity=100)
    return ref


@pytest.mark.parametrize("how", [*DAEMONS, "multiprocessing"])
def test_what_an_actor_has_started_lives_as_long_as_that(how: str) -> None:
    sup = starter()
    actor = sup.child("s")
    pid = actor.call(DAEMONS.get(how, how))
    pidfd = os.pidfd_open(pid)
    try:
        other = sup.child("other")
        down = other.monitor()
        os.kill(other.pid, signal.SIGKILL)  # the supervisor looks at all its children
        down.wait(PATIENCE)
        sup.child("other")
        sup.which_children()
        assert not gone(pid)
        os.kill(actor.pid, signal.SIGKILL)
        assert linux.ended(pidfd, PATIENCE)
    finally:
        os.close(pidfd)


def test_what_nobody_knows_anything_of_ends_with_the_supervisor() -> None:
    sup = starter()
    pid = sup.child("s").call(["sh", "-c", "setsid env -i sleep 1000 >&- 2>&- & echo $!"])
    pidfd = os.pidfd_open(pid)
    try:
        sup.stop()
        assert linux.ended(pidfd, PATIENCE)
    finally:
        os.close(pidfd)


def test_a_stop_in_order_ends_it_too() -> None:
    sup = starter()
    pid = sup.child("s").call(DAEMONS["in a session of its own"])
    pidfd = os.pidfd_open(pid)
    try:
        sup.terminate_child("s")
        sup.which_children()
        assert linux.ended(pidfd, PATIENCE)
    finally:
        os.close(pidfd)


PROBE = """
import subprocess
from supervisor import GenServer
LATE = subprocess.Popen(["sh", "-c", "exit 3"])
STATUS = [subprocess.run(["sh", "-c", "exit 3"]).returncode for _ in range(60)]
STATUS += [
    subprocess.run(["sh", "-c", "exit 3"], start_new_session=True).returncode for _ in range(60)
]
class Probe(GenServer):
    def handle_call(self, request, sender):
        return STATUS
"""


def test_an_import_gets_the_exit_statuses_of_what_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "probe_of_a_test.py").write_text(PROBE)
    monkeypatch.syspath_prepend(str(tmp_path))
    import probe_of_a_test  # noqa: PLC0415 - the test has just written it

    sup = Supervisor.start_link([])
    ref = sup.start_child(ChildSpec("p", probe_of_a_test.Probe))
    assert ref.call("?") == [3] * 120
    sup.start_child(ChildSpec("c", Counter))  # a child that nobody waits for is in the way of none
    down = ref.monitor()
    os.kill(ref.pid, signal.SIGKILL)
    down.wait(PATIENCE)
    assert sup.child("p").call("?") == [3] * 120


MEMORY_FILES = "/dev/shm"  # noqa: S108 - where multiprocessing puts them


MEMORY = """
import os
from multiprocessing.shared_memory import SharedMemory
from supervisor import GenServer
class Owner(GenServer):
    def init(self):
        self.memory = SharedMemory(f"test{os.getpid()}", create=True, size=4096)
"""


def test_the_resource_tracker_of_a_killed_actor_does_its_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "memory_of_a_test.py").write_text(MEMORY)
    monkeypatch.syspath_prepend(str(tmp_path))
    import memory_of_a_test  # noqa: PLC0415 - the test has just written it

    sup = Supervisor.start_link([ChildSpec("o", memory_of_a_test.Owner)], intensity=100)
    for _ in range(5):
        ref = sup.child("o")
        (tracker,) = Path(f"/proc/{ref.pid}/task/{ref.pid}/children").read_text().split()
        pidfd, path = os.pidfd_open(int(tracker)), Path(f"{MEMORY_FILES}/test{ref.pid}")
        assert path.exists()
        os.kill(ref.pid, signal.SIGKILL)
        assert linux.ended(pidfd, PATIENCE)
        os.close(pidfd)
        assert not path.exists()
    path = Path(f"{MEMORY_FILES}/test{sup.child('o').pid}")
    sup.stop()
    path.unlink(missing_ok=True)


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


@pytest.mark.parametrize("victim", ["owner", "root", "worker"])
@pytest.mark.parametrize("round_", range(3))
def test_what_is_below_a_killed_process_ends_with_it(
    victim: str, round_: int, runtime_dir: Path
) -> None:
    program = (
        "import sys; sys.path.insert(0, 'tests/support')\n"
        "from actors import Counter\n"
        "from supervisor import *\n"
        "leaf = ChildSpec('leaf', Counter, name='leaf')\n"
        "middle = ChildSpec('in', Supervisor, ([leaf],))\n"
        "s = Supervisor.start_link([middle], intensity=9, name='root')\n"
        "print(s.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    assert owner.stdin is not None
    root = int(owner.stdout.readline())
    inner = SupervisorRef(name="root").child("in").pid
    leaf = Ref(name="leaf").pid
    os.kill({"owner": owner.pid, "root": root, "worker": leaf}[victim], signal.SIGKILL)
    if victim == "worker":
        assert wait_for_end(leaf)
        assert not gone(inner)
        assert not gone(root)
        again = SupervisorRef(name="root").child("in")
        assert isinstance(again, SupervisorRef)
        again.child("leaf")
        assert Ref(name="leaf").call("get") == 0
    else:
        for pid in (root, inner, leaf):
            assert wait_for_end(pid)
    owner.stdin.close()
    owner.wait(PATIENCE)
    owner.stdout.close()
    for pid in (root, inner):
        assert wait_for_end(pid)


def test_what_a_crashed_actor_had_started_is_ended() -> None:
    sup = start(ChildSpec("c", Counter), intensity=9)
    ref = sup.child("c")
    sleeper = ref.call("child")
    kill_actor(ref)
    assert wait_for_end(sleeper)
    assert sup.child("c").call("get") == 0
