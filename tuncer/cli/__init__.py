"""The command ``tuncer``. Exit status: 0 all was well, 1 something was not, 2 wrong usage."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

from supervisor import ActorError, tree
from tuncer.cli import (
    demo,
    doctor,
    dump,
    lifecycle,
    listing,
    metrics,
    node,
    replay,
    settings,
    show,
    trace,
)

_COMMANDS = (
    listing,
    show,
    metrics,
    node,
    settings,
    lifecycle,
    dump,
    replay,
    tree,
    trace,
    doctor,
    demo,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = _parser()
    options, more = parser.parse_known_args(arguments)
    if more:  # a filter's words, behind options that stand between it and the device
        if "filter" not in options or any(word.startswith("-") for word in more):
            parser.error(f"unrecognized arguments: {' '.join(more)}")
        options.filter += more
    # Where SIGCHLD is ignored, subprocess takes each status for 0.
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        return int(options.run(options))
    except OSError as error:
        print(f"tuncer: {_sentence(error)}", file=sys.stderr)
        return 1
    except ActorError as error:  # a worker, or a supervisor, that does not answer
        print(f"tuncer: {error}", file=sys.stderr)
        return 1
    except ValueError as error:  # an argument of which only the device knows what is wrong
        print(f"tuncer: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("tuncer: interrupted", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tuncer",
        description="TUN/TAP interfaces, each in a supervised worker process. Without a command it"
        " lists those of this user. Each command has --help.",
        epilog="exit status: 0 all was well; 1 something was not, and a sentence on the standard"
        " error says what; 2 wrong usage",
    )
    commands = parser.add_subparsers(metavar="COMMAND")
    for module in _COMMANDS:
        module.add_command(commands)
    parser.set_defaults(run=listing.run, json=False)  # without a command
    return parser


def _sentence(error: OSError) -> str:
    """Say what happened, to what, and how to mend it, on one line."""
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"
