"""The actors and supervisors of this user that run now, as trees: ``python -m supervisor tree``.

What is told comes from the supervisors' own tables and from the kernel. Workers get no message.
"""

from supervisor.tree.collecting import kind_of, snapshot
from supervisor.tree.command import add_command
from supervisor.tree.node import Exited, Node
from supervisor.tree.rendering import exit_text

__all__ = ["Exited", "Node", "add_command", "exit_text", "kind_of", "snapshot"]
