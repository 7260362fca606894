"""The actors and supervisors of this user that run now, as trees: ``python -m supervisor tree``.

What is told comes from the supervisors' own tables and from the kernel. Workers get no message.
"""

from supervisor.tree.collecting import kind_of, snapshot
from supervisor.tree.command import add_command
from supervisor.tree.node import Exited, Node

__all__ = ["Exited", "Node", "add_command", "kind_of", "snapshot"]
