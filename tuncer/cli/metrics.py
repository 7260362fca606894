"""``tuncer metrics``: what is measured, in the text format of OpenMetrics."""

from __future__ import annotations

import argparse
from typing import Any


def add_command(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("metrics", help="print what is measured, for Prometheus")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print it."""
    from tuncer.node import measuring, openmetrics  # noqa: PLC0415 - no other command needs it

    del options
    print(openmetrics.text(measuring.measured()), end="")
    return 0
