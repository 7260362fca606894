"""What tests do with supervisors."""

from typing import Any

import conftest

from supervisor import ChildSpec, Ref, Supervisor, SupervisorRef


def start(*specs: ChildSpec, **options: Any) -> SupervisorRef:
    ref: SupervisorRef = Supervisor.start_link(list(specs), **options)
    return ref


def kill(ref: Ref) -> None:
    """Kill an actor and wait until it has ended."""
    conftest.kill(ref.pid)


def states(sup: Any) -> dict[str, str]:
    return {row[0]: row[3] for row in sup.which_children()}
