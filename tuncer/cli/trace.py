"""``tuncer trace``: the way of a few packets through a pipeline."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from supervisor import ActorError, Ref, whereis
from supervisor.tree import kind_of


def add_command(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("trace", help="follow packets through a pipeline")
    parser.add_argument("pipeline", metavar="PIPELINE", help="the name of a pipeline of this user")
    parser.add_argument("count", metavar="N", type=int, nargs="?", default=5, help="how many (5)")
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds to wait for them (10)")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print what became of the next packets; 1 if there were too few, or some are not done."""
    from tuncer.pipeline import PipelineRef  # noqa: PLC0415 - no other command needs pipelines

    running = whereis(options.pipeline, PipelineRef)
    if running is None:
        print(f"tuncer: there is no pipeline {options.pipeline!r}", file=sys.stderr)
        return 1
    if not _is_pipeline(running):
        print(f"tuncer: {options.pipeline!r} is no pipeline", file=sys.stderr)
        return 1
    try:
        found = running.trace_packets(options.count, options.timeout)
    except (ActorError, RuntimeError, ValueError) as error:
        print(f"tuncer: {error}", file=sys.stderr)
        return 1
    if options.json:
        rows = [{**one._asdict(), "steps": [step._asdict() for step in one.steps]} for one in found]
        print(json.dumps(rows))
    else:
        _print(found)
    done = sum(packet.done for packet in found)
    if done < options.count:
        waited = f"{len(found)} of {options.count} packets came in {options.timeout:g} s"
        print(f"tuncer: {waited}, {done} of them have left the pipeline", file=sys.stderr)
        return 1
    return 0


def _is_pipeline(ref: Ref) -> bool:
    """Tell whether an actor is a pipeline: any other would take a call of these for its own."""
    try:
        return kind_of(ref).endswith(":PipelineSupervisor")
    except ActorError:
        return False


def _print(found: list[Any]) -> None:
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    for packet in found:
        print(f"packet {packet.seq} of {packet.device}: {packet.summary}")
        table = Table(box=None, show_header=False, padding=(0, 2))
        table.add_column(justify="right")
        for step in packet.steps:
            row = (step.worker, step.where, step.verdict, step.note)
            table.add_row(f"{step.time / 1e6:.3f} ms", *map(escape, row))
        console.print(table)
