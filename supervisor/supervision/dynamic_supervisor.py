"""Supervisors of children that are all alike, and come and go.

Source: OTP's ``supervisor`` with the strategy ``simple_one_for_one``.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any, ClassVar, cast

from supervisor.actor.callback_results import Sender
from supervisor.client.ref import Ref
from supervisor.errors import NotFound, TooManyChildren
from supervisor.protocol import codec
from supervisor.supervision.child import Child
from supervisor.supervision.child_spec import (
    ChildSpec,
    Plan,
    check_childspecs,
    check_intensity,
    check_template,
)
from supervisor.supervision.strategy import AutoShutdown
from supervisor.supervision.supervisor import Supervisor
from supervisor.supervision.supervisor_ref import DynamicSupervisorRef
from supervisor.supervision.task_queue import Task


class DynamicSupervisor(Supervisor):
    """Starts children from one template, each on request; restarts each alone.

    It begins without any. A child that is not restarted is forgotten. At its end it stops all
    children at the same time. ``DynamicSupervisor.start_link(template, ...)`` takes:

    Args:
        template: a ``ChildSpec``; ``start_child`` adds arguments to its own. A child's id is the
            template's with a number.
        max_children: how many there may be at a time; None: any number.
        intensity: as ``Supervisor``'s.
        period: seconds.
        auto_shutdown: as ``Supervisor``'s, which OTP does not offer here: it ends with the first
            child of a significant template that ends by itself, or with the last one.
        name: a name to register.

    Raises:
        ValueError, TypeError: what is wrong with these, before anything is started.
    """

    reference: ClassVar[type[Ref]] = DynamicSupervisorRef

    @classmethod
    def start_link(  # type: ignore[override]
        cls, *args: Any, name: str | None = None, **kwargs: Any
    ) -> DynamicSupervisorRef:
        """Start the supervisor. See ``GenServer.start_link``."""
        return cast("DynamicSupervisorRef", super().start_link(*args, name=name, **kwargs))

    @classmethod
    async def astart_link(  # type: ignore[override]
        cls, *args: Any, name: str | None = None, **kwargs: Any
    ) -> DynamicSupervisorRef:
        """Do as ``start_link``, from asyncio. See ``GenServer.astart_link``."""
        return cast("DynamicSupervisorRef", await super().astart_link(*args, name=name, **kwargs))

    @classmethod
    def start(  # type: ignore[override]
        cls, *args: Any, name: str | None = None, **kwargs: Any
    ) -> DynamicSupervisorRef:
        """Start the supervisor. See ``GenServer.start``."""
        return cast("DynamicSupervisorRef", super().start(*args, name=name, **kwargs))

    @classmethod
    async def astart(  # type: ignore[override]
        cls, *args: Any, name: str | None = None, **kwargs: Any
    ) -> DynamicSupervisorRef:
        """Do as ``start``, from asyncio. See ``GenServer.astart_link``."""
        return cast("DynamicSupervisorRef", await super().astart(*args, name=name, **kwargs))

    @classmethod
    def check_arguments(cls, *args: Any, **kwargs: Any) -> None:
        """Check what ``init`` will be given."""
        if cls.init is DynamicSupervisor.init:  # a subclass's own takes what it likes
            cls._check_template(*args, **kwargs)

    @staticmethod
    def _check_template(
        template: ChildSpec | Plan,
        *,
        max_children: int | None = None,
        intensity: int = 1,
        period: float = 5.0,
        auto_shutdown: AutoShutdown = "never",
    ) -> None:
        check_template(template)
        check_childspecs([template], auto_shutdown)
        check_intensity("the supervisor", intensity, period)
        if max_children is None:
            return
        if isinstance(max_children, bool) or not isinstance(max_children, int) or max_children < 0:
            raise ValueError(f"max_children is a number of children, not {max_children!r}")

    def init(  # type: ignore[override]
        self,
        template: ChildSpec | Plan,
        *,
        max_children: int | None = None,
        intensity: int = 1,
        period: float = 5.0,
        auto_shutdown: AutoShutdown = "never",
    ) -> Any:
        """Begin, without children."""
        limits: dict[str, Any] = {
            "intensity": intensity,
            "period": period,
            "auto_shutdown": auto_shutdown,
        }
        self._check_template(template, max_children=max_children, **limits)
        self._template = template.plan() if isinstance(template, ChildSpec) else template
        self._most = max_children
        self._numbers = itertools.count(1)
        return super().init([], **limits)

    def _operations(self) -> dict[str, Callable[..., Task | None]]:
        return {
            "start_child": self._serve_one_more,
            "terminate_child": self._serve_one_less,
            "which_children": self._serve_which,
            "count_children": self._serve_count,
        }

    def _serve_one_more(self, sender: Sender, args: Any, kwargs: Any) -> Task:
        if self._most is not None and len(self._children) >= self._most:
            raise TooManyChildren(f"there are {self._most} children already, as many as may be")
        plan = dataclasses.replace(
            self._template,
            id=f"{self._template.id}-{next(self._numbers)}",
            more=codec.pack([list(args), dict(kwargs)]),
        )
        child = Child.of(plan)
        child.keep_spec = False
        yield from self._start_new(sender, child)

    def _serve_one_less(self, sender: Sender, ref: Any) -> Task:
        found = (child for child in self._children if ref in (child.ref, child.plan.id))
        child = None if ref is None else next(found, None)
        if child is None:
            raise NotFound(f"{ref!r:.200} is no child of this supervisor")
        return self._serve_terminate(sender, child.plan.id)

    def _specs(self) -> int:
        return 1  # the template

    def _stop_children(self) -> Task:
        for child in self._children:
            self._children.begin_to_stop(child)
        for child in self._children:
            yield from self._children.finish_to_stop(child)


# How Python names it in the error about an unknown option.
DynamicSupervisor._check_template.__qualname__ = "DynamicSupervisor.start_link"  # noqa: SLF001 - of this class
