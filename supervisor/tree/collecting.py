"""The trees of this user's actors, as they are now."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

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
    seen = _Seen(kernel.unread_bytes(), _by_parent(list(_actors())))
    roots = [_unasked(process, seen) for process in seen.below.get(0, [])]
    return sorted(roots, key=lambda node: (node.id, node.pid))


def kind_of(ref: Ref) -> str:
    """Return the class of a supervisor, as "module:Class"; "" of any other actor.

    Raises:
        ActorError: it has ended, or does not answer.
    """
    if not kernel.is_supervisor(ref.pid):
        return ""
    return str(ask_system(ref, ["tree"], _PATIENCE)["class"])


class _Seen(NamedTuple):
    """What the kernel says of this user's actors."""

    unread: dict[str, int]
    """Bytes that wait in sockets, by their paths."""
    below: dict[int, list[Process]]
    """The actors whose parent has this pid; 0: those whose parent is no actor."""


def _by_parent(actors: list[Process]) -> dict[int, list[Process]]:
    pids = {process.pid for process in actors}
    found: dict[int, list[Process]] = {}
    for process in actors:
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            parent = linux.parent(process.pid).pid
            found.setdefault(parent if parent in pids else 0, []).append(process)
    return found


def _actors() -> Iterator[Process]:
    """Yield the processes that have a mailbox here."""
    for path in sorted((runtime_dir.directory() / "mailboxes").iterdir()):
        parts = path.name.split(".")
        if all(part.isdecimal() for part in parts[:2]) and len(parts) >= 2:
            process = Process(int(parts[0]), int(parts[1]))
            if path == runtime_dir.mailbox(process) and linux.alive(process):
                yield process


def _unasked(process: Process, seen: _Seen) -> Node:
    """Return an actor of which no supervisor tells."""
    names = {holder: name for name, holder in registry.names().items()}
    name = names.get(process)
    title = name or kernel.title(process.pid)
    node = Node(title, "running", name=name, uptime=kernel.uptime(process))
    _measure(node, process, seen)
    if kernel.is_supervisor(process.pid):
        node.kind = "supervisor"
        _look_below(node, process, seen)
    return node


def _measure(node: Node, process: Process, seen: _Seen) -> None:
    """Add what the kernel knows of a process."""
    node.pid = process.pid
    node.memory = kernel.memory(process.pid)
    node.mailbox = _mailbox(process, seen.unread)


def _mailbox(process: Process, unread: dict[str, int]) -> int | None:
    """Return the bytes that wait for an actor, in the kernel's buffers and in its own."""
    read = kernel.unserved_bytes(process.pid)
    if not unread:
        return read
    return unread.get(str(runtime_dir.mailbox(process)), 0) + (read or 0)


def _look_below(node: Node, process: Process, seen: _Seen) -> None:
    """Add what a supervisor tells of itself and of its children; if it is silent, the kernel."""
    try:
        table: dict[str, Any] = ask_system(Ref(process), ["tree"], _PATIENCE)
    except (ActorError, OSError, ValueError):
        node.state = "silent"
        node.children = [_unasked(below, seen) for below in seen.below.get(process.pid, [])]
        return
    node.start, node.owners = table["class"], table["owners"]
    for row in table["children"]:
        child = _node(row)
        if row["process"] is not None:
            below = Process(*row["process"])
            _measure(child, below, seen)
            if child.kind == "supervisor" and child.state in ("running", "stopping"):
                _look_below(child, below, seen)
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
