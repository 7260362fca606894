"""What tests do with supervisors."""

import re
from typing import Any

import processes
from processes import PATIENCE, eventually

from supervisor import (
    ChildSpec,
    Events,
    Monitor,
    Ref,
    Supervisor,
    SupervisorRef,
)


def start(*specs: ChildSpec, **options: Any) -> SupervisorRef:
    ref: SupervisorRef = Supervisor.start_link(list(specs), **options)
    return ref


def kill_actor(ref: Ref) -> None:
    """Kill an actor and wait until it has ended."""
    processes.kill(ref.pid)


def states(sup: Any) -> dict[str, str]:
    return {row[0]: row[3] for row in sup.which_children()}


def wait_for(sup: Any, expected: dict[str, str]) -> None:
    """Wait until the children of a supervisor are in these states."""
    eventually(lambda: states(sup), expected)


def times(said: str, text: str) -> int:
    """Return how often something was said: what is said again and again is a line with a count."""
    lines = [line for line in said.splitlines() if text in line]
    more = [re.search(r"\((?:once more|(\d+) times more)\)", line) for line in lines]
    return sum(int(found[1] or 1) if found else 1 for found in more)


def told(events: Events, number: int) -> list[tuple[Any, ...]]:
    found = [events.next(PATIENCE) for _ in range(number)]
    return [(event.kind, event.path, event.reason) for event in found]


def watch(sup: SupervisorRef) -> Monitor:
    """Monitor a supervisor; it knows of that when this returns."""
    monitor = sup.monitor()
    sup.count_children()
    return monitor
