"""The trees of this user's actors, as they are now."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from supervisor import linux
from supervisor.client.ref import Ref, ask_system
from supervisor.errors import ActorError
from supervisor.linux import Process
from supervisor.protocol import registry, runtime_dir
from supervisor.tree import kernel
from supervisor.tree.node import Exited, Node

_PATIENCE = 1.0  # seconds in which a supervisor tells its table


def snapshot() -> list[Node]:
    """Return this user's roots: actors that no supervisor has started, with all below them.

    They are those of this runtime directory and pid namespace.

    Raises:
        OSError: the runtime directory cannot be used.
    """
    unread = kernel.unread_bytes()
    actors = list(_actors())
    pids = {process.pid for process in actors}
    roots = []
    for process in actors:
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            if linux.parent(process.pid).pid not in pids:
                roots.append(_root(process, unread))
    return sorted(roots, key=lambda node: (node.id, node.pid))


def _actors() -> Iterator[Process]:
    """Yield the processes that have a mailbox here."""
    for path in sorted((runtime_dir.directory() / "mailboxes").iterdir()):
        parts = path.name.split(".")
        if all(part.isdecimal() for part in parts[:2]) and len(parts) >= 2:
            process = Process(int(parts[0]), int(parts[1]))
            if path == runtime_dir.mailbox(process) and linux.alive(process):
                yield process


def _root(process: Process, unread: dict[str, int]) -> Node:
    names = {holder: name for name, holder in registry.names().items()}
    name = names.get(process)
    title = name or kernel.title(process.pid)
    node = Node(title, "running", name=name, uptime=kernel.uptime(process))
    _measure(node, process, unread)
    if kernel.is_supervisor(process.pid):
        node.kind = "supervisor"
        _look_below(node, process, unread)
    return node


def _measure(node: Node, process: Process, unread: dict[str, int]) -> None:
    """Add what the kernel knows of a process."""
    node.pid = process.pid
    node.memory = kernel.memory(process.pid)
    node.unread = unread.get(str(runtime_dir.mailbox(process)), 0) if unread else None


def _look_below(node: Node, process: Process, unread: dict[str, int]) -> None:
    """Add what a supervisor tells of itself and of its children."""
    try:
        table: dict[str, Any] = ask_system(Ref(process), ["tree"], _PATIENCE)
    except (ActorError, OSError, ValueError):
        node.state = "silent"
        return
    node.start, node.owners = table["class"], table["owners"]
    for row in table["children"]:
        child = _node(row)
        if row["process"] is not None:
            below = Process(*row["process"])
            _measure(child, below, unread)
            if child.kind == "supervisor" and child.state in ("running", "stopping"):
                _look_below(child, below, unread)
        node.children.append(child)
    node.children += [_node(row) for row in table["forgotten"]]


def _node(row: dict[str, Any]) -> Node:
    ended = row["last_exit"]
    return Node(
        row["id"],
        row["state"],
        row["type"],
        row["start"],
        row["name"],
        restarts=row["restarts"],
        uptime=row["uptime"],
        last_exit=None if ended is None else Exited(*ended),
    )
