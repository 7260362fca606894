"""Fixtures of pytest. The distribution registers this plugin: pytest finds it by itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from supervisor.supervision.supervisor import Supervisor
from supervisor.supervision.supervisor_ref import SupervisorRef
from supervisor.testing.leftovers import nothing_left


@pytest.fixture
def supervision_tree() -> Iterator[SupervisorRef]:
    """Give the test a supervisor without children, in a runtime directory of its own.

    ``supervision_tree.start_child(ChildSpec(...))`` starts what the test needs. Afterwards all is
    stopped, and the test fails if a process, a socket, a name or a descriptor is left.
    """
    with nothing_left():
        yield Supervisor.start_link([], intensity=1000, period=1.0)
