"""``tuncer doctor``: what is missing on this machine, and what to type."""

from __future__ import annotations

import argparse
import json
from typing import Any

from rich.console import Console
from rich.table import Table

from tuncer import doctor

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "bold red", "unknown": "magenta"}


def add_command(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("doctor", help="say what is missing on this machine")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the findings; return 1 if no device can be created."""
    findings = doctor.examine()
    if options.json:
        print(json.dumps([finding._asdict() for finding in findings]))
    else:
        _print(findings)
    return int(any(finding.level == "fail" for finding in findings))


def _print(findings: list[doctor.Finding]) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    for finding in findings:
        colour = _COLOURS[finding.level]
        table.add_row(f"[{colour}]{finding.level}[/]", finding.topic, finding.text)
        if finding.mend:
            table.add_row("", "", f"-> {finding.mend}")
    Console(highlight=False).print(table)
