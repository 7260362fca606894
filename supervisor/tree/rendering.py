"""Trees as text: decisions about columns, without effects."""

from __future__ import annotations

from collections.abc import Iterable

from supervisor.tree.node import Exited, Node

HEAD = ("ACTOR", "STATE", "PID", "RESTARTS", "UPTIME", "MAILBOX", "MEMORY", "LAST EXIT")


def rendered(roots: Iterable[Node]) -> str:
    """Return a table: a line for each actor, indented below its supervisor."""
    rows: list[tuple[str, ...]] = []
    for root in roots:
        _add(rows, root, "", "")
    if not rows:
        return "no actor of this user runs here\n"
    widths = [max(map(len, column)) for column in zip(HEAD, *rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (HEAD, *rows)
    ]
    return "\n".join(lines) + "\n"


def _add(rows: list[tuple[str, ...]], node: Node, first: str, rest: str) -> None:
    rows.append((first + _label(node), *_cells(node)))
    for child in node.children:
        last = child is node.children[-1]
        _add(rows, child, rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  "))


def _label(node: Node) -> str:
    kind = node.start.rpartition(":")[2]
    label = printable(node.id if kind in ("", node.id) else f"{node.id} {kind}")
    owners = ", ".join(map(str, node.owners))
    return f"{label} (of {owners})" if owners else label


def _cells(node: Node) -> tuple[str, ...]:
    supervises = node.kind == "supervisor"
    memory = node.total_memory if supervises else node.memory
    restarts = node.total_restarts if supervises else node.restarts
    return (
        node.state,
        "" if node.pid is None else str(node.pid),
        str(restarts) if restarts else "",
        "" if node.uptime is None else duration(node.uptime),
        size(node.mailbox) if node.mailbox else "",
        "" if memory is None else size(memory),
        "" if node.last_exit is None else exit_text(node.last_exit),
    )


def exit_text(ended: Exited) -> str:
    """Return why a process has ended, and when, in a line that does nothing to a terminal."""
    return f"{printable(ended.reason)}, {duration(ended.ago)} ago"


def printable(text: str) -> str:
    """Return a text in a line that does nothing to a terminal."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def duration(seconds: float) -> str:
    """Return a duration in its two largest units."""
    whole = int(seconds)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    if minutes:
        return f"{minutes} min {whole % 60} s"
    return f"{whole} s"


def size(count: int) -> str:
    """Return a number of bytes in a unit that leaves few digits."""
    if count < 1024:
        return f"{count} B"
    if count < 1 << 20:
        return f"{count / 1024:.1f} KiB"
    if count < 1 << 30:
        return f"{count / (1 << 20):.1f} MiB"
    return f"{count / (1 << 30):.1f} GiB"
