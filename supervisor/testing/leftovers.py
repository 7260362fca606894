"""What a test of actors leaves behind: processes, sockets, names, descriptors."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from supervisor import linux, log_collector
from supervisor.client import connections
from supervisor.protocol import runtime_dir
from supervisor.spawn import launch

_VARIABLE = "TUNCER_RUNTIME_DIR"
_PATIENCE = 10.0  # seconds in which what has been told to end ends
_LOOKS, _LOOK = 20, 0.001  # at an environment that is not there yet, and seconds between two


@contextlib.contextmanager
def nothing_left(patience: float = _PATIENCE) -> Iterator[Path]:
    """Give a runtime directory to what is started meanwhile, and check that nothing stays.

    At the end what this process has started by ``start_link`` is stopped. Then nothing may be left
    of what was started meanwhile: no process that has this runtime directory in its environment, no
    socket or name in the directory, and no descriptor of this process.

    Yields:
        The directory.

    Raises:
        AssertionError: what is left. Processes are killed, and the directory is removed.
    """
    path = Path(tempfile.mkdtemp(prefix="tuncer-"))
    former = os.environ.get(_VARIABLE)
    os.environ[_VARIABLE] = str(path)
    before, collected = descriptors(), log_collector.is_collecting()
    try:
        yield path
    finally:
        launch.stop_linked()
        if not collected:
            log_collector.stop_collecting()
        connections.close_all()
        if former is None:
            del os.environ[_VARIABLE]
        else:
            os.environ[_VARIABLE] = former
        left = _processes(path, patience)
        left += [f"the file {name}" for name in _files(path)]
        new = dict(descriptors().items() - before.items())
        left += [f"descriptor {fd}: {target}" for fd, target in new.items()]
        shutil.rmtree(path, ignore_errors=True)
    if left:
        raise AssertionError("left behind: " + "; ".join(left))


def _processes(path: Path, patience: float) -> list[str]:
    """Wait for the end of all processes of a runtime directory; kill and return those that stay."""
    deadline = time.monotonic() + patience
    left = []
    for pid in _pids_of(path):
        with contextlib.suppress(ProcessLookupError):
            pidfd = os.pidfd_open(pid)
            try:
                if not linux.ended(pidfd, max(0.0, deadline - time.monotonic())):
                    command = linux.command(pid).replace(b"\0", b" ").decode(errors="replace")
                    left.append(f"process {pid}, {command:.200}")
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                    linux.ended(pidfd, patience)
            finally:
                os.close(pidfd)
    linux.reap_adopted()
    return left


def _pids_of(path: Path) -> list[int]:
    pids = [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    mark = str(path).encode()
    return [pid for pid in pids if pid != os.getpid() and _environment(pid) == mark]


def _environment(pid: int) -> bytes | None:
    """Return the runtime directory in a process's environment.

    An exec closes descriptors, which tells of a program's start, a moment before the kernel shows
    the new environment; it has no event for that.
    """
    for _ in range(_LOOKS):
        if found := linux.environment(pid):
            return found.get(_VARIABLE.encode())
        if not os.path.exists(f"/proc/{pid}/exe"):  # a thread of the kernel, or it has ended
            break
        time.sleep(_LOOK)
    return None


def _files(path: Path) -> list[str]:
    found = (file for part in runtime_dir.parts for file in (path / part).glob("*"))
    return sorted(str(file.relative_to(path)) for file in found)


def descriptors() -> dict[str, str]:
    """Return the descriptors of this process, and of what they are."""
    found = {}
    for fd in sorted(os.listdir("/proc/self/fd"), key=int):
        with contextlib.suppress(OSError):  # it was that of the listing
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
    return found
