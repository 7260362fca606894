"""Child specifications: what a supervisor starts, and how. Source: OTP's ``supervisor``.

A specification names a class and arguments. The supervisor never sees either: it holds a
``Plan``, in which the class is a name and the arguments are bytes, opened in the child alone.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from supervisor.errors import shown
from supervisor.gen_server import GenServer
from supervisor.protocol import codec, registry
from supervisor.protocol.codec import Code
from supervisor.spawn import references
from supervisor.spawn.launch import pickled
from supervisor.supervision.strategy import AUTO_SHUTDOWNS, RESTARTS, AutoShutdown, Backoff, Restart

if TYPE_CHECKING:
    from typing_extensions import TypeVar as DefaultTypeVar

    _Actor_co = DefaultTypeVar("_Actor_co", bound=GenServer, covariant=True, default=Any)
else:
    _Actor_co = TypeVar("_Actor_co", covariant=True)

_LONGEST_ID = 255

Seconds = float
Grace = Seconds | Literal["brutal_kill", "infinity"]
Kind = Literal["worker", "supervisor"]
_Class = type[GenServer]


@dataclass(frozen=True)
class Plan:
    """A specification as a supervisor holds it, and as it travels to a running one."""

    id: str
    start: str
    """``module:Class``."""
    arguments: bytes
    """Positional and keyword arguments, packed or pickled."""
    pickled: bool
    name: str | None
    restart: Restart
    shutdown: Grace
    type: Kind
    significant: bool
    init_timeout: Seconds | None
    watchdog: Seconds | None
    backoff: Backoff | None
    preload: bool
    intensity: int | None
    period: Seconds
    more: bytes = b""
    """Further arguments, packed: for a child made from a template."""

    def __post_init__(self) -> None:
        texts = (self.id, self.start)
        if not all(isinstance(text, str) and text for text in texts) or ":" not in self.start:
            raise ValueError(f"no plan of a child: {texts!r:.200}")
        if not isinstance(self.arguments, bytes) or not isinstance(self.more, bytes):
            raise ValueError(f"no plan of a child: {self.id!r:.200}")  # noqa: TRY004 - of whoever sent it
        if self.backoff is not None:
            object.__setattr__(self, "backoff", Backoff(*self.backoff))
        _check(self)

    def load(self) -> tuple[_Class, tuple[Any, ...], dict[str, Any]]:
        """Return the class and its arguments. For the child alone."""
        found = references.load(self.start)
        if self.pickled:
            args, kwargs = pickle.loads(self.arguments)  # noqa: S301 - came by the private channel
        else:
            args, kwargs = codec.unpack(self.arguments)
        more_args, more_kwargs = codec.unpack(self.more) if self.more else ((), {})
        return found, (*args, *more_args), {**kwargs, **more_kwargs}

    def import_module(self) -> None:
        """Import the module of the class, so that a fork finds it imported."""
        references.import_module(self.start)

    def describe(self) -> dict[str, Any]:
        """Return what it says, without the arguments."""
        hidden = {"arguments", "pickled", "more"}
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in hidden}


@dataclass(frozen=True)
class ChildSpec(Generic[_Actor_co]):
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
        type: "worker" or "supervisor"; by default what its class is.
        significant: its end by itself may end its supervisor: see ``auto_shutdown`` there.
        init_timeout: seconds that ``init`` may take, before the child is killed and its start
            has failed. By default there is no limit, as in OTP.
        watchdog: seconds that one callback may take. When they are over, the child writes its
            stacks, which its supervisor logs, and is killed; the reason is "hung". By default
            there is no limit. The supervisor looks four times within them for the child's answer.
        backoff: a ``Backoff``, how long to wait before a restart. By default there is no wait.
        preload: import its module in the supervisor, once. False: in the child, at each start.
        intensity: restarts of this child that are borne within ``period`` seconds, before this
            child alone is given up. By default only the supervisor's own intensity counts.
        period: seconds.

    Raises:
        ValueError, TypeError: what is wrong with it.
    """

    id: str
    start: type[_Actor_co]
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    name: str | None = None
    restart: Restart = "permanent"
    shutdown: Grace | None = None
    type: Kind | None = None
    significant: bool = False
    init_timeout: Seconds | None = None
    watchdog: Seconds | None = None
    backoff: Backoff | None = None
    preload: bool = True
    intensity: int | None = None
    period: Seconds = 5.0

    def __post_init__(self) -> None:
        if not isinstance(self.id, str) or not 0 < len(self.id.encode()) <= _LONGEST_ID:
            raise ValueError(f"a child's id is text of 1 to {_LONGEST_ID} bytes: {self.id!r:.300}")
        if not _is_class(self.start):
            raise TypeError(f"child {self.id!r}: start is a GenServer class, not {self.start!r}")
        references.reference_to(self.start)
        if self.name is not None:
            registry.quoted(self.name)
        _check(self)
        if not isinstance(self.args, (tuple, list)):
            raise TypeError(f"child {self.id!r}: args is a tuple of arguments, not {self.args!r}")
        if not isinstance(self.kwargs, dict) or not all(isinstance(k, str) for k in self.kwargs):
            raise TypeError(f"child {self.id!r}: kwargs is a dict by name, not {self.kwargs!r}")
        self.start.check_arguments(*self.args, **self.kwargs)

    def plan(self, travels: bool = False) -> Plan:  # noqa: FBT001, FBT002 - public as it is
        """Return what a supervisor holds.

        Args:
            travels: the arguments go through a mailbox, where nothing is pickled.

        Raises:
            TypeError: an argument cannot travel.
        """
        arguments = [list(self.args), self.kwargs]
        kind = self.type or ("supervisor" if self.start.supervises else "worker")
        # 0 seconds are no default.
        default: Grace = "infinity" if kind == "supervisor" else 5.0
        return Plan(
            id=self.id,
            start=references.reference_to(self.start),
            arguments=self._packed() if travels else pickled(f"child {self.id!r}", arguments),
            pickled=not travels,
            name=self.name,
            restart=self.restart,
            shutdown=default if self.shutdown is None else self.shutdown,
            type=kind,
            significant=self.significant,
            init_timeout=self.init_timeout,
            watchdog=self.watchdog,
            backoff=self.backoff,
            preload=self.preload,
            intensity=self.intensity,
            period=self.period,
        )

    def _packed(self) -> bytes:
        """Pack the arguments.

        Raises:
            TypeError: which one cannot travel.
        """
        named = {f"args[{n}]": value for n, value in enumerate(self.args)}
        for which, value in (named | self.kwargs).items():
            try:
                codec.pack(value)
            except TypeError as error:
                kind = type(value).__qualname__
                raise TypeError(
                    f"child {self.id!r}: {which}, {kind}, cannot travel to a supervisor that runs"
                    f" ({error}); given to Supervisor.start_link it would be pickled"
                ) from None
        return codec.pack([list(self.args), self.kwargs])


def _is_class(start: object) -> bool:
    return isinstance(start, type) and issubclass(start, GenServer)


def check_childspecs(
    specs: Iterable[ChildSpec | Plan], auto_shutdown: AutoShutdown | None = None
) -> None:
    """Check the specifications of one supervisor's children together, and start nothing.

    ``ChildSpec`` itself checks a single specification when it is made. This function checks that
    no id occurs twice; and, if the supervisor's ``auto_shutdown`` is given, that no child is
    significant where it is "never".
    Source: ``supervisor:check_childspecs/1`` and ``/2``.

    Raises:
        ValueError, TypeError: what is wrong with them.
    """
    if auto_shutdown is not None:
        _check_choice("the supervisor", "auto_shutdown", auto_shutdown, AUTO_SHUTDOWNS)
    seen: set[str] = set()
    for spec in specs:
        if not isinstance(spec, (ChildSpec, Plan)):
            raise TypeError(f"children are ChildSpec objects, not {spec!r:.200}")
        if spec.id in seen:
            raise ValueError(f"two children have the id {spec.id!r}")
        seen.add(spec.id)
        if spec.significant and auto_shutdown == "never":
            raise ValueError(
                f"child {spec.id!r} is significant, but the supervisor's auto_shutdown is 'never':"
                " choose 'any_significant' or 'all_significant'"
            )


def check_template(template: object) -> None:
    """Check a specification of which a supervisor makes its children.

    Raises:
        ValueError, TypeError: it is none, or its children could not be told apart.
    """
    if not isinstance(template, (ChildSpec, Plan)):
        raise TypeError(f"a template is one ChildSpec, not {shown(template)}")
    if template.name is not None:
        raise ValueError(f"children of a template cannot share the name {template.name!r}")


def _check(spec: ChildSpec | Plan) -> None:
    """Check what a specification and a plan have in common."""
    who = f"child {spec.id!r}"
    _check_choice(who, "restart", spec.restart, RESTARTS)
    if spec.type is not None:
        _check_choice(who, "type", spec.type, ("worker", "supervisor"))
    _check_grace(who, spec.shutdown)
    for option in ("significant", "preload"):
        if not isinstance(getattr(spec, option), bool):
            raise TypeError(f"{who}: {option} is True or False, not {getattr(spec, option)!r}")
    if spec.significant and spec.restart == "permanent":
        raise ValueError(
            f"{who} is significant and permanent: a permanent child is always restarted, and never"
            " the end of its supervisor; choose 'transient' or 'temporary'"
        )
    for option in ("init_timeout", "watchdog"):
        seconds = getattr(spec, option)
        if seconds is not None and not (_is_number(seconds) and seconds > 0):
            raise ValueError(f"{who}: {option} is a number of seconds over 0, not {seconds!r}")
    if spec.backoff is not None:
        _check_backoff(who, spec.backoff)
    if spec.intensity is not None:
        check_intensity(who, spec.intensity, spec.period)


def _is_number(value: object) -> bool:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    try:
        return not math.isnan(value)
    except OverflowError:
        return False


def _check_choice(who: str, option: str, value: object, choices: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{who}: {option} is one of {choices}, not {value!r}")


def _check_grace(who: str, shutdown: object) -> None:
    if shutdown is None or (isinstance(shutdown, str) and shutdown in {"brutal_kill", "infinity"}):
        return
    if not _is_number(shutdown) or not shutdown >= 0:  # type: ignore[operator]
        raise ValueError(
            f"{who}: shutdown is seconds, 'brutal_kill' or 'infinity', not {shutdown!r}"
        )


def _check_backoff(who: str, backoff: object) -> None:
    if not isinstance(backoff, Backoff):
        raise TypeError(f"{who}: backoff is a Backoff, not {backoff!r}")
    if not all(map(_is_number, backoff)):
        raise ValueError(f"{who}: a Backoff is made of numbers, not {backoff!r}")
    if not (0 < backoff.initial <= backoff.maximum and backoff.factor >= 1):
        raise ValueError(f"{who}: a Backoff grows from initial > 0 to maximum, not {backoff!r}")
    if not 0 <= backoff.jitter <= 1:
        raise ValueError(f"{who}: a Backoff's jitter is between 0 and 1, not {backoff.jitter!r}")


def check_intensity(who: str, intensity: int, period: float) -> None:
    """Check restart limits.

    Raises:
        ValueError: what is wrong with them.
    """
    if isinstance(intensity, bool) or not isinstance(intensity, int) or intensity < 0:
        raise ValueError(f"{who}: intensity is a number of restarts, not {intensity!r}")
    if not _is_number(period) or not 0 < period < math.inf:
        raise ValueError(f"{who}: period is a finite number of seconds over 0, not {period!r}")


def _encode(spec: ChildSpec | Plan) -> dict[str, Any]:
    plan = spec.plan(travels=True) if isinstance(spec, ChildSpec) else spec
    if plan.pickled:
        raise TypeError(f"the plan of child {plan.id!r} holds pickled arguments")
    return {f.name: getattr(plan, f.name) for f in fields(plan)}


def _decode(found: dict[str, Any]) -> Plan:
    if found.get("pickled"):
        raise ValueError("nothing that came through a mailbox is unpickled")
    return Plan(**found)


codec.extend(Code.CHILD_SPEC, (ChildSpec, Plan), _encode, _decode)
