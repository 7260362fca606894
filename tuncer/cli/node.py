"""``tuncer run``, ``check``, ``reload`` and ``config``: a node, from a configuration file."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from importlib import resources
from types import FrameType
from typing import Any

from supervisor import ActorError, named
from supervisor import run as run_tree
from tuncer.node.config import Config, ConfigError, load
from tuncer.node.node import Node, children_of, name_of

_PATIENCE = 300.0  # seconds that a reload may take

log = logging.getLogger("tuncer")


def add_command(commands: Any) -> None:
    """Add the commands to the parser."""
    run = commands.add_parser("run", help="start what a configuration says, and keep it running")
    run.add_argument("file", metavar="CONFIG.toml")
    run.set_defaults(run=_run)
    check = commands.add_parser("check", help="say what is wrong with a configuration")
    check.add_argument("file", metavar="CONFIG.toml")
    check.set_defaults(run=_check)
    reload = commands.add_parser("reload", help="have a running node do what has changed")
    reload.add_argument("--node", default="node", metavar="NAME", help="the node's name")
    reload.add_argument("--dry-run", action="store_true", help="say what would be done")
    reload.set_defaults(run=_reload)
    config = commands.add_parser("config", help="print a configuration to begin with")
    config.add_argument("what", choices=("example",))
    config.set_defaults(run=_config)


def _run(options: argparse.Namespace) -> int:
    """Run a node until SIGTERM or SIGINT comes; SIGHUP reloads."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is a node that can reload
    config = _loaded(options.file)
    if config is None:
        return 2
    node, children = config
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    told = {"intensity": node.node.get("intensity", 10), "period": node.node.get("period", 60.0)}
    signal.signal(signal.SIGHUP, _reloader(node.name))
    return run_tree(children, name=node.name, **told)


def _loaded(file: str) -> tuple[Config, list[Any]] | None:
    """Return a configuration with its children; None, and say why, if it is wrong."""
    try:
        config = load(file)
        return config, children_of(config)
    except ConfigError as error:
        print(error, file=sys.stderr)
        count = len(error.problems)
        print(f"tuncer: {count} problem{'s' * (count > 1)}: nothing is started", file=sys.stderr)
        return None


def _reloader(name: str) -> Any:
    def on_hangup(number: int, frame: FrameType | None) -> None:
        del number, frame
        try:
            named(name_of(name)).cast(Node.reload)
        except ActorError as error:  # it is being restarted, or has not started yet
            log.error("node %s is not reloaded: %s: send SIGHUP again", name, error)

    return on_hangup


def _check(options: argparse.Namespace) -> int:
    config = _loaded(options.file)
    if config is None:
        return 2
    node, children = config
    print(f"{options.file}: all is well: node {node.name}, {len(children) - 1} children")
    return 0


def _reload(options: argparse.Namespace) -> int:
    node = named(name_of(options.node)).within(_PATIENCE)
    done, problems = node.call(Node.reload, dry_run=options.dry_run)
    for line in done:
        print(line)
    if problems:
        print(problems, file=sys.stderr)
        return 1
    if not done:
        print("nothing has changed")
    return 0


def _config(options: argparse.Namespace) -> int:
    del options
    print(resources.files("tuncer.node").joinpath("example.toml").read_text(), end="")
    return 0
