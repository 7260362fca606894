"""Names of actors: which incarnation a name means now.

One file a name in the runtime directory. Readers take no lock: a file is replaced as a whole.
Writers hold a lock of the directory for the few microseconds that they need.
"""

from pathlib import Path
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
            raise AlreadyRegistered(f"the name {name!r} belongs to process {holder.pid}")
        new = path.with_name(f".{process.pid}.{process.start}")
        new.write_text(f"{process.pid} {process.start}", encoding="ascii")
        new.replace(path)


def unregister(name: str, process: Process) -> None:
    """Free a name, if this process has it."""
    path = _path(name)
    with runtime.lock():
        if _read(path) == process:
            path.unlink(missing_ok=True)


def lookup(name: str) -> Process | None:
    """Return the living process that has a name. That of an ended one is freed on the way."""
    holder = _read(_path(name))
    if holder is None or linux.alive(holder):
        return holder
    unregister(name, holder)
    return None


def names() -> dict[str, Process]:
    """Return all names and who has them; those of ended processes are removed on the way."""
    files = [p.name for p in (runtime.directory() / "names").iterdir()]
    for name in files:
        _remove_unfinished(name)
    everyone = [unquote(name) for name in files if not name.startswith(".")]
    found = {name: lookup(name) for name in everyone}
    return {name: holder for name, holder in found.items() if holder is not None}


def _remove_unfinished(name: str) -> None:
    """Remove the file of a process that was killed while it registered a name."""
    pid, _, start = name[1:].partition(".")
    if name.startswith(".") and not linux.alive(Process(int(pid), int(start))):
        (runtime.directory() / "names" / name).unlink(missing_ok=True)


def _path(name: str) -> Path:
    return runtime.directory() / "names" / quoted(name)


def quoted(name: str) -> str:
    """Return a name as a file's.

    Raises:
        TypeError, ValueError: not text, empty or too long.
    """
    if not isinstance(name, str):
        raise TypeError(f"a name is text, not {name!r}")
    safe = quote(name, safe="@:=+,").replace(".", "%2E")  # no dot files, no ".."
    if not safe or len(safe) > _LONGEST:
        raise ValueError(
            f"a name has 1 to {_LONGEST} bytes when quoted, not {len(safe)}: {name!r:.80}"
        )
    return safe


def _read(path: Path) -> Process | None:
    try:
        pid, start = path.read_text(encoding="ascii").split()
    except FileNotFoundError:
        return None
    return Process(int(pid), int(start))
