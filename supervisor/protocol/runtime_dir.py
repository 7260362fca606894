"""The runtime directory: where mailboxes and names of this user's actors are found.

``$TUNCER_RUNTIME_DIR``, else the first that can be written of ``$XDG_RUNTIME_DIR/tuncer``,
``/run/tuncer`` and ``/tmp/tuncer-UID``. It belongs to one user: mode 0700, owner checked. Processes
that a program has started use the directory that it has found.

What lies there may be removed at any time: by logind at the end of a session, by systemd-tmpfiles
by its age. So a root holds a lock that tmpfiles.d(5) respects, sees a removal, makes the directory
again, and has every process below it restore what is its own.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from multiprocessing import process as multiprocessing_process
from pathlib import Path

from supervisor import linux
from supervisor.linux import Process

log = logging.getLogger("supervisor")

# sun_path of unix(7), less the longest name: pid, start (in 300 years), pid namespace.
_LONGEST = 107 - len("/mailboxes/4194304.999999999999.4294967295")
parts = ["mailboxes", "names"]
"""The directories that every process needs in it; packages that put files here add theirs."""
_DYING = 5.0  # seconds that a process which is being killed may take
_PATIENCE = 0.5  # seconds that the lock may be held by another process, which needs microseconds
_STUCK = 10.0  # seconds in which a lock is not waited for again that was waited for in vain
_OLD = 60.0  # seconds after which a socket of another pid namespace is no newborn one
_ATTEMPTS = 100  # to lock a file that may be removed meanwhile
_SPARE_NAMES = 10  # of /tmp/tuncer-UID, which anybody may make before its user does

sweepers: list[Callable[[], None]] = []
"""What else ``sweep`` does: functions of packages that put sockets of their own here."""

_known: dict[tuple[str | None, str | None, int], Path] = {}
_given: Path | None = None
_stuck_until = 0.0


def use(path: str) -> None:
    """Use the directory that the program has found which has started this process."""
    global _given  # it is the process's
    _given = Path(path)


def directory() -> Path:
    """Return the runtime directory, made if need be.

    Raises:
        OSError: none can be written, or it belongs to somebody else, or its path is too long.
    """
    if _given is not None:
        return _given
    explicit, session = os.environ.get("TUNCER_RUNTIME_DIR"), os.environ.get("XDG_RUNTIME_DIR")
    key = (explicit or None, session or None, os.geteuid())
    if key not in _known:
        _known[key] = _find(*key[:2])
    return _known[key]


def make_again() -> bool:
    """Make the directory, if it has vanished; tell whether it had. A supervisor does before a fork.

    It takes the child longer: its first touch of a page copies that.
    """
    if is_whole():
        return False
    _made(directory())
    return True


def is_whole() -> bool:
    """Tell whether the directory is there, and those that every process needs in it.

    After a removal another user may have made it, or put a link in its place.
    """
    path = directory()
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return _is_ours(found) and all(os.path.isdir(f"{path}/{part}") for part in parts)


def _is_ours(found: os.stat_result) -> bool:
    private = found.st_uid == os.geteuid() and not found.st_mode & 0o077
    return stat.S_ISDIR(found.st_mode) and private


def needed() -> list[Path]:
    """Return the directory, and those that every process needs in it."""
    path = directory()
    return [path, *(path / part for part in parts)]


def _parts() -> list[Path]:
    """Return the directory and those in it, as far as they are there."""
    found = needed()
    with contextlib.suppress(OSError):  # it has been removed
        found += [entry for entry in directory().iterdir() if entry.is_dir()]
    return list(dict.fromkeys(found))


def hold() -> dict[Path, int]:
    """Return descriptors of the directory and those in it, as far as they are there.

    They keep systemd-tmpfiles from cleaning it by age: that leaves alone a directory, and what is
    in it, of which somebody holds a lock, tmpfiles.d(5). They also keep the inodes from being given
    to later directories.
    """
    held: dict[Path, int] = {}
    for path in _parts():
        with contextlib.suppress(OSError):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
            held[path] = fd
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return held


# -- mailboxes -------------------------------------------------------------------------------------


def mailbox(process: Process) -> Path:
    """Return the path of the mailbox that belongs to this one incarnation of a process."""
    return directory() / "mailboxes" / f"{process.pid}.{process.start}{_suffix()}"


def mailbox_elsewhere(process: Process, namespace: str) -> Path:
    """Return the path of the mailbox of a process of another pid namespace."""
    suffix = f".{namespace}" if namespace else ""
    return directory() / "mailboxes" / f"{process.pid}.{process.start}{suffix}"


def _suffix() -> str:
    """Return the suffix of this pid namespace: in another one the same pid is another process."""
    namespace = linux.pid_namespace()
    return f".{namespace}" if namespace else ""


def sweep() -> None:
    """Remove the mailboxes of processes that have ended without doing so themselves.

    Those that are being killed right now, with their supervisor, are waited for. What cannot be
    judged stays.
    """
    with contextlib.suppress(FileNotFoundError):  # the directory is removed: nothing is left in it
        _sweep()


def _sweep() -> None:
    for path in (directory() / "mailboxes").iterdir():
        pid, _, rest = path.name.partition(".")
        start, _, namespace = rest.partition(".")
        if not (pid.isdecimal() and start.isdecimal()):
            continue
        if namespace != linux.pid_namespace():
            if is_left_elsewhere(path):
                path.unlink(missing_ok=True)
            continue
        process = Process(int(pid), int(start))
        linux.wait_if_dying(process, _DYING)
        if not linux.alive(process):
            path.unlink(missing_ok=True)
    for sweeper in sweepers:
        sweeper()


def is_left_elsewhere(path: Path) -> bool:
    """Tell whether nobody listens any more at a socket of another pid namespace's process.

    A newborn one may be about to listen.
    """
    try:
        if time.time() - path.lstat().st_mtime < _OLD:
            return False
    except OSError:
        return True
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(0)
        return probe.connect_ex(str(path)) == errno.ECONNREFUSED


# -- the lock --------------------------------------------------------------------------------------


@contextlib.contextmanager
def lock() -> Iterator[None]:
    """Hold the lock of the directory, for the few microseconds that a change of names takes.

    A process that is stopped while it holds the lock is not waited for without an end.
    """
    path = str(directory() / "lock")
    for _ in range(_ATTEMPTS):
        with _locked(path) as fd:
            if _is_there(path, fd):
                yield
                return
    raise OSError(errno.EAGAIN, "another program removes this lock file again and again", path)


@contextlib.contextmanager
def _locked(path: str) -> Iterator[int]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        held = _acquired(fd)
        try:
            yield fd
        finally:
            # Not by closing alone: a fork of another thread may have taken the descriptor along.
            if held:
                fcntl.flock(fd, fcntl.LOCK_UN)
    finally:
        os.close(fd)


def _is_there(path: str, fd: int) -> bool:
    """Tell whether a locked file is still the one at this path.

    systemd-tmpfiles may have removed the file because of its age. Another process would then make
    and lock a new file at the path, and two processes would hold the lock at a time.
    """
    try:
        return os.path.samestat(os.lstat(path), os.fstat(fd))
    except FileNotFoundError:
        return False


def _acquired(fd: int) -> bool:
    global _stuck_until
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            now = time.monotonic()
            if now < _stuck_until:
                return False
            if now >= deadline:
                _stuck_until = now + _STUCK
                text = "a stopped process holds the lock of %s: this process goes on without it"
                log.warning(text, directory())
                return False
            time.sleep(0.001)
        else:
            return True


# -- finding it ------------------------------------------------------------------------------------


def _find(explicit: str | None, session: str | None) -> Path:
    if explicit:
        started_in = getattr(multiprocessing_process, "ORIGINAL_DIR", None) or "/"
        return _made(_trusted(Path(os.path.join(started_in, explicit))))
    problems: list[OSError] = []
    for path in ([Path(session) / "tuncer"] if session else []) + [Path("/run/tuncer")]:
        try:
            return _made(_trusted(path))
        except OSError as error:
            problems.append(error)
    try:
        return _made(_of_many(f"/tmp/tuncer-{_user()}"))  # noqa: S108 - owner and mode are checked
    except OSError as error:
        problems.append(error)
    tried = "; ".join(str(problem) for problem in problems)
    raise PermissionError(f"no runtime directory can be written, set TUNCER_RUNTIME_DIR: {tried}")


def _of_many(path: str) -> Path:
    """Return a directory that is this user's, or else the first name that nobody has taken."""
    names = [path, *(f"{path}.{number}" for number in range(1, _SPARE_NAMES))]
    for name in names:
        with contextlib.suppress(OSError):
            found = os.lstat(name)
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
                return Path(name)
    return Path(next((name for name in names if not os.path.lexists(name)), path))


def _trusted(path: Path) -> Path:
    """Return a path of which root may remove something.

    Whoever may rename a directory on the way could swap in another one.

    Raises:
        PermissionError: another user than root may.
    """
    if os.geteuid() != 0:
        return path
    nobody = linux.overflow_user()  # who root outside is, in a user namespace
    for above in Path(os.path.realpath(path)).parents:
        with contextlib.suppress(FileNotFoundError):
            found = above.stat()
            writable = found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX
            if found.st_uid not in {0, nobody} or writable:
                raise PermissionError(
                    f"{path} lies in {above}, where another user than root may swap directories"
                )
    return path


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
    make(path)
    if not _is_ours(path.lstat()):
        raise PermissionError(f"{path} must be a directory of this user's with mode 0700")
    for part in parts:
        make(path / part)
    return path


def make(path: Path) -> None:
    """Make a directory of mode 0700, whatever the umask is, unless there is one.

    Raises:
        OSError: it cannot be made, or something else has its name.
    """
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        if not stat.S_ISDIR(path.lstat().st_mode):
            raise
        return
    path.chmod(0o700)
