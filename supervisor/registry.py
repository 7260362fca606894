"""Names of actors: which incarnation a name means now.

One file a name in the runtime directory. Readers take no lock: a file is replaced as a whole.
Writers hold a lock of the directory for the few microseconds that they need.
"""

import contextlib
import functools
import os
from urllib.parse import quote, unquote

from supervisor import linux, runtime
from supervisor.errors import AlreadyRegistered
from supervisor.linux import Process

_LONGEST = 200  # bytes of a quoted name, which is a file's name


def register(name: str, process: Process) -> None:
    """Give a name to a process.

    Raises:
        AlreadyRegistered: another living process has it.
        ValueError: empty or too long.
    """
    path = _path(name)
    with runtime.lock():
        holder = _read(path)
        if holder is not None and holder != process and linux.alive(holder):
            raise AlreadyRegistered(name, holder)
        new = _file(f".{process.pid}.{process.start}")
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, b"%d %d" % process)
        finally:
            os.close(fd)
        os.replace(new, path)


def unregister(name: str, process: Process) -> None:
    """Free a name, if this process has it."""
    path = _path(name)
    with runtime.lock():
        if _read(path) == process:
            _remove(path)


def lookup(name: str) -> Process | None:
    """Return the living process that has a name. That of an ended one is freed on the way."""
    holder = _read(_path(name))
    if holder is None or linux.alive(holder):
        return holder
    unregister(name, holder)
    return None


def names() -> dict[str, Process]:
    """Return all names and who has them; those of ended processes are removed on the way."""
    files = os.listdir(_file(""))
    for name in files:
        _remove_unfinished(name)
    everyone = [unquote(name) for name in files if not name.startswith(".")]
    found = {name: lookup(name) for name in everyone}
    return {name: holder for name, holder in found.items() if holder is not None}


def _remove_unfinished(name: str) -> None:
    """Remove the file of a process that was killed while it registered a name."""
    pid, _, start = name[1:].partition(".")
    if name.startswith(".") and not linux.alive(Process(int(pid), int(start))):
        _remove(_file(name))


def _path(name: str) -> str:
    return _file(quoted(name))


def _file(name: str) -> str:
    return f"{runtime.directory()}/names/{name}"


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


def _read(path: str) -> Process | None:
    try:
        pid, start = linux.read_file(path).split()
    except FileNotFoundError:
        return None
    return Process(int(pid), int(start))
