"""An owner's end: what belongs to it ends with it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from actors import Counter, Starter, Witness
from processes import PATIENCE, gone, stop, wait_for_end
from trees import kill_actor, start, watch

from supervisor import (
    ChildSpec,
    NotOwner,
    SupervisorRef,
)


def test_a_stopped_root_ends_with_its_owner_when_it_is_continued() -> None:
    program = (
        "import sys; sys.path.insert(0, 'tests/support')\n"
        "from actors import Counter\n"
        "from supervisor import *\n"
        "s = Supervisor.start_link([ChildSpec('leaf', Counter)])\n"
        "print(s.pid, s.child('leaf').pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    assert owner.stdin is not None
    root, leaf = map(int, owner.stdout.readline().split())
    stop(root)
    owner.kill()
    owner.wait(PATIENCE)
    assert not gone(leaf)
    os.kill(root, signal.SIGCONT)
    assert wait_for_end(root)
    assert gone(leaf)
    owner.stdin.close()
    owner.stdout.close()


def test_an_actor_in_a_tree_may_start_another_tree() -> None:
    sup = start(ChildSpec("s", Starter), ChildSpec("c", Counter), intensity=9)
    other = sup.child("s").call("other")
    kill_actor(sup.child("c"))  # an unrelated death does not touch it
    assert sup.child("c").is_alive()
    assert other.call("get") == 7
    pid = other.pid
    kill_actor(sup.child("s"))
    assert wait_for_end(pid)


def test_children_of_an_owner_end_with_it() -> None:
    sup = start(ChildSpec("ours", Counter))
    guest = subprocess.Popen(["sleep", "1000"])
    theirs = sup.start_child(ChildSpec("theirs", Counter), owner=guest.pid)
    given = sup.start_child(ChildSpec("given", Counter), owner=os.getpid())
    assert theirs is not None
    assert given is not None
    pids = theirs.pid, given.pid
    with pytest.raises(NotOwner, match="does not belong to process"):
        sup.give_child("theirs", os.getpid())
    with pytest.raises(NotOwner):
        sup.give_child("ours", os.getpid())
    with pytest.raises(ProcessLookupError):
        sup.give_child("given", 2**22 + 1)
    sup.give_child("given", guest.pid)
    guest.kill()
    guest.wait()
    for pid in pids:
        assert wait_for_end(pid)
    assert [row[0] for row in sup.which_children()] == ["ours"]


def test_the_owner_of_another_process_keeps_the_supervisor_alive() -> None:
    guest = subprocess.Popen(["sleep", "1000"])
    program = (
        "import sys; sys.path.insert(0, 'tests/support')\n"
        "from actors import Counter\n"
        "from supervisor import *\n"
        f"s = Supervisor.start_link([ChildSpec('c', Counter)], name='s')\n"
        f"s.controlling_process({guest.pid}); import os; os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=PATIENCE)
    sup = SupervisorRef(name="s")
    assert sup.child("c").call("get") == 0
    monitor = watch(sup)
    guest.kill()
    guest.wait()
    assert monitor.wait(PATIENCE).reason == "shutdown"


def test_sigterm_ends_a_root_in_order(runtime_dir: Path) -> None:
    log = str(runtime_dir / "log")
    sup = start(ChildSpec("a", Witness, (log, "a")))
    monitor = watch(sup)
    os.kill(sup.pid, signal.SIGTERM)
    assert monitor.wait(PATIENCE).reason == "shutdown"
    assert Path(log).read_text().splitlines() == ["start a", "end a shutdown"]
