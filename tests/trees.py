"""What tests do with supervisors."""

import os
import signal
from typing import Any

from conftest import wait_for_end

from supervisor import ChildSpec, Ref, Supervisor, SupervisorRef


def start(*specs: ChildSpec, **options: Any) -> SupervisorRef:
    ref: SupervisorRef = Supervisor.start_link(list(specs), **options)
    return ref


def kill(ref: Ref) -> None:
    """Kill an actor and wait until it has ended."""
    pid = ref.pid
    os.kill(pid, signal.SIGKILL)
    assert wait_for_end(pid)


def states(sup: Any) -> dict[str, str]:
    return {row[0]: row[3] for row in sup.which_children()}
