"""Programs that are a supervised tree: signals, ends of the tree, and what they return."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from actors import Counter
from processes import PATHS, PATIENCE, Program, eventually, gone, kill, program

import supervisor
from supervisor import ChildSpec, GaveUp, Ref, Supervisor, SupervisorRef, named
from supervisor.client import connections
from supervisor.spawn import launch

TREE = PATHS + (
    "import logging, os, sys, time\n"
    "from actors import Counter\n"
    "from supervisor import ChildSpec, GenServer, run\n"
    "class Slow(GenServer):\n"
    "    def init(self, how):\n"
    "        if how == 'in init': print('in init', flush=True); time.sleep(1000)\n"
    "        self.how = how\n"
    "    def terminate(self, reason):\n"
    "        print('terminate', reason, flush=True)\n"
    "        if self.how == 'in terminate': time.sleep(1000)\n"
    "if __name__ == '__main__':\n"
    "    children = [ChildSpec('a', Counter, name='a'),\n"
    "                ChildSpec('slow', Slow, args=(sys.argv[1],), shutdown='infinity'),\n"
    "                ChildSpec('b', Counter, name='b', restart=sys.argv[2])]\n"
    "    print('starts', flush=True)\n"
    "    status = run(children, name='root', intensity=1)\n"
    "    print('returned', status, flush=True)\n"
    "    sys.exit(status)\n"
)


@contextlib.contextmanager
def tree(
    path: Path, how: str = "", restart: str = "permanent", **options: Any
) -> Iterator[Program]:
    (path / "tree.py").write_text(TREE)
    with program(sys.executable, str(path / "tree.py"), how, restart, **options) as running:
        yield running


def heed(*numbers: signal.Signals, blocked: bool = False) -> Any:
    """For ``preexec_fn``: whatever the tests were started with."""

    def prepare() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL if number in numbers else signal.SIG_IGN)
        how = signal.SIG_BLOCK if blocked else signal.SIG_UNBLOCK
        signal.pthread_sigmask(how, {signal.SIGINT, signal.SIGTERM})

    return prepare


BOTH = heed(signal.SIGINT, signal.SIGTERM)


def serves() -> int:
    """Wait until the tree has started; return the root's pid."""
    named("b").call("get", retry=PATIENCE)
    root = named("root", SupervisorRef)
    root.child("b")  # answered after the start
    return root.pid


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_tree_in_order(tmp_path: Path, number: signal.Signals) -> None:
    with tree(tmp_path, preexec_fn=BOTH) as running:
        root = serves()
        running.process.send_signal(number)
        running.expect("terminate shutdown")
        running.expect("returned 0")
        assert running.process.wait(PATIENCE) == 0
    assert gone(root)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_kills_it(tmp_path: Path, number: signal.Signals) -> None:
    with tree(tmp_path, "in terminate", preexec_fn=BOTH) as running:
        root = serves()
        running.process.send_signal(signal.SIGTERM)
        running.expect("terminate shutdown")
        running.process.send_signal(number)
        running.expect(f"returned {128 + number}")
        assert running.process.wait(PATIENCE) == 128 + number
    assert gone(root)


def test_a_signal_stops_the_tree_as_it_starts(tmp_path: Path) -> None:
    with tree(tmp_path, "in init", preexec_fn=BOTH) as running:
        running.expect("in init")
        root, first = named("root").pid, named("a").pid
        running.process.send_signal(signal.SIGTERM)
        running.expect("returned 0")
        assert running.process.wait(PATIENCE) == 0
    assert gone(root)
    assert gone(first)


def test_a_signal_at_any_time_leaves_nothing(tmp_path: Path) -> None:
    """The fixture counts what is left."""
    for delay in range(12):
        with tree(tmp_path, preexec_fn=BOTH) as running:
            running.expect("starts")
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.process.wait(0.02 * delay)
            running.process.send_signal(signal.SIGTERM)
            # A signal that comes before ``run`` kills the program, which has nothing yet.
            assert running.process.wait(PATIENCE) in {0, -signal.SIGTERM}


def test_signals_that_were_blocked_are_heeded(tmp_path: Path) -> None:
    with tree(tmp_path, preexec_fn=heed(signal.SIGINT, signal.SIGTERM, blocked=True)) as running:
        serves()
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(PATIENCE) == 0


def test_a_background_command_ignores_ctrl_c_but_not_sigterm(tmp_path: Path) -> None:
    with tree(tmp_path, preexec_fn=heed()) as running:
        root = serves()
        running.process.send_signal(signal.SIGINT)
        assert named("b").call("get") == 0
        assert not gone(root)
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(PATIENCE) == 0


def test_giving_up_is_exit_status_1_with_the_reason(tmp_path: Path) -> None:
    with tree(tmp_path, preexec_fn=BOTH) as running:
        for _ in range(2):
            kill(named("b").within(retry=PATIENCE).call("pid"))
        line = running.expect("has ended: shutdown, as it gave up")
        assert "the last was of child 'b', which ended: killed" in line
        assert running.process.wait(PATIENCE) == 1


def test_a_killed_root_is_exit_status_1(tmp_path: Path) -> None:
    with tree(tmp_path, preexec_fn=BOTH) as running:
        kill(serves())
        running.expect("<SupervisorRef root> has ended: killed")
        assert running.process.wait(PATIENCE) == 1


def test_a_root_that_ends_in_order_is_exit_status_0(tmp_path: Path) -> None:
    with tree(tmp_path, preexec_fn=BOTH) as running:
        serves()
        named("root").stop()
        running.expect("returned 0")
        assert running.process.wait(PATIENCE) == 0


def test_a_start_that_fails_is_exit_status_1_with_the_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert supervisor.run([ChildSpec("a", Counter), ChildSpec("b", Counter, args=(1, 2, 3))]) == 1
    assert "b failed to start: TypeError" in caplog.text
    other = Counter.start_link(name="taken")
    assert supervisor.run([], name="taken") == 1
    assert f"the name 'taken' belongs to process {other.pid}" in caplog.text
    with pytest.raises(ValueError, match="two children have the id 'a'"):
        supervisor.run([ChildSpec("a", Counter), ChildSpec("a", Counter)])
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_signals_belong_to_the_main_thread() -> None:
    errors: list[Exception] = []

    def elsewhere() -> None:
        try:
            supervisor.run([])
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert "belongs into the main thread" in str(errors[0])


def test_run_returns_when_its_tree_has_ended_and_keeps_nothing_open() -> None:
    def stop() -> None:
        root = named("root", SupervisorRef)
        eventually(root.is_alive)
        root.child("a")  # answered after the start
        root.stop()

    before = len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        thread = threading.Thread(target=stop)
        thread.start()
        assert supervisor.run([ChildSpec("a", Counter)], name="root") == 0
        thread.join()
    connections.close_all()
    launch._forget_ended()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(("how", "status"), [("stopped", 0), ("killed", 1)])
def test_a_root_that_ends_before_it_is_monitored(
    monkeypatch: pytest.MonkeyPatch, how: str, status: int
) -> None:
    monitor = Ref.monitor

    def late(self: Any) -> Any:
        if how == "killed":
            kill(self.pid)
        else:
            self.stop()
        return monitor(self)

    monkeypatch.setattr(Ref, "monitor", late)
    assert supervisor.run([ChildSpec("a", Counter)]) == status


def test_a_down_tells_giving_up_apart() -> None:
    sup = Supervisor.start_link([ChildSpec("a", Counter, name="a")], intensity=0)
    monitor = sup.monitor()
    sup.count_children()
    kill(sup.child("a").pid)
    reason = monitor.wait(PATIENCE).reason
    assert reason == "shutdown"
    assert isinstance(reason, GaveUp)
    assert reason.why == (
        "more than 0 restarts within 5 s; the last was of child 'a', which ended: killed"
    )
    sup = Supervisor.start_link([ChildSpec("a", Counter)], intensity=0)
    monitor = sup.monitor()
    sup.stop("shutdown")
    assert not isinstance(monitor.wait(PATIENCE).reason, GaveUp)


STARTS = PATHS + (
    "import sys, time\n"
    "from supervisor import ChildSpec, GenServer, run\n"
    "class Ends(GenServer):\n"
    "    def terminate(self, reason):\n"
    "        time.sleep(float(sys.argv[1]))\n"
    "        print('has ended in order', flush=True)\n"
    "class Hangs(GenServer):\n"
    "    def init(self):\n"
    "        print('hangs', flush=True)\n"
    "        time.sleep(1000)\n"
    "if __name__ == '__main__':\n"
    "    children = [ChildSpec('e', Ends, shutdown=60), ChildSpec('h', Hangs)]\n"
    "    sys.exit(run(children, name='root'))\n"
)


def test_an_interrupted_start_waits_for_the_order_of_its_end(tmp_path: Path) -> None:
    """Also longer than a program's exit would wait for its actors."""
    (tmp_path / "starts.py").write_text(STARTS)
    command = [sys.executable, str(tmp_path / "starts.py"), "0.5"]
    with program(*command, preexec_fn=BOTH) as running:
        running.expect("hangs")
        running.process.send_signal(signal.SIGTERM)
        running.expect("has ended in order")
        assert running.process.wait(PATIENCE) == 0


def test_a_second_signal_kills_a_tree_that_starts(tmp_path: Path) -> None:
    (tmp_path / "starts.py").write_text(STARTS)
    command = [sys.executable, str(tmp_path / "starts.py"), "1000"]
    with program(*command, preexec_fn=BOTH) as running:
        running.expect("hangs")
        root = named("root").pid
        running.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.process.wait(0.3)
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(PATIENCE) == 128 + signal.SIGTERM
    assert gone(root)


def test_a_signal_at_each_line_of_a_start_leaves_nothing(tmp_path: Path) -> None:
    """The program sends itself a signal at one line after the other; the fixture counts."""
    (tmp_path / "lines.py").write_text(LINES)
    for line in range(0, 160, 11):
        command = [sys.executable, str(tmp_path / "lines.py"), str(line)]
        done = subprocess.run(command, timeout=50, check=False, preexec_fn=BOTH)
        # The second one, a second later, finds a tree that has been stopped, or is being stopped.
        assert done.returncode in {0, 128 + signal.SIGTERM}


LINES = PATHS + (
    "import os, signal, sys\n"
    "from actors import Counter\n"
    "from supervisor import ChildSpec, run\n"
    "from supervisor.spawn import launch\n"
    "left = int(sys.argv[1])\n"
    "signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGTERM))\n"
    "def trace(frame, event, argument):\n"
    "    global left\n"
    "    if event == 'line' and frame.f_code.co_filename == launch.__file__:\n"
    "        if left == 0: os.kill(os.getpid(), signal.SIGTERM)\n"
    "        left -= 1\n"
    "    return trace\n"
    "if __name__ == '__main__':\n"
    "    sys.settrace(trace)\n"
    "    signal.setitimer(signal.ITIMER_REAL, 1.0)\n"
    "    status = run([ChildSpec('c', Counter)], name='root')\n"
    "    sys.settrace(None)\n"
    "    sys.exit(status)\n"
)
