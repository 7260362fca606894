"""The command ``tuncer``. Exit status: 0 all was well, 1 something was not, 2 wrong usage.

A command is imported when it is asked for: so that each starts quickly.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence

_MODULES = {
    "tuncer.cli.listing": ("list",),
    "tuncer.cli.show": ("show",),
    "supervisor.tree": ("tree",),
    "tuncer.cli.metrics": ("metrics",),
    "tuncer.cli.node": ("run", "check", "reload", "config"),
    "tuncer.cli.settings": ("up", "down", "set", "route", "destroy"),
    "tuncer.cli.lifecycle": ("restart", "wait"),
    "tuncer.cli.dump": ("dump",),
    "tuncer.cli.replay": ("replay",),
    "tuncer.cli.trace": ("trace",),
    "tuncer.cli.doctor": ("doctor",),
    "tuncer.cli.demo": ("demo",),
}
"""The modules of commands, in the order of the help, and their commands."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    _open_standard_streams()
    # Where SIGCHLD is ignored, subprocess takes each status for 0.
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        return _run(given)
    except KeyboardInterrupt:
        print("tuncer: interrupted", file=sys.stderr)
        return 1


def _run(given: list[str]) -> int:
    from supervisor import ActorError  # noqa: PLC0415 - an interrupt of the import is caught, too

    parser = _parser(given)
    options, more = parser.parse_known_args(given)
    if more:  # a filter's words, behind options that stand between it and the device
        if "filter" not in options or any(word.startswith("-") for word in more):
            parser.error(f"unrecognized arguments: {' '.join(more)}")
        options.filter += more
    try:
        return int(options.run(options))
    except BrokenPipeError:  # whoever read has enough: the interpreter's last flush goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), 1)
        return 1
    except OSError as error:
        print(f"tuncer: {sentence(error)}", file=sys.stderr)
        return 1
    except ActorError as error:  # a worker, or a supervisor, that does not answer
        print(f"tuncer: {error}", file=sys.stderr)
        return 1
    except ValueError as error:  # an argument of which only the device knows what is wrong
        print(f"tuncer: {error}", file=sys.stderr)
        return 2


def _parser(given: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser of the command that was given; of all, if that cannot be told."""
    parser = argparse.ArgumentParser(
        prog="tuncer",
        description="TUN/TAP interfaces, each in a supervised worker process. Without a command it"
        " lists those of this user. Each command has --help.",
        epilog="exit status: 0 all was well; 1 something was not, and a sentence on the standard"
        " error says what; 2 wrong usage",
    )
    word = given[0] if given else "list"
    asked = [module for module, names in _MODULES.items() if word in names]
    commands = parser.add_subparsers(metavar="COMMAND")
    for module in asked or _MODULES:
        importlib.import_module(module).add_command(commands)
    if not given:
        parser.set_defaults(run=importlib.import_module("tuncer.cli.listing").run, json=False)
    return parser


def _open_standard_streams() -> None:
    """Have what is closed be /dev/null: otherwise a socket would get the descriptor's number.

    Raises:
        OSError: there is no /dev/null.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r+" if number else "r"))  # noqa: SIM115 - for good


def sentence(error: OSError) -> str:
    """Say what happened, to what, and how to mend it, on one line."""
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"
