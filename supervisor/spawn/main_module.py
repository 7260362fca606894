"""What the processes that a program has started import: what it would itself, and nothing else.

They find modules where the program does at run time. Its main module is imported only when a class
of it is needed, under the name ``__mp_main__``, as by multiprocessing's spawn: most programs need
that not at all, and those without the usual guard would start themselves over again.
"""

from __future__ import annotations

import os
import pkgutil  # noqa: F401 - runpy imports it later, when the program's path is in force already
import runpy
import sys
import types
from multiprocessing import get_start_method, process, spawn
from typing import Any

import supervisor
from supervisor import inherited, linux
from supervisor.protocol import runtime_dir
from supervisor.spawn import stderr_handler

NAMES = ("__main__", "__mp_main__")
"""What a main module is called: in the program, and in processes of multiprocessing's spawn."""

importing = False
"""Whether it is being imported, right now."""

_prepared = False
"""Whether this process was started by a program, or by an actor of it."""
_main: dict[str, str] = {}
"""Where the program's main module is found: {"name": ...}, {"path": ...}, or empty: no file."""
_imported: list[types.ModuleType] = []
"""The former ``__main__`` of this process, after the import has replaced it. The list keeps it
alive, as its code may still run. Empty: the main module was not imported."""


# -- in the program --------------------------------------------------------------------------------


def _started_in() -> str | None:
    """Return the directory in which the program was started, if that could be named."""
    found: str | None = getattr(process, "ORIGINAL_DIR", None)
    return found


def search_path() -> list[str]:
    """Return where the program finds modules.

    The empty entry of ``python -c`` and of a prompt means the current directory: the one in which
    the program was started, as a later one may hold anybody's files.
    """
    started_in = _started_in()
    entries = [entry for entry in sys.path if isinstance(entry, str)]
    if started_in is None:  # it could not be named then
        return [entry for entry in entries if os.path.isabs(entry)]
    return [os.path.join(started_in, entry) if entry else started_in for entry in entries]


def boot_path() -> list[str]:
    """Return where a new interpreter finds this package, and what that imports.

    The standard library comes first: the program's directory may have a file of the same name as a
    module that it does not import itself.
    """
    library = os.path.dirname(os.__file__)
    first = [
        entry for entry in sys.path if entry in {library, os.path.join(library, "lib-dynload")}
    ]
    ours = os.path.dirname(os.path.dirname(os.path.abspath(supervisor.__file__)))
    return [*first, *search_path(), ours]


def description() -> dict[str, Any]:
    """Return what ``prepare`` needs to know."""
    told = {
        "sys_path": search_path(),
        "sys_argv": list(sys.argv) if hasattr(sys, "argv") else [],  # an embedded one has none
        "orig_dir": _started_in(),
        "start_method": get_start_method(allow_none=True),
    }
    known = {key: value for key, value in told.items() if value is not None}
    return {
        "spawn": known,
        "main": _main or _found(),
        "runtime": str(runtime_dir.directory()),
        "logging": stderr_handler.description(),
        "terminal": inherited.terminal or linux.controlling_terminal(),
    }


def _found() -> dict[str, str]:
    """Return where the main module is found."""
    main = sys.modules.get("__main__")
    name = getattr(getattr(main, "__spec__", None), "name", None)
    path = getattr(main, "__file__", None)
    if name is not None and name != "__main__":
        return {"name": name}
    if path is None:
        return {}
    path = os.path.join(_started_in() or "", path)
    if name == "__main__":  # a directory, or an archive of zipapp, is run by the __main__.py in it
        path = os.path.dirname(path)
    return {"path": path} if os.path.exists(path) else {}  # of standard input it is "<stdin>"


def check_importable(cls: Any) -> None:
    """Check that another process can import a class or function by its name.

    Raises:
        ValueError: it cannot, and why.
    """
    if "<" in cls.__qualname__:  # <locals>, <lambda>
        raise ValueError(
            f"{cls.__qualname__} must stand at the top level of a module: another process imports"
            " it by name"
        )
    if cls.__module__ in NAMES and not (_main or _found()):
        raise ValueError(
            f"{cls.__qualname__} stands in a main module that is no file (a prompt, python -c,"
            " standard input, a notebook), so no other process can import it: write it into a"
            " module, and import it from there"
        )


# -- in the processes that it has started ----------------------------------------------------------


def prepare(description: dict[str, Any]) -> None:
    """Make this interpreter like the program's, but for the main module."""
    global _prepared  # it is the process's
    _main.update(description["main"])
    _prepared = True
    runtime_dir.use(description["runtime"])
    stderr_handler.use(description["logging"])
    inherited.terminal = description["terminal"]
    spawn.prepare(description["spawn"])


def ensure() -> None:
    """Import the main module, if that has not been done.

    Raises:
        ImportError: it is no file.
    """
    global importing
    if not _prepared or _imported:
        return
    if not _main:  # a class of it was refused, but maybe not another object in the arguments
        raise ImportError("the program's main module is no file, and so cannot be imported here")
    importing = True
    try:
        _import()
    finally:
        importing = False


def _import() -> None:
    name = NAMES[1]
    if "name" in _main:
        content = runpy.run_module(_main["name"], run_name=name, alter_sys=True)
    else:
        content = runpy.run_path(_main["path"], run_name=name)
    module = types.ModuleType(name)
    module.__dict__.update(content)
    _imported.append(sys.modules["__main__"])
    sys.modules["__main__"] = sys.modules[name] = module
