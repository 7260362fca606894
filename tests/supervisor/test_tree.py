"""The trees that run: what is told of each actor, by whom, and how it looks."""

import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from actors import Counter, Later, Locks, Starter
from hypothesis import given
from hypothesis import strategies as st
from processes import PATIENCE, eventually, heed_ctrl_c, kill, stop
from trees import start, wait_for

from supervisor import (
    Backoff,
    ChildSpec,
    DynamicSupervisor,
    DynamicSupervisorRef,
    GaveUp,
    Pool,
    PoolRef,
    Supervisor,
    SupervisorRef,
    linux,
)
from supervisor.client.ref import ask_system
from supervisor.supervision import report
from supervisor.supervision.child import Child
from supervisor.tree import Exited, Node, kernel, snapshot
from supervisor.tree.rendering import HEAD, duration, rendered, size


def only() -> Node:
    (root,) = snapshot()
    return root


def by_id(node: Node) -> dict[str, Node]:
    return {one.id: one for one in node.all()}


def test_a_tree_is_told() -> None:
    inner = ChildSpec("inner", Supervisor, args=([ChildSpec("a", Counter)],))
    dynamic = ChildSpec("dynamic", DynamicSupervisor, args=(ChildSpec("d", Counter),))
    pool = ChildSpec("pool", Pool, args=(ChildSpec("w", Counter),), kwargs={"size": 2})
    sup = start(ChildSpec("c", Counter, name="c"), inner, dynamic, pool, name="root")
    sup.child("dynamic", DynamicSupervisorRef).start_child(5)
    root = only()
    assert (root.id, root.name, root.pid, root.kind) == ("root", "root", sup.pid, "supervisor")
    assert root.start == "supervisor.supervision.supervisor:Supervisor"
    assert root.owners == [os.getpid()]
    assert [child.id for child in root.children] == ["c", "inner", "dynamic", "pool"]
    found = by_id(root)
    assert {"a", "d-1", "w-1", "w-2"} < found.keys()
    assert {node.state for node in root.all()} == {"running"}
    c = found["c"]
    assert (c.pid, c.name, c.start) == (sup.child("c").pid, "c", "actors:Counter")
    assert c.memory is not None
    assert c.memory > 1 << 20
    assert root.total_memory == sum(node.memory or 0 for node in root.all())
    assert c.uptime is not None
    assert 0 <= c.uptime < PATIENCE
    assert root.uptime is not None
    assert root.uptime >= c.uptime - 0.01


def test_exits_and_restarts_are_told() -> None:
    later = ChildSpec("later", Counter, backoff=Backoff(60.0, 60.0))
    temporary = ChildSpec("temporary", Counter, restart="temporary")
    sup = start(ChildSpec("c", Counter), later, temporary, ChildSpec("t", Counter), intensity=10)
    pids = {row.id: row.ref.pid for row in sup.which_children() if row.ref is not None}
    for name in ("c", "later", "temporary"):
        kill(pids[name])
    sup.terminate_child("t")
    wait_for(sup, {"c": "running", "later": "restarting", "t": "undefined"})
    root = only()
    found = by_id(root)
    assert [(node.id, node.state) for node in root.children] == [
        ("c", "running"),
        ("later", "restarting"),
        ("t", "undefined"),
        ("temporary", "forgotten"),
    ]
    for name in ("c", "later", "temporary"):
        ended = found[name].last_exit
        assert ended is not None
        assert (ended.pid, ended.reason) == (pids[name], "killed")
        assert 0 <= ended.ago < PATIENCE
    assert found["t"].last_exit is not None
    assert found["t"].last_exit.reason == "shutdown"
    assert (found["c"].restarts, found["later"].restarts, root.total_restarts) == (1, 0, 1)
    assert (found["later"].pid, found["later"].uptime, found["later"].memory) == (None, None, None)


def test_what_has_been_forgotten_for_a_minute_is_told_no_more() -> None:
    plan = ChildSpec("x", Counter, args=("much" * 1000,)).plan()
    forgotten = report.Forgotten()
    forgotten.add(Child.of(plan))
    now = time.monotonic()
    assert [row["id"] for row in forgotten.recent(now + 59)] == ["x"]
    assert "much" not in repr(forgotten.recent(now))
    assert forgotten.recent(now + 61) == []
    for _ in range(1000):
        forgotten.add(Child.of(plan))
    assert len(forgotten.recent(now)) == 100


def mailbox_of(name: str) -> int | None:
    found = {node.id: node for root in snapshot() for node in root.all()}
    return found[name].mailbox if name in found else None


def test_what_waits_in_a_mailbox_is_seen_while_its_actor_is_busy(tmp_path: Path) -> None:
    """An actor reads many messages at once: what it has read and not served waits, too."""
    path = tmp_path / "lock"
    path.touch()
    busy = Locks.start_link(name="busy")
    assert mailbox_of("busy") == 0
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for _ in range(300):
            busy.cast(str(path))
        eventually(lambda: (mailbox_of("busy") or 0) > 299 * len(str(path)))
    assert busy.call("locked") == 300
    assert mailbox_of("busy") == 0
    busy.suspend()
    busy.cast("x" * 100_000)
    eventually(lambda: (mailbox_of("busy") or 0) > 100_000)
    busy.resume()
    eventually(lambda: mailbox_of("busy"), None)  # it cannot open that


def test_what_is_below_a_silent_supervisor_the_kernel_tells() -> None:
    inner = ChildSpec("inner", Supervisor, ([ChildSpec("c", Counter, name="deep")],))
    sup = start(inner)
    below = sup.child("inner", SupervisorRef)
    worker = below.child("c").pid
    assert command().returncode == 0
    stop(below.pid)
    (silent,) = only().children
    assert (silent.state, silent.pid) == ("silent", below.pid)
    ((name, pid),) = [(node.name, node.pid) for node in silent.children]
    assert (name, pid) == ("deep", worker)
    assert command().returncode == 1
    os.kill(below.pid, signal.SIGCONT)


def test_nobody_cuts_the_gauge_of_a_mailbox_short() -> None:
    """An actor that stored into it would die of SIGBUS."""
    alone = Counter.start_link(name="alone")
    path = kernel._memfd(alone.pid, linux.MAILBOX_GAUGE)
    assert path is not None
    with pytest.raises(PermissionError):
        os.truncate(path, 0)
    assert alone.call("get") == 0


def test_no_message_goes_to_a_worker() -> None:
    sup = start(ChildSpec("c", Counter), ChildSpec("stopped", Counter))
    alone = Counter.start_link(name="alone")
    assert alone.call("get") == 0  # it has accepted the connection
    stop(sup.child("stopped").pid)
    stop(alone.pid)
    alone.cast("x" * 1000)
    before = sup.child("c").statistics()
    found = {node.id: node for root in snapshot() for node in root.all()}
    assert found["stopped"].state == found["alone"].state == "running"
    assert found["alone"].mailbox is not None
    assert found["alone"].mailbox >= 1000
    assert sup.child("c").statistics()["calls"] == before["calls"]
    for name in ("stopped", "alone"):
        pid = found[name].pid
        assert pid is not None
        os.kill(pid, signal.SIGCONT)
    eventually(lambda: not alone.is_alive())  # it cannot add a text


def test_a_supervisor_that_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.tree.collecting._PATIENCE", 0.05)
    inner = ChildSpec("inner", Supervisor, args=([ChildSpec("a", Counter)],))
    sup = start(inner, ChildSpec("c", Counter))
    pid = sup.child("inner", SupervisorRef).pid
    stop(pid)
    found = by_id(only())
    assert found["inner"].state == "silent"
    assert [child.id for child in found["inner"].children] == ["a"]
    assert found["c"].state == "running"
    os.kill(pid, signal.SIGCONT)


def test_nobody_runs(runtime_dir: Any) -> None:
    assert snapshot() == []
    (runtime_dir / "mailboxes").mkdir(exist_ok=True)
    (runtime_dir / "mailboxes" / "no.mailbox").touch()
    (runtime_dir / "mailboxes" / "1.1").touch()
    assert snapshot() == []
    for name in ("no.mailbox", "1.1"):
        (runtime_dir / "mailboxes" / name).unlink(missing_ok=True)


def test_an_actor_that_an_actor_has_started_is_a_root_of_its_own() -> None:
    """It is a child of an actor, but of no supervisor."""
    ref = Starter.start_link(name="starter")
    other = ref.call("x")
    ids = {node.pid for root in snapshot() for node in root.all()}
    assert {ref.pid, other.pid} >= ids >= {ref.pid}


def test_a_pool_and_what_gave_up() -> None:
    pool = ChildSpec(
        "pool", Pool, args=(ChildSpec("w", Counter),), kwargs={"intensity": 0}, restart="temporary"
    )
    sup = start(pool)
    for row in sup.child("pool", PoolRef).which_children():
        if row.ref is not None:
            kill(row.ref.pid)
            break
    eventually(lambda: by_id(only())["pool"].state, "forgotten")
    ended = by_id(only())["pool"].last_exit
    assert ended is not None
    assert ended.reason.startswith("shutdown, as it gave up: more than 0 restarts within 5 s")
    assert GaveUp("x") == "shutdown"


# -- the command -----------------------------------------------------------------------------------


def command(*arguments: str, program: str = "supervisor") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", program, "tree", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )


@pytest.mark.parametrize("program", ["supervisor", "tuncer"])
def test_the_command(program: str) -> None:
    assert command(program=program).stdout == "no actor of this user runs here\n"
    sup = start(ChildSpec("c", Counter), name="root")
    done = command(program=program)
    assert (done.returncode, done.stderr) == (0, "")
    head, root, child = done.stdout.splitlines()
    assert head.split()[:-2] == [*HEAD[:-1]]
    assert root.startswith(f"root Supervisor (of {os.getpid()})  running  {sup.pid}")
    assert child.startswith("└─ c Counter")
    (found,) = json.loads(command("--json", program=program).stdout)
    assert found["children"][0]["pid"] == sup.child("c").pid
    assert found["total_memory"] > found["memory"]


def test_it_is_shown_again_and_again() -> None:
    start(ChildSpec("c", Counter), name="root")
    parent, terminal = pty.openpty()
    watching = subprocess.Popen(
        [sys.executable, "-m", "supervisor", "tree", "--watch", "0.05"],
        stdout=terminal,
        stderr=subprocess.PIPE,
        preexec_fn=heed_ctrl_c,  # noqa: PLW1509 - this test has one thread
    )
    os.close(terminal)
    seen = b""
    while seen.count(b"\x1b[H\x1b[2J") < 3:
        seen += os.read(parent, 4096)
    watching.send_signal(signal.SIGINT)
    assert watching.communicate(timeout=PATIENCE)[1] == b""
    assert watching.returncode == 0
    os.close(parent)


@pytest.mark.parametrize("wrong", [["--watch", "0"], ["--watch", "x"], ["--nothing"]])
def test_wrong_usage(wrong: list[str]) -> None:
    assert command(*wrong).returncode == 2


# -- how it looks ----------------------------------------------------------------------------------


def test_trees_are_drawn() -> None:
    inner = Node(
        "inner", "running", "supervisor", "m:Sub", children=[Node("a", "running", start="m:A")]
    )
    dead = Node("dead", "forgotten", last_exit=Exited(7, "killed", 65.0))
    tree = Node("root", "running", "supervisor", "m:Sup", pid=1, children=[inner, dead], owners=[5])
    assert [line[:40].rstrip() for line in rendered([tree]).splitlines()[1:]] == [
        "root Sup (of 5)  running    1",
        "├─ inner Sub     running",
        "│  └─ a A        running",
        "└─ dead          forgotten",
    ]
    assert rendered([tree]).splitlines()[4].endswith("  killed, 1 min 5 s ago")
    tree.children.reverse()
    assert rendered([tree]).splitlines()[3:] == [
        "└─ inner Sub     running",
        "   └─ a A        running",
    ]


@given(st.floats(0, 1e9), st.integers(0, 1 << 50))
def test_numbers_are_short(seconds: float, count: int) -> None:
    assert len(duration(seconds)) <= 14
    assert len(size(count)) <= 13
    assert duration(59.9) == "59 s"
    assert (duration(3600), duration(90000)) == ("1 h 0 min", "1 d 1 h")
    assert (size(1023), size(1 << 20), size(1 << 30)) == ("1023 B", "1.0 MiB", "1.0 GiB")


def test_names_do_nothing_to_a_terminal() -> None:
    start(ChildSpec("evil\x1b[31m\nid é", Counter))
    shown = command().stdout
    assert "└─ evil\\x1b[31m\\nid é Counter" in shown
    assert "\x1b" not in shown
    env = dict(os.environ, PYTHONIOENCODING="ascii")
    plain = subprocess.run(
        [sys.executable, "-m", "supervisor", "tree"],
        capture_output=True,
        text=True,
        check=True,
        timeout=50,
        env=env,
    )
    assert "+- evil\\x1b[31m\\nid ? Counter" in plain.stdout


def test_a_worker_has_no_table() -> None:
    with pytest.raises(ValueError, match="a Later supervises nobody"):
        ask_system(Later.start_link(), ["tree"], PATIENCE)
