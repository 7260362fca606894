"""Child specifications: what a supervisor starts, and how. Source: OTP's ``supervisor``.

A specification names a class and arguments. The supervisor never sees either: it holds a
``Plan``, in which the class is a name and the arguments are bytes, opened in the child alone.
"""

from __future__ import annotations

import importlib
import pickle
import sys
from dataclasses import dataclass, field
from typing import Any, Literal

from supervisor import main_module, registry, wire
from supervisor.gen_server import GenServer
from supervisor.strategy import RESTARTS, Restart

_MAIN = ("__main__", "__mp_main__")

Seconds = float
Grace = Seconds | Literal["brutal_kill", "infinity"]


@dataclass(frozen=True)
class Plan:
    """A specification as a supervisor holds it."""

    id: str
    start: str
    """``module:Class``."""
    arguments: bytes
    """Positional and keyword arguments, packed or pickled."""
    pickled: bool
    name: str | None
    restart: Restart
    shutdown: Grace
    kind: Literal["worker", "supervisor"]
    preload: bool
    intensity: int | None
    period: float

    def __post_init__(self) -> None:
        texts = (self.id, self.start, self.kind)
        if not all(isinstance(text, str) and text for text in texts) or ":" not in self.start:
            raise ValueError(f"no plan of a child: {texts!r:.200}")
        if not isinstance(self.arguments, bytes) or self.restart not in RESTARTS:
            raise ValueError(f"no plan of a child: {self.id!r:.200}")
        _check_grace(self.id, self.shutdown)
        if self.intensity is not None:
            check_intensity(self.id, self.intensity, self.period)

    def load(self) -> tuple[type[GenServer], tuple[Any, ...], dict[str, Any]]:
        """Return the class and its arguments. For the child alone."""
        self.import_module()
        module, _, path = self.start.partition(":")
        found: Any = sys.modules[module]
        for part in path.split("."):
            found = getattr(found, part)
        if self.pickled:
            args, kwargs = pickle.loads(self.arguments)  # noqa: S301 - came by the private channel
        else:
            args, kwargs = wire.unpack(self.arguments)
        return found, tuple(args), kwargs

    def import_module(self) -> None:
        """Import the module of the class, so that a fork finds it imported."""
        module = self.start.partition(":")[0]
        if module in _MAIN:
            main_module.ensure()
        importlib.import_module(module)


@dataclass(frozen=True)
class ChildSpec:
    """How to start, restart and stop a child.

    Args:
        id: what the supervisor calls it; unique among its children.
        start: a ``GenServer`` class, defined at the top level of a module.
        args: for ``init``. Given to ``Supervisor.start_link`` they are pickled; given to
            ``start_child`` of a running supervisor they must be able to travel in a message.
        kwargs: for ``init`` too.
        name: a name to register.
        restart: "permanent" always, "transient" unless it ended in order, "temporary" never.
        shutdown: seconds to end in, "brutal_kill" or "infinity". By default 5 seconds, and
            "infinity" for supervisors.
        preload: import its module in the supervisor, once. False: in the child, at each start.
        intensity: restarts of this child that are borne within ``period`` seconds, before this
            child alone is given up. By default only the supervisor's own intensity counts.
        period: seconds.

    Raises:
        ValueError, TypeError: what is wrong with it.
    """

    id: str
    start: type[GenServer]
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    name: str | None = None
    restart: Restart = "permanent"
    shutdown: Grace | None = None
    preload: bool = True
    intensity: int | None = None
    period: float = 5.0

    def __post_init__(self) -> None:
        if not isinstance(self.id, str) or not self.id:
            raise ValueError(f"a child's id is text, and not empty: {self.id!r}")
        if not isinstance(self.start, type) or not issubclass(self.start, GenServer):
            raise TypeError(f"child {self.id!r}: start is a GenServer class, not {self.start!r}")
        if "<locals>" in self.start.__qualname__:
            raise ValueError(
                f"child {self.id!r}: {self.start.__qualname__} must stand at the top level of a"
                " module: another process imports it by name"
            )
        if self.name is not None:
            registry.quoted(self.name)
        if self.restart not in RESTARTS:
            raise ValueError(
                f"child {self.id!r}: restart is one of {RESTARTS}, not {self.restart!r}"
            )
        _check_grace(self.id, self.shutdown)
        if self.intensity is not None:
            check_intensity(f"child {self.id!r}", self.intensity, self.period)

    def plan(self, travels: bool = False) -> Plan:
        """Return what a supervisor holds.

        Args:
            travels: the arguments go through a mailbox, where nothing is pickled.

        Raises:
            TypeError: an argument cannot travel.
        """
        arguments = [list(self.args), self.kwargs]
        supervisor = getattr(self.start, "supervises", False)
        return Plan(
            id=self.id,
            start=f"{self.start.__module__}:{self.start.__qualname__}",
            arguments=wire.pack(arguments) if travels else pickle.dumps(arguments),
            pickled=not travels,
            name=self.name,
            restart=self.restart,
            shutdown=self.shutdown or ("infinity" if supervisor else 5.0),
            kind="supervisor" if supervisor else "worker",
            preload=self.preload,
            intensity=self.intensity,
            period=self.period,
        )


def _check_grace(child: str, shutdown: Grace | None) -> None:
    if shutdown is None or shutdown in {"brutal_kill", "infinity"}:
        return
    if isinstance(shutdown, bool) or not isinstance(shutdown, (int, float)) or not shutdown >= 0:
        raise ValueError(
            f"child {child!r}: shutdown is seconds, 'brutal_kill' or 'infinity', not {shutdown!r}"
        )


def check_intensity(who: str, intensity: int, period: float) -> None:
    """Check restart limits.

    Raises:
        ValueError: what is wrong with them.
    """
    if isinstance(intensity, bool) or not isinstance(intensity, int) or intensity < 0:
        raise ValueError(f"{who}: intensity is a number of restarts, not {intensity!r}")
    if isinstance(period, bool) or not isinstance(period, (int, float)) or not period > 0:
        raise ValueError(f"{who}: period is a number of seconds over 0, not {period!r}")
