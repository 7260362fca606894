"""Every test runs in a network namespace and a runtime directory of its own, and leaves nothing.

This process is a subreaper: whatever a test starts and leaves behind becomes its child, and is
counted.
"""

import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import PATIENCE, another_namespace, run, wait_for_end

from supervisor import linux
from supervisor.testing import nothing_left

pytest_plugins = ["device_fixtures"]

CLONE_NEWNET = 0x40000000
libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Fail, rather than skip, where no TUN device can be made."""
    # The tests may have been started where it is ignored: then subprocess takes each status for 0.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
    except OSError as error:
        pytest.exit(f"the tests need TUN devices, and /dev/net/tun cannot be opened: {error}", 1)
    try:
        _enter_new_namespace()
    except OSError as error:
        pytest.exit(f"the tests need a network namespace each: {error}; run 'make test'", 1)
    linux.adopt_orphans()


def _enter_new_namespace() -> None:
    _check(libc.unshare(CLONE_NEWNET), "unshare(CLONE_NEWNET)")
    run("ip", "link", "set", "lo", "up")


@pytest.fixture(autouse=True)
def namespace() -> Iterator[None]:
    """Put the test, and what it starts, into a new network namespace with loopback up."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    _enter_new_namespace()
    try:
        yield
    finally:
        _check(libc.setns(before, CLONE_NEWNET), "setns")
        os.close(before)


@pytest.fixture(autouse=True)
def runtime_dir(namespace: None) -> Iterator[Path]:
    """Give the test a runtime directory; afterwards no process, file or descriptor is left."""
    with nothing_left(PATIENCE) as path:
        yield path
    left = _remaining_processes()
    assert not left, f"processes were left behind: {left}"


def _remaining_processes() -> list[str]:
    """Wait until all children have ended; kill and report those that do not."""
    deadline = time.monotonic() + PATIENCE
    left = []
    while True:
        linux.reap((), lambda _: True)
        pids = linux.children()
        if not pids:
            return left
        if not wait_for_end(pids[0], deadline - time.monotonic()):
            left.append(f"{pids[0]} {Path(f'/proc/{pids[0]}/cmdline').read_text()!r:.300}")
            os.kill(pids[0], signal.SIGKILL)
            wait_for_end(pids[0])


@pytest.fixture(name="run")
def run_fixture() -> Callable[..., str]:
    """Give the test a way to run real programs."""
    return run


@pytest.fixture(name="elsewhere")
def namespace_elsewhere() -> Iterator[int]:
    """Give the test the pid of a process in another network namespace."""
    with another_namespace() as pid:
        yield pid
