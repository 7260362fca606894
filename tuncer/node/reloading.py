"""What a new configuration changes of a running node. Pure."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from tuncer.node.config import Child, Config


class Step(NamedTuple):
    """Something that is done to a child."""

    action: Literal["stop", "replace", "start"]
    child: Child
    """As it is in the new configuration; of "stop", in the old one."""
    why: str

    def __str__(self) -> str:
        return f"{self.action} {self.child.id}{f': {self.why}' if self.why else ''}"


def steps(before: Config, after: Config) -> list[Step]:
    """Return what is done, in this order; what is unchanged does not occur.

    What goes is stopped first, the last child at first, so that what comes finds its names and
    addresses free.

    Raises:
        ValueError: the node itself is different, which needs a restart.
    """
    if before.node != after.node:
        raise ValueError("[node] has changed: that needs a restart of the node")
    old = {child.id: child for child in before.children}
    new = {child.id: child for child in after.children}
    gone = [Step("stop", child, "") for child in before.children if child.id not in new]
    changed = [
        Step("replace", child, _difference(old[child.id].settings, child.settings))
        for child in after.children
        if child.id in old and repr(old[child.id].settings) != repr(child.settings)
    ]
    added = [Step("start", child, "") for child in after.children if child.id not in old]
    return [*reversed(gone), *changed, *added]


def _difference(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Return which settings differ, in one line."""
    # By what they look like: nan does not equal itself.
    keys = [key for key in {**before, **after} if _shown(before, key) != _shown(after, key)]
    told = [f"{key} {_shown(before, key):.80} -> {_shown(after, key):.80}" for key in keys]
    return ", ".join(told)


def _shown(settings: dict[str, Any], key: str) -> str:
    return repr(settings[key]) if key in settings else "(none)"
