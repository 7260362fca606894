"""For tests of programs that are made of actors.

``supervision_tree`` is a fixture of pytest (see ``plugin``): a supervisor of the test's own, and a
failure if the test leaves anything behind. ``Probe`` is a reference that records what it is sent.
``InProcess`` runs one actor in the test's own process. ``kill_and_wait`` does what it says.
"""

from supervisor.testing.in_process import InProcess
from supervisor.testing.killing import kill_and_wait, kill_and_wait_for_restart
from supervisor.testing.leftovers import nothing_left
from supervisor.testing.probe import Probe, Received

__all__ = [
    "InProcess",
    "Probe",
    "Received",
    "kill_and_wait",
    "kill_and_wait_for_restart",
    "nothing_left",
]
