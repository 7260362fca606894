"""Names of actors: which incarnation a name means now.

One file a name in the runtime directory. Readers take no lock: a file is replaced as a whole.
Writers hold a lock of the directory for the few microseconds that they need. If a stopped process
keeps the lock, they go on without it. Even then one of two processes gets a name, as link(2) fails
for the other.
"""

from __future__ import annotations

import contextlib
import functools
import os
from typing import NamedTuple
from urllib.parse import quote, unquote

from supervisor import linux
from supervisor.errors import AlreadyRegistered
from supervisor.linux import Process
from supervisor.protocol import restoration, runtime_dir

_LONGEST = 200  # bytes of a quoted name, which is a file's name
_ATTEMPTS = 100


class Holder(NamedTuple):
    """Who has a name."""

    process: Process
    namespace: str
    """Of its pid, as of ``linux.pid_namespace``."""

    def has_ended(self) -> bool:
        """Tell whether it certainly has."""
        if self.namespace == linux.pid_namespace():
            return not linux.alive(self.process)
        return runtime_dir.is_left_elsewhere(runtime_dir.mailbox_elsewhere(*self))


def register(name: str, process: Process) -> None:
    """Give a name to a process.

    Raises:
        AlreadyRegistered: another living process has it.
        ValueError: empty or too long.
    """
    path, own = _path(name), Holder(process, linux.pid_namespace())
    new = _file(f".{process.pid}.{process.start}.{own.namespace}")
    with runtime_dir.lock():
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, f"{process.pid} {process.start} {own.namespace}".encode())
        finally:
            os.close(fd)
        try:
            _link(name, new, path, own)
        finally:
            _remove(new)


def _link(name: str, new: str, path: str, own: Holder) -> None:
    for _ in range(_ATTEMPTS):
        try:
            os.link(new, path)
        except FileExistsError:
            holder = _read(path)
            if holder == own:
                return
            if holder is not None and not holder.has_ended():
                raise AlreadyRegistered(name, holder.process) from None
            _remove(path)
        else:
            return


def unregister(name: str, process: Process) -> None:
    """Free a name, if this process has it."""
    path = _path(name)
    with runtime_dir.lock():
        if _read(path) == Holder(process, linux.pid_namespace()):
            _remove(path)


def lookup(name: str) -> Process | None:
    """Return the living process that has a name. That of an ended one is freed on the way.

    A process of another pid namespace cannot be told from here.
    """
    path = _path(name)
    return _living(path, restoration.look_up(lambda: _read(path)))


def has_holder(name: str) -> bool:
    """Tell whether somebody has a name, or had it and has ended."""
    return _read(_path(name)) is not None


def _living(path: str, holder: Holder | None) -> Process | None:
    if holder is None:
        return None
    if holder.has_ended():
        # If somebody removes the directory meanwhile, the name is free, too.
        with contextlib.suppress(FileNotFoundError), runtime_dir.lock():
            if _read(path) == holder:
                _remove(path)
        return None
    return holder.process if holder.namespace == linux.pid_namespace() else None


def watch(inotify: int) -> bool:
    """Have a descriptor of ``linux.inotify`` tell when a name is registered; False if it cannot."""
    return linux.watch_creations(inotify, _file(""))


def names() -> dict[str, Process]:
    """Return all names and who has them; those of ended processes are removed on the way."""
    try:
        files = os.listdir(_file(""))
    except FileNotFoundError:  # somebody has removed the directory
        return {}
    for name in files:
        _remove_unfinished(name)
    paths = {unquote(name): _file(name) for name in files if not name.startswith(".")}
    found = {name: _living(path, _read(path)) for name, path in paths.items()}
    return {name: holder for name, holder in found.items() if holder is not None}


def _remove_unfinished(name: str) -> None:
    """Remove the file of a process that was killed while it registered a name."""
    if not name.startswith("."):
        return
    pid, _, rest = name[1:].partition(".")
    start, _, namespace = rest.partition(".")
    if not (pid.isdecimal() and start.isdecimal()) or namespace != linux.pid_namespace():
        return
    if not linux.alive(Process(int(pid), int(start))):
        _remove(_file(name))


def _path(name: str) -> str:
    return _file(quoted(name))


def _file(name: str) -> str:
    return f"{runtime_dir.directory()}/names/{name}"


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def quoted(name: str) -> str:
    """Return a name as a file's.

    Raises:
        TypeError, ValueError: not text, empty or too long.
    """
    if not isinstance(name, str):
        raise TypeError(f"a name is text, not {name!r}")
    safe = _quote(name)
    if not safe or len(safe) > _LONGEST:
        raise ValueError(
            f"a name has 1 to {_LONGEST} bytes when quoted, not {len(safe)}: {name!r:.80}"
        )
    return safe


@functools.lru_cache(maxsize=1024)
def _quote(name: str) -> str:
    return quote(name, safe="@:=+,").replace(".", "%2E")  # no dot files, no ".."


def _read(path: str) -> Holder | None:
    """Return who has a name; nobody, if what is written there makes no sense (a power loss)."""
    try:
        pid, start, *namespace = linux.read_file(path).decode("ascii").split()
        process = Process(int(pid), int(start))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return Holder(process, "".join(namespace)) if process.pid > 0 else None
