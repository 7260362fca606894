"""References by name."""

from __future__ import annotations

from typing import Any, TypeVar, get_origin, overload

from supervisor.client.ref import Ref
from supervisor.protocol import registry

_Kind = TypeVar("_Kind", bound=Ref)
_Actor = TypeVar("_Actor")


def made_of(kind: type, process: Any = None, name: str | None = None) -> Any:
    """Make a reference of a class of references, or of the one that a class of actors has.

    Raises:
        TypeError: it is neither.
    """
    kind = get_origin(kind) or kind  # of PoolRef[Worker]
    is_reference = isinstance(kind, type) and issubclass(kind, Ref)
    reference: Any = kind if is_reference else getattr(kind, "reference", None)
    if reference is None:
        raise TypeError(f"kind is a class of actors, or of references, not {kind!r:.200}")
    return reference(process, name)


@overload
def whereis(name: str) -> Ref | None: ...


@overload
def whereis(name: str, kind: type[_Kind]) -> _Kind | None: ...


@overload
def whereis(name: str, kind: type[_Actor]) -> Ref[_Actor] | None: ...


def whereis(name: str, kind: type = Ref) -> Any:
    """Return a reference to the actor that has a name, or None.

    Args:
        name: the name.
        kind: the class of the actor, or of the reference: for a supervisor ``SupervisorRef``. It is
            not checked: a method that the actor does not have is refused when it is called.

    Raises:
        TypeError, ValueError: the name is none, or the kind.
    """
    found = made_of(kind, name=name)
    return None if registry.lookup(name) is None else found


@overload
def named(name: str) -> Ref: ...


@overload
def named(name: str, kind: type[_Kind]) -> _Kind: ...


@overload
def named(name: str, kind: type[_Actor]) -> Ref[_Actor]: ...


def named(name: str, kind: type = Ref) -> Any:
    """Return a reference to whoever has a name when it is used: the actor need not be there yet.

    Args:
        name: the name.
        kind: as of ``whereis``.

    Raises:
        TypeError, ValueError: the name is none, or the kind.
    """
    registry.quoted(name)
    return made_of(kind, name=name)
