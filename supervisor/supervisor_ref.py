"""References to supervisors: what can be asked of one. Source: OTP's ``supervisor``."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any, cast

from supervisor import linux, wire
from supervisor.child_spec import ChildSpec
from supervisor.ref import Ref, decode, encode


class SupervisorRef(Ref):
    """A reference to a supervisor."""

    __slots__ = ()

    def start_child(self, spec: ChildSpec, *, owner: int | None = None) -> Ref | None:
        """Add a child and start it. None: its ``init`` returned ``Ignore``.

        Args:
            spec: its arguments must be able to travel in a message.
            owner: a pid: the child is stopped and forgotten when this process ends.

        Raises:
            StartFailed: and why; the specification is not kept.
            AlreadyStarted, AlreadyPresent: there is a child of this id.
            ProcessLookupError: there is no process ``owner``.
        """
        identity = None if owner is None else list(linux.process(owner))
        plan = asdict(spec.plan(travels=True))
        return cast("Ref | None", self._request("start_child", plan, identity))

    def terminate_child(self, child: str) -> None:
        """Stop a child; its specification stays, unless it is temporary.

        Raises:
            NotFound: there is none of this id.
        """
        self._request("terminate_child", child)

    def restart_child(self, child: str) -> Ref | None:
        """Start a child that was terminated.

        Raises:
            NotFound, StillRunning, StartFailed.
        """
        return cast("Ref | None", self._request("restart_child", child))

    def delete_child(self, child: str) -> None:
        """Forget the specification of a child that is not running.

        Raises:
            NotFound, StillRunning.
        """
        self._request("delete_child", child)

    def child(self, child: str) -> Ref:
        """Return a child's reference; while it is restarting, wait for that.

        Raises:
            NotFound: there is no process of this id.
        """
        return cast("Ref", self._request("child", child))

    def give_child(self, child: str, owner: int) -> None:
        """Let a child that belongs to this process belong to another one instead.

        Raises:
            NotFound: there is none of this id.
            NotOwner: it does not belong to this process.
            ProcessLookupError: there is no process ``owner``.
        """
        present = list(linux.process(os.getpid()))
        self._request("give_child", child, list(linux.process(owner)), present)

    def which_children(self) -> list[tuple[str, Ref | None, str, str]]:
        """Return each child's id, reference, type and state, in the order of their start."""
        return [tuple(row) for row in self._request("which_children")]

    def count_children(self) -> dict[str, int]:
        """Return the numbers of ``specs``, ``active``, ``supervisors`` and ``workers``."""
        return cast("dict[str, int]", self._request("count_children"))

    def _request(self, *request: Any) -> Any:
        return self.call(list(request), timeout=None)


wire.extend(18, SupervisorRef, encode, lambda fields: decode(fields, SupervisorRef))
