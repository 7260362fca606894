"""Real programs and processes, and waiting for what they do."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from supervisor import (
    linux,
)

ROOT = Path(__file__).parents[2]


SUPPORT = str(Path(__file__).parent)
"""Where a program that a test writes finds these modules."""


PATIENCE = 20.0  # seconds, after which a test that waits for an event has failed


EXAMPLES = ROOT / "examples"


Run: TypeAlias = Callable[..., str]
"""The type of ``run``, and of the fixture of that name."""


_Found = TypeVar("_Found")


_TRUE = object()


def eventually(
    look: Callable[[], _Found], expected: object = _TRUE, within: float = PATIENCE
) -> _Found:
    """Wait until a function returns something true, or what is expected, and return that.

    Raises:
        AssertionError: it did not in so many seconds; the text has what it returned last.
    """
    deadline = time.monotonic() + within
    found = look()
    while not (found if expected is _TRUE else found == expected):
        assert time.monotonic() < deadline, f"not within {within:g} s; seen last: {found!r}"
        time.sleep(0.001)  # the other tests, and what this one waits for, need the processors too
        found = look()
    return found


async def turns_during(work: Awaitable[_Found], pause: float = 0.0) -> tuple[_Found, int]:
    """Await something; return its result, and how often another task had a turn meanwhile."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(pause)
            turns += 1

    counting = asyncio.create_task(count())
    found = await work
    counting.cancel()
    return found, turns


def wait_for_end(pid: int, timeout: float = PATIENCE) -> bool:
    """Wait until a process has ended."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return linux.ended(pidfd, max(0.0, timeout))
    finally:
        os.close(pidfd)


def kill(pid: int) -> None:
    """Kill a process, and wait until it has ended."""
    os.kill(pid, signal.SIGKILL)
    assert wait_for_end(pid)


def stop(pid: int) -> None:
    """Stop a process by SIGSTOP, and wait until it has stopped: it may run on for a moment."""
    os.kill(pid, signal.SIGSTOP)
    eventually(lambda: state(pid), "T")


def state(pid: int) -> str:
    """Return the state of a process, a letter of proc_pid_stat(5); "X" if it has been reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0].decode()
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def run(*command: str) -> str:
    """Run a real program and return what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def gone(pid: int) -> bool:
    """Tell whether a process has ended: a zombie has."""
    return state(pid) in "ZX"


def children(pid: int) -> list[int]:
    """Return the children of a process; none if it has ended."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


class Program:
    """A real program that runs beside the test, and what it has printed so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.printed = ""

    def expect(self, text: str) -> str:
        """Read what it prints until this text is there; return the line with it."""
        assert self.process.stdout is not None
        while line := self.process.stdout.readline():
            self.printed += line
            if text in line:
                return line
        raise AssertionError(f"{self.process.args} ended without {text!r}: {self.printed}")


def heed_ctrl_c() -> None:
    """For ``preexec_fn``: the tests may have been started where SIGINT is ignored, or blocked."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


@contextlib.contextmanager
def program(*command: str, **options: Any) -> Iterator[Program]:
    """Run a real program beside the test; it is killed at the end, if it has not ended.

    If the test fails, pytest shows what the program had printed and nobody had read.
    """
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.PIPE,
        text=True,
        **options,
    )
    with process:
        try:
            yield Program(process)
        except BaseException:
            print(f"{command} had printed: {_unread(process)}")
            raise
        finally:
            process.kill()


def _unread(process: subprocess.Popen[str]) -> str:
    """Return what a program has printed and nobody has read, without waiting for more."""
    assert process.stdout is not None
    try:
        os.set_blocking(process.stdout.fileno(), False)
        return process.stdout.read()
    except (TypeError, ValueError):  # nothing is there; the test has closed it
        return ""


@contextlib.contextmanager
def another_namespace() -> Iterator[int]:
    """Make a network namespace, with loopback up; yield the pid of a process in it."""
    with program("unshare", "--net", "sh", "-c", "ip link set lo up; echo ready; cat") as holder:
        holder.expect("ready")
        yield holder.process.pid


PATHS = f"import sys; sys.path[:0] = [{SUPPORT!r}]\n"
"""The head of a program that imports what the tests have."""


def python(code: str, *arguments: str, timeout: float = 50.0) -> str:
    """Run a program that may import the tests' actors; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", f"{PATHS}{code}", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def resident(pid: int) -> int:
    """Return the bytes of memory that a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


def descriptors(pid: int) -> dict[str, str]:
    found = {}
    for number in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found[number] = os.readlink(f"/proc/{pid}/fd/{number}")
    return found


TUNCER = str(Path(sys.executable).with_name("tuncer"))
