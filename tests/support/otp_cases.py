"""Supervisors against Erlang/OTP's own: the same operations, on both, with the same outcome.

What is compared, after each operation: its result, the children and their states, what has been
started and stopped and in which order, and how the supervisor ended.
"""

import contextlib
import os
import select
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from actors import Scripted
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from processes import PATIENCE, eventually, wait_for_end

from supervisor import (
    AlreadyPresent,
    AlreadyStarted,
    ChildSpec,
    NoProcess,
    NotFound,
    ProcessDown,
    Restarting,
    Shutdown,
    StartFailed,
    StillRunning,
    Supervisor,
    SupervisorRef,
)

RESULTS = {
    AlreadyPresent: "already_present",
    AlreadyStarted: "already_started",
    NotFound: "not_found",
    Restarting: "restarting",
    StartFailed: "failed",
    StillRunning: "running",
}
REASONS = {
    "normal": "normal",
    "shutdown": "shutdown",
    "{shutdown,x}": Shutdown("x"),
    "boom": "boom",
}

Spec = tuple[str, str, bool, list[str]]
Operation = tuple[Any, ...]
Case = tuple[dict[str, Any], list[Spec], list[Operation]]


# -- cases -----------------------------------------------------------------------------------------

ids = st.sampled_from("abcd")
outcomes = st.lists(st.sampled_from(["ok", "ok", "ignore", "error"]), max_size=5)


def specs(significant: bool) -> st.SearchStrategy[Spec]:
    kinds = [("permanent", False), ("transient", False), ("temporary", False)]
    if significant:
        kinds = 2 * [("transient", True), ("temporary", True)] + kinds
    kind = st.sampled_from(kinds)
    return st.builds(lambda i, k, o: (i, *k, o), ids, kind, outcomes)


def operations(significant: bool) -> st.SearchStrategy[Operation]:
    reasons = st.sampled_from([*REASONS, "killed"])
    exits = st.tuples(st.just("exit"), ids, reasons)
    named = st.tuples(st.sampled_from(["terminate_child", "restart_child", "delete_child"]), ids)
    starts = st.tuples(st.just("start_child"), specs(significant))
    return st.one_of(exits, exits, exits, named, starts)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    auto_shutdown = draw(st.sampled_from(["never", "any_significant", "all_significant"]))
    significant = auto_shutdown != "never"
    flags = {
        "strategy": draw(st.sampled_from(["one_for_one", "one_for_all", "rest_for_one"])),
        "intensity": draw(st.integers(0, 5)),
        "period": 1000,
        "auto_shutdown": auto_shutdown,
    }
    children = draw(st.lists(specs(significant), max_size=4, unique_by=lambda spec: spec[0]))
    return flags, children, draw(st.lists(operations(significant), max_size=8))


# -- the oracle ------------------------------------------------------------------------------------


SILENCE = 30.0  # seconds without a line, after which the oracle has failed


class Erlang:
    """A node that runs otp.escript."""

    def __init__(self) -> None:
        command = ["escript", str(Path(__file__).parent / "otp.escript")]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._printed = b""

    def run(self, case: Case) -> list[str]:
        """Return what it prints of a case.

        Raises:
            AssertionError: it ended, or was silent for too long; the text has what it said last.
        """
        assert self.process.stdin is not None
        self.process.stdin.write((term(case) + ".\n").encode())
        self.process.stdin.flush()
        lines: list[str] = []
        while not lines or lines[-1] != "end":
            lines.append(self._line(case, lines))
        return lines[:-1]

    def _line(self, case: Case, before: list[str]) -> str:
        assert self.process.stdout is not None
        while b"\n" not in self._printed:
            ready = select.select([self.process.stdout], [], [], SILENCE)[0]
            said = f"{term(case)}: it said {before} and {self._printed!r}"
            assert ready, f"the node has said nothing for {SILENCE:g} s to {said}"
            printed = os.read(self.process.stdout.fileno(), 65536)
            assert printed, f"the node has ended, asked for {said}"
            self._printed += printed
        line, self._printed = self._printed.split(b"\n", 1)
        return line.decode().rstrip()


def term(value: Any) -> str:
    """Write a value as Erlang does; text is an atom, or a term already."""
    if isinstance(value, dict):
        return "#{" + ",".join(f"{key}=>{term(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(term, value)) + "]"
    if isinstance(value, tuple):
        return "{" + ",".join(map(term, value)) + "}"
    return str(value).lower() if isinstance(value, bool) else str(value)


@contextlib.contextmanager
def erlang() -> Iterator[Erlang]:
    if shutil.which("escript") is None:
        pytest.fail("this compares with Erlang/OTP; type: sudo apt-get install erlang-base")
    node = Erlang()
    with node.process:
        try:
            yield node
        finally:
            node.process.kill()  # one that has been silent may not heed the end of its input


# -- ours ------------------------------------------------------------------------------------------


class Ours:
    """A case on our supervisor, which is a child of one that serves all cases."""

    def __init__(self, root: SupervisorRef, place: Path) -> None:
        self.root = root
        self.place = place
        self.lines: list[str] = []

    def run(self, case: Case) -> list[str]:
        flags, children, operations = case
        self.lines = []
        for path in self.place.iterdir():
            path.unlink()
        plans = [self.spec(child) for child in children]
        whole = ChildSpec("case", Supervisor, (plans,), flags, restart="temporary")
        try:
            self.sup: SupervisorRef = self.root.start_child(whole)  # type: ignore[assignment]
        except StartFailed as error:
            self.lines.append(f"failed {error.reason.child} |{self.log()}")  # type: ignore[union-attr]
            return self.lines
        self.tell("started")
        for operation in operations:
            if not self.operate(operation):
                return self.lines
        self.monitor = self.sup.monitor()
        self.sup.count_children()
        self.sup.stop("shutdown")
        self.lines.append(f"stopped {self.monitor.wait(PATIENCE).reason} |{self.log()}")
        return self.lines

    def operate(self, operation: Operation) -> bool:
        monitor = self.sup.monitor()
        self.sup.count_children()  # now it knows of the monitor
        try:
            result = self.operation(operation)
            self.settle()
            self.tell(result)
        except (NoProcess, ProcessDown):
            self.lines.append(f"down {monitor.wait(PATIENCE).reason} |{self.log()}")
            return False
        return True

    def operation(self, operation: Operation) -> str:
        word, subject, *rest = operation
        if word == "exit":
            return self.exit(subject, *rest)
        argument = self.spec(subject) if word == "start_child" else subject
        try:
            done = getattr(self.sup, word)(argument)
        except tuple(RESULTS) as error:
            return RESULTS[type(error)]
        if word in {"terminate_child", "delete_child"}:
            return "ok"
        return "ignored" if done is None else "started"

    def exit(self, child: str, reason: str) -> str:
        refs = {row[0]: row[1] for row in self.sup.which_children()}
        ref = refs.get(child)
        if ref is None:
            return "not_running"
        pid = ref.pid
        if reason == "killed":
            os.kill(pid, signal.SIGKILL)
        else:
            ref.cast(REASONS[reason])
        assert wait_for_end(pid)
        return "left"

    def settle(self) -> None:
        """Wait until the supervisor has dealt with everything."""
        eventually(
            lambda: not ({row[3] for row in self.sup.which_children()} - {"running", "undefined"})
        )

    def tell(self, word: str) -> None:
        rows = sorted(f" {row[0]}={row[3]}" for row in self.sup.which_children())
        self.lines.append(f"{word} |{''.join(rows)} |{self.log()}")

    def spec(self, spec: Spec) -> ChildSpec:
        child, restart, significant, starts = spec
        arguments = (str(self.place), child, list(starts))
        return ChildSpec(
            child,
            Scripted,
            arguments,
            restart=restart,
            significant=significant,  # type: ignore[arg-type]
        )

    def log(self) -> str:
        path = self.place / "log"
        if not path.exists():
            return ""
        lines = path.read_text().splitlines()
        path.write_text("")
        return "".join(f" {line};" for line in lines)


# -- the comparison --------------------------------------------------------------------------------


def compare(number: int, place: Path, capfd: Any, *, derandomize: bool) -> None:
    """Run so many cases on both; see that their outcomes are the same."""
    with erlang() as otp:
        ours = Ours(Supervisor.start_link([]), place)

        @given(cases())
        @settings(
            max_examples=number,
            derandomize=derandomize,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        def the_same(case: Case) -> None:
            capfd.readouterr()
            assert ours.run(case) == otp.run(case)

        the_same()
        capfd.readouterr()
