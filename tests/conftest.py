"""Every test runs in a network namespace of its own, which the kernel removes after it."""

import ctypes
import os
import subprocess
from collections.abc import Callable, Iterator

import pytest

CLONE_NEWNET = 0x40000000
libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Fail, rather than skip, where no TUN device can be made."""
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
    except OSError as error:
        pytest.exit(f"the tests need TUN devices, and /dev/net/tun cannot be opened: {error}", 1)
    try:
        _enter_new_namespace()
    except OSError as error:
        pytest.exit(f"the tests need a network namespace each: {error}; run 'make test'", 1)


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
def descriptors() -> Iterator[None]:
    """No test leaves descriptors behind."""
    before = os.listdir("/proc/self/fd")
    yield
    after = os.listdir("/proc/self/fd")
    assert len(after) <= len(before), {fd: _target(fd) for fd in set(after) - set(before)}


def _target(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return "closed"


def run(*command: str) -> str:
    """Run a real program and return what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(name="run")
def run_fixture() -> Callable[..., str]:
    """Give the test a way to run real programs."""
    return run
