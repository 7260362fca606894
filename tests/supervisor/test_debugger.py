"""breakpoint() in an actor, on a real terminal and without one."""

import contextlib
import os
import pty
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from actors import Counter
from processes import PATIENCE, SUPPORT

from supervisor import ChildSpec, ProcessDown, Sender, Supervisor, SupervisorRef, linux

PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
from actors import Counter
from supervisor import ChildSpec, Supervisor
if __name__ == "__main__":
    sup = Supervisor.start_link([ChildSpec("c", Counter, (41,), watchdog=0.1)])
    print("reply:", sup.child("c").call("breakpoint", timeout={patience}))
    print("again:", sup.child("c").call("get"))
"""


def read_until(terminal: int, text: str) -> str:
    seen = ""
    while text not in seen:
        try:
            seen += os.read(terminal, 4096).decode()
        except OSError as error:  # EIO: the program has ended
            raise AssertionError(seen) from error
    return seen


def test_the_terminal_of_the_program_debugs_an_actor(runtime_dir: Path) -> None:
    path = runtime_dir / "program.py"
    path.write_text(PROGRAM.format(tests=SUPPORT, patience=PATIENCE))
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, str(path)])  # noqa: S606 - on a terminal of its own
    # Longer than the watchdog would have let it: its prompt waits, and is waited for.
    read_until(terminal, "(Pdb, process ")
    os.write(terminal, b"import time; time.sleep(0.5)\n")
    os.write(terminal, b"self.n += 1\n")
    os.write(terminal, b"p 'n is', self.n\n")
    assert "('n is', 42)" in read_until(terminal, "('n is', 42)")
    os.write(terminal, b"c\n")
    assert "hung" not in read_until(terminal, "again: 42")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(terminal)


UNDER_PYTEST = """
import sys
sys.path.insert(0, {tests!r})
from actors import Counter

def test_it():
    assert Counter.start_link(41).call("breakpoint", timeout={patience}) == 42
"""


def test_pytest_may_capture_the_output(runtime_dir: Path) -> None:
    path = runtime_dir / "test_it.py"
    path.write_text(UNDER_PYTEST.format(tests=SUPPORT, patience=PATIENCE))
    pid, terminal = pty.fork()
    if pid == 0:
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(path)]
        os.execv(sys.executable, command)  # noqa: S606 - on a terminal of its own
    read_until(terminal, "(Pdb, process ")
    os.write(terminal, b"self.n += 1\n")
    os.write(terminal, b"c\n")
    read_until(terminal, "1 passed")
    with contextlib.suppress(OSError):
        while os.read(terminal, 4096):
            pass
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(terminal)


@pytest.fixture
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have actors start as from a program without a terminal, wherever the tests run."""
    monkeypatch.setattr(linux, "controlling_terminal", lambda: None)


@pytest.mark.usefixtures("no_terminal")
def test_without_a_terminal_it_goes_on(capfd: Any) -> None:
    sup: SupervisorRef = Supervisor.start_link([ChildSpec("c", Counter, (5,))])
    assert sup.child("c").call("breakpoint") == 5
    assert "neither this actor nor its program has a terminal" in capfd.readouterr().err


class ImportsSlowly(Counter):
    """Imports pdb in more time than its watchdog allows."""

    def init(self, value: int) -> Any:
        sys.modules.pop("pdb", None)
        sys.meta_path.insert(0, self)
        return super().init(value)

    @staticmethod
    def find_spec(name: str, *_: object) -> None:
        if name == "pdb":
            time.sleep(0.5)


@pytest.mark.usefixtures("no_terminal")
def test_a_debugger_may_be_slow_to_import(capfd: Any) -> None:
    spec = ChildSpec("c", ImportsSlowly, (5,), watchdog=0.1)
    ref = Supervisor.start_link([spec]).child("c")
    assert ref.call("breakpoint") == 5
    assert "neither this actor nor its program has a terminal" in capfd.readouterr().err


def test_a_watchdog_goes_on_when_the_debugger_fails(capfd: Any) -> None:
    spec = ChildSpec("c", FailsToImport, (5,), watchdog=1.0)
    ref = Supervisor.start_link([spec]).child("c")
    with pytest.raises(ProcessDown, match="hung"):
        ref.call("breakpoint, and hang", timeout=PATIENCE)
    capfd.readouterr()


class FailsToImport(ImportsSlowly):
    """Finds no pdb, and hangs after that if it is told to."""

    @staticmethod
    def find_spec(name: str, *_: object) -> None:
        if name == "pdb":
            raise ImportError("no pdb here")

    def handle_call(self, request: Any, sender: Sender) -> Any:
        if request == "breakpoint, and hang":
            with contextlib.suppress(ImportError):
                breakpoint()  # noqa: T100 - what is tried
            time.sleep(2 * PATIENCE)
        return super().handle_call(request, sender)
