"""What is told of one actor, and of those below it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Exited:
    """The end of an actor's process."""

    pid: int
    reason: str
    """In one line."""
    ago: float
    """Seconds since then."""


@dataclass
class Node:
    """An actor: a root, a child of a supervisor, or a child that has ended and was forgotten."""

    id: str
    """The child's id; of a root its name, or the class if it has none."""
    state: str
    """"running", "restarting", "starting", "stopping", "undefined" (no process), "forgotten" (it
    has ended within the last minute), "silent" (a supervisor that does not
    answer: what is below it the kernel tells)."""
    kind: str = "worker"
    """"worker" or "supervisor"."""
    start: str = ""
    """"module:Class", as far as it is known."""
    name: str | None = None
    pid: int | None = None
    restarts: int = 0
    uptime: float | None = None
    """Seconds."""
    mailbox: int | None = None
    """Bytes of messages that the actor has not served yet; None: that is not known. Those in the
    kernel's buffers are told only to commands in the actor's network namespace."""
    memory: int | None = None
    """Bytes: what it shares with others is divided among them (PSS of proc_pid_smaps(5))."""
    last_exit: Exited | None = None
    owners: list[int] = field(default_factory=list)
    """Pids of the programs that a root belongs to."""
    children: list[Node] = field(default_factory=list)

    def all(self) -> Iterator[Node]:
        """Yield this and all below it."""
        yield self
        for child in self.children:
            yield from child.all()

    @property
    def total_memory(self) -> int | None:
        """The bytes of memory of this and of all below it."""
        known = [node.memory for node in self.all() if node.memory is not None]
        return sum(known) if known else None

    @property
    def total_restarts(self) -> int:
        """The restarts of this and of all below it, since their supervisors began."""
        return sum(node.restarts for node in self.all())

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON knows it, with the sums."""
        found = asdict(self)
        found["children"] = [child.as_json() for child in self.children]
        return found | {"total_memory": self.total_memory, "total_restarts": self.total_restarts}
