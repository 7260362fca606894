"""The command ``tree``, of ``python -m supervisor`` and of ``tuncer``."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

from supervisor.tree.collecting import snapshot
from supervisor.tree.rendering import rendered

_CLEAR = "\x1b[H\x1b[2J"


def add_command(commands: Any) -> None:
    """Add the command to a parser's subparsers."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "tree",
        help="show the supervision trees of this user's programs",
        description="Shows the supervision trees of this user's programs: state, pid, restarts,"
        " uptime, bytes that wait in the mailbox, memory (sums for supervisors) and the last exit"
        " of each actor, and for a minute those that have ended and were forgotten.",
    )
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.add_argument(
        "--watch",
        nargs="?",
        type=_seconds,
        const=2.0,
        metavar="SECONDS",
        help="show it again and again, every 2 seconds by default, until Ctrl-C",
    )
    parser.set_defaults(run=run)


def _encodable(text: str, encoding: str) -> str:
    """Return a text as far as a terminal or a pipe takes it."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        plain = text.translate(str.maketrans("├└│─", "++|-"))
        return plain.encode(encoding, "replace").decode(encoding)
    return text


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0.05 <= seconds <= 86400:
        raise argparse.ArgumentTypeError("from 0.05 to 86400 seconds")
    return seconds


def run(options: argparse.Namespace) -> int:
    """Run the command; return its exit status: 1 if a supervisor does not answer."""
    while True:
        roots = snapshot()
        if options.json:
            text = json.dumps([root.as_json() for root in roots], indent=2) + "\n"
        else:
            text = rendered(roots)
        clear = _CLEAR if options.watch is not None and sys.stdout.isatty() else ""
        sys.stdout.write(clear + _encodable(text, sys.stdout.encoding))
        sys.stdout.flush()
        if options.watch is None:
            return 1 if any(node.state == "silent" for root in roots for node in root.all()) else 0
        time.sleep(options.watch)  # what is shown has no event: memory, time
