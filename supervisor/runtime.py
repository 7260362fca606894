"""The runtime directory: where mailboxes and names of this user's actors are found.

``$TUNCER_RUNTIME_DIR``, else the first that can be written of ``$XDG_RUNTIME_DIR/tuncer``,
``/run/tuncer`` and ``/tmp/tuncer-UID``. It belongs to one user: mode 0700, owner checked.
"""

import contextlib
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from supervisor import linux
from supervisor.linux import Process

_LONGEST = 107 - len("/mailboxes/4194304.18446744073709551615")  # sun_path of unix(7)

_PARTS = ("mailboxes", "names")

_DYING = 5.0  # seconds that a process which is being killed may take

sweepers: list[Callable[[], None]] = []
"""What else ``sweep`` does: functions of packages that put sockets of their own here."""

_known: dict[tuple[str | None, str | None, int], Path] = {}


def directory() -> Path:
    """Return the runtime directory, made if need be.

    Raises:
        OSError: none can be written, or it belongs to somebody else, or its path is too long.
    """
    explicit, session = os.environ.get("TUNCER_RUNTIME_DIR"), os.environ.get("XDG_RUNTIME_DIR")
    key = (explicit or None, session or None, os.geteuid())
    if key not in _known:
        _known[key] = _find(*key[:2])
    return _known[key]


def make_again() -> None:
    """Make the directory, if it has vanished. A supervisor does so before it forks.

    It takes the child longer: its first touch of a page copies that.
    """
    known = directory()
    if not all(os.path.isdir(f"{known}/{part}") for part in _PARTS):
        _known.clear()
        directory()


def mailbox(process: Process) -> Path:
    """Return the path of the mailbox that belongs to this one incarnation of a process."""
    return directory() / "mailboxes" / f"{process.pid}.{process.start}"


def sweep() -> None:
    """Remove the mailboxes of processes that have ended without doing so themselves.

    Those that are being killed right now, with their supervisor, are waited for.
    """
    for path in (directory() / "mailboxes").iterdir():
        pid, _, start = path.name.partition(".")
        process = Process(int(pid), int(start)) if pid.isdigit() and start.isdigit() else None
        if process is not None:
            linux.wait_if_dying(process, _DYING)
        if process is None or not linux.alive(process):
            path.unlink(missing_ok=True)
    for sweeper in sweepers:
        sweeper()


@contextlib.contextmanager
def lock() -> Iterator[None]:
    """Hold the lock of the directory, for the few microseconds that a change of names takes."""
    fd = os.open(directory() / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        # Not by closing alone: a fork of another thread may have taken the descriptor along.
        fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)


def _find(explicit: str | None, session: str | None) -> Path:
    if explicit:
        return _made(Path(explicit))
    candidates = [Path(session) / "tuncer"] if session else []
    candidates += [Path("/run/tuncer"), Path(f"/tmp/tuncer-{_user()}")]  # noqa: S108 - owner and mode are checked
    problems: list[OSError] = []
    for path in candidates:
        try:
            return _made(path)
        except OSError as error:
            problems.append(error)
    tried = "; ".join(str(problem) for problem in problems)
    raise PermissionError(f"no runtime directory can be written, set TUNCER_RUNTIME_DIR: {tried}")


def _user() -> int:
    """Return the user's id outside: in a user namespace, 0 may be anybody."""
    inside = os.geteuid()
    for line in Path("/proc/self/uid_map").read_text(encoding="ascii").splitlines():
        first, outside, count = map(int, line.split())
        if first <= inside < first + count:
            return outside + inside - first
    return inside


def _made(path: Path) -> Path:
    if len(os.fsencode(path)) > _LONGEST:
        raise OSError(
            f"{path}: sockets cannot be named below so long a path, at most {_LONGEST} bytes"
        )
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise PermissionError(f"{path} must be a directory of this user's with mode 0700")
    for part in _PARTS:
        (path / part).mkdir(mode=0o700, exist_ok=True)
    return path
