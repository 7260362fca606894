"""References to supervisors: what can be asked of one. Source: OTP's ``supervisor``."""

from __future__ import annotations

import os
from typing import Any, NamedTuple, TypeVar, cast, overload

from supervisor import linux
from supervisor.client.futures import Events
from supervisor.client.ref import Ref, decode, encode
from supervisor.client.whereis import made_of
from supervisor.errors import shown
from supervisor.gen_server import GenServer
from supervisor.protocol import codec
from supervisor.protocol.codec import Code
from supervisor.protocol.telemetry import SUPERVISION
from supervisor.supervision.child_spec import ChildSpec, Plan

_Kind = TypeVar("_Kind", bound=Ref)
_Actor = TypeVar("_Actor", bound=GenServer)


class ChildRow(NamedTuple):
    """What ``which_children`` tells of a child."""

    id: str
    ref: Ref | None
    """None: it has no process."""
    type: str
    """"worker" or "supervisor"."""
    state: str
    """"running", "undefined" (no process), "restarting", "starting" or "stopping"."""


class SupervisorRef(Ref[Any]):
    """A reference to a supervisor."""

    __slots__ = ()

    @overload
    def start_child(self, spec: ChildSpec[_Actor], *, owner: int | None = ...) -> Ref[_Actor]: ...

    @overload
    def start_child(
        self, spec: ChildSpec, kind: type[_Kind], *, owner: int | None = ...
    ) -> _Kind: ...

    def start_child(self, spec: ChildSpec, kind: type = Ref, *, owner: int | None = None) -> Any:
        """Add a child and start it; return its reference, or None if ``init`` returned ``Ignore``.

        The signature does not say so, as that of ``GenServer.start_link``.

        Args:
            spec: its arguments must be able to travel in a message.
            kind: the class of the reference, for type checkers: of a pool ``PoolRef``, say.
            owner: a pid: the child is stopped and forgotten when this process ends.

        Raises:
            StartFailed: and why; the specification is not kept.
            AlreadyStarted, AlreadyPresent: there is a child of this id.
            ProcessLookupError: there is no process ``owner``.
        """
        request = _start_request(spec, owner)
        return _of_kind(request[1].id, _ask(self, *request), kind)

    @overload
    async def astart_child(
        self, spec: ChildSpec[_Actor], *, owner: int | None = ...
    ) -> Ref[_Actor]: ...

    @overload
    async def astart_child(
        self, spec: ChildSpec, kind: type[_Kind], *, owner: int | None = ...
    ) -> _Kind: ...

    async def astart_child(
        self, spec: ChildSpec, kind: type = Ref, *, owner: int | None = None
    ) -> Any:
        """Do as ``start_child``, from asyncio. Cancelled, it waits no longer; the child starts."""
        request = _start_request(spec, owner)
        return _of_kind(request[1].id, await _aask(self, *request), kind)

    def terminate_child(self, child: str) -> None:
        """Stop a child; its specification stays, unless it is temporary.

        One that is still starting is killed: its start has failed.

        Raises:
            NotFound: there is none of this id.
        """
        _ask(self, "terminate_child", child)

    async def aterminate_child(self, child: str) -> None:
        """Do as ``terminate_child``, from asyncio. Cancelled, it waits no longer."""
        await _aask(self, "terminate_child", child)

    @overload
    def restart_child(self, child: str) -> Ref: ...

    @overload
    def restart_child(self, child: str, kind: type[_Kind]) -> _Kind: ...

    @overload
    def restart_child(self, child: str, kind: type[_Actor]) -> Ref[_Actor]: ...

    def restart_child(self, child: str, kind: type = Ref) -> Any:
        """Start a child that was terminated; return as ``start_child``.

        Args:
            child: its id.
            kind: as of ``child``.

        Raises:
            NotFound, StillRunning, Restarting, StartFailed.
        """
        return _of_kind(child, _ask(self, "restart_child", child), kind)

    @overload
    async def arestart_child(self, child: str) -> Ref: ...

    @overload
    async def arestart_child(self, child: str, kind: type[_Kind]) -> _Kind: ...

    @overload
    async def arestart_child(self, child: str, kind: type[_Actor]) -> Ref[_Actor]: ...

    async def arestart_child(self, child: str, kind: type = Ref) -> Any:
        """Do as ``restart_child``, from asyncio. Cancelled, it waits no longer."""
        return _of_kind(child, await _aask(self, "restart_child", child), kind)

    def delete_child(self, child: str) -> None:
        """Forget the specification of a child that is not running.

        Raises:
            NotFound, StillRunning, Restarting.
        """
        _ask(self, "delete_child", child)

    async def adelete_child(self, child: str) -> None:
        """Do as ``delete_child``, from asyncio."""
        await _aask(self, "delete_child", child)

    @overload
    def child(self, child: str) -> Ref: ...

    @overload
    def child(self, child: str, kind: type[_Kind]) -> _Kind: ...

    @overload
    def child(self, child: str, kind: type[_Actor]) -> Ref[_Actor]: ...

    def child(self, child: str, kind: type = Ref) -> Any:
        """Return a child's reference; while it is restarting, wait for that.

        Args:
            child: its id.
            kind: the class of the child, or of its reference, as of ``whereis``.

        Raises:
            NotFound: there is no process of this id.
            TypeError: the child has another kind of reference.
        """
        return _of_kind(child, _ask(self, "child", child), kind)

    @overload
    async def achild(self, child: str) -> Ref: ...

    @overload
    async def achild(self, child: str, kind: type[_Kind]) -> _Kind: ...

    @overload
    async def achild(self, child: str, kind: type[_Actor]) -> Ref[_Actor]: ...

    async def achild(self, child: str, kind: type = Ref) -> Any:
        """Do as ``child``, from asyncio."""
        return _of_kind(child, await _aask(self, "child", child), kind)

    def give_child(self, child: str, owner: int) -> None:
        """Let a child that belongs to this process belong to another one instead.

        Raises:
            NotFound: there is none of this id.
            NotOwner: it does not belong to this process.
            ProcessLookupError: there is no process ``owner``.
        """
        present = list(linux.process(os.getpid()))
        _ask(self, "give_child", child, list(linux.process(owner)), present)

    def get_childspec(self, child: str) -> dict[str, Any]:
        """Return what a child's specification says: the fields of ``ChildSpec``, but its arguments.

        ``start`` is "module:Class".

        Raises:
            NotFound: there is none of this id.
        """
        return cast("dict[str, Any]", _ask(self, "get_childspec", child))

    def which_children(self) -> list[ChildRow]:
        """Return each child's id, reference, type and state, in the order of their start."""
        return [ChildRow(*row) for row in _ask(self, "which_children")]

    async def awhich_children(self) -> list[ChildRow]:
        """Do as ``which_children``, from asyncio."""
        return [ChildRow(*row) for row in await _aask(self, "which_children")]

    def count_children(self) -> dict[str, int]:
        """Return the numbers of ``specs``, ``active``, ``supervisors`` and ``workers``."""
        return cast("dict[str, int]", _ask(self, "count_children"))

    async def acount_children(self) -> dict[str, int]:
        """Do as ``count_children``, from asyncio."""
        return cast("dict[str, int]", await _aask(self, "count_children"))

    def events(self) -> Events:
        """Return a stream of ``Event`` objects, of this supervisor and of all below it.

        It ends with the supervisor's present process.

        Raises:
            NoProcess: there is none.
        """
        return Events(self._connection(), SUPERVISION)


class DynamicSupervisorRef(Ref[Any]):
    """A reference to a dynamic supervisor."""

    __slots__ = ()

    def start_child(self, *args: Any, **kwargs: Any) -> Ref:
        """Start one more child of the template; return as ``SupervisorRef.start_child``.

        Args:
            *args: for ``init``, after those of the template.
            **kwargs: for ``init`` too; they replace the template's.

        Raises:
            StartFailed: and why.
            TooManyChildren: ``max_children`` are there.
        """
        return cast("Ref", _ask(self, "start_child", args, kwargs))

    async def astart_child(self, *args: Any, **kwargs: Any) -> Ref:
        """Do as ``start_child``, from asyncio. Cancelled, it waits no longer; the child starts."""
        return cast("Ref", await _aask(self, "start_child", args, kwargs))

    def terminate_child(self, child: Ref | str) -> None:
        """Stop a child, for good.

        Args:
            child: its reference, or its id, as ``which_children`` tells them.

        Raises:
            NotFound: it is none of this supervisor's, or has been restarted since: a reference
                without a name means one process.
        """
        _ask(self, "terminate_child", child)

    async def aterminate_child(self, child: Ref | str) -> None:
        """Do as ``terminate_child``, from asyncio. Cancelled, it waits no longer."""
        await _aask(self, "terminate_child", child)

    def which_children(self) -> list[ChildRow]:
        """Return each child's id, reference, type and state, in the order of their start."""
        return [ChildRow(*row) for row in _ask(self, "which_children")]

    async def awhich_children(self) -> list[ChildRow]:
        """Do as ``which_children``, from asyncio."""
        return [ChildRow(*row) for row in await _aask(self, "which_children")]

    def count_children(self) -> dict[str, int]:
        """Return the numbers of ``specs``, ``active``, ``supervisors`` and ``workers``."""
        return cast("dict[str, int]", _ask(self, "count_children"))

    async def acount_children(self) -> dict[str, int]:
        """Do as ``count_children``, from asyncio."""
        return cast("dict[str, int]", await _aask(self, "count_children"))

    def events(self) -> Events:
        """Return a stream of ``Event`` objects, as ``SupervisorRef.events``."""
        return Events(self._connection(), SUPERVISION)


def _of_kind(child: str, ref: Ref | None, kind: type) -> Any:
    """Check that a child's reference is of a kind.

    Raises:
        TypeError: it is not.
    """
    wanted = type(made_of(kind))
    if ref is not None and not isinstance(ref, wanted):
        raise TypeError(f"child {child!r} has a {type(ref).__name__}, no {wanted.__name__}")
    return ref


def _start_request(spec: ChildSpec, owner: int | None) -> tuple[str, Any, list[int] | None]:
    """Return the request to start a child, which belongs to a process or to none.

    Raises:
        ProcessLookupError: there is no such process.
        TypeError: this specifies no child.
    """
    if not isinstance(spec, (ChildSpec, Plan)):
        raise TypeError(f"a child is started by its ChildSpec, not by {shown(spec)}")
    identity = None if owner is None else list(linux.process(owner))
    return "start_child", spec.plan(travels=True) if isinstance(spec, ChildSpec) else spec, identity


def _ask(ref: Ref, *request: Any) -> Any:
    return ref.call(list(request), timeout=None)


async def _aask(ref: Ref, *request: Any) -> Any:
    return await ref.acall(list(request), timeout=None)


codec.extend(
    Code.SUPERVISOR_REF, SupervisorRef, encode, lambda fields: decode(fields, SupervisorRef)
)
codec.extend(
    Code.DYNAMIC_SUPERVISOR_REF,
    DynamicSupervisorRef,
    encode,
    lambda fields: decode(fields, DynamicSupervisorRef),
)
