"""The attributes of an actor that survive its crash: ``GenServer.kept``.

They are packed after each callback, and before each reply. If they have changed, they are written
to a memfd that the supervisor stores (``crash_safe_value``). So whoever has a reply finds its
effect after a crash, and a callback that raises, or is killed before its first reply, has changed
nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

from supervisor.actor import crash_safe_value
from supervisor.errors import shown
from supervisor.protocol import codec
from supervisor.protocol.invocation import is_handler

FD_NAME = "supervisor.kept"
"""The name of the memfd in the fd store."""


def check(cls: type, kept: Any, own: AbstractSet[str]) -> None:
    """Check what a class says of its kept attributes.

    Args:
        cls: the class.
        kept: what it says.
        own: the names of what every actor has.

    Raises:
        TypeError: they are no names of attributes.
    """
    if not isinstance(kept, tuple) or not all(
        isinstance(name, str) and name.isidentifier() and name != "_actor" for name in kept
    ):
        raise TypeError(
            f"{cls.__qualname__}.kept is a tuple of names of attributes, as in ('seen',), not"
            f" {shown(kept)}"
        )
    for name in kept:
        if name in own:
            raise TypeError(f"{cls.__qualname__}.kept names {name!r}, which every actor has")
        if kept.count(name) > 1:
            raise TypeError(f"{cls.__qualname__}.kept names {name!r} twice")
        if is_handler(inspect.getattr_static(cls, name, None)):
            raise TypeError(f"{cls.__qualname__}.kept names {name!r}, which is a handler")
        if name.startswith("__") or hasattr(inspect.getattr_static(cls, name, None), "__set__"):
            raise TypeError(
                f"{cls.__qualname__}.kept names {name!r}, which is no plain attribute of an object:"
                " a property, one of __slots__, or a name of two underscores"
            )


def check_set(server: Any) -> None:
    """Check that ``init`` has set all attributes that are to be kept.

    Raises:
        AttributeError: which one it has not.
    """
    for name in server.kept:
        if name not in vars(server):
            who = type(server).__qualname__
            raise AttributeError(f"{who}.kept names {name!r}, which init has not set on self")


def of_bases(cls: type) -> tuple[str, ...]:
    """Return what a class and its bases say is kept, each name once."""
    told = [vars(one).get("kept", ()) for one in reversed(cls.__mro__)]
    return tuple(dict.fromkeys(name for names in told for name in names))


class Kept:
    """The kept attributes of one actor."""

    def __init__(
        self,
        server: Any,
        stored: Mapping[tuple[str, ...], int],
        store: Callable[[tuple[str, ...], int], None],
    ) -> None:
        """Give the actor's object the attributes that a former incarnation has kept.

        Args:
            server: the object.
            stored: the descriptors that this incarnation has inherited.
            store: deposits a descriptor with the supervisor.

        Raises:
            ValueError: what was kept cannot be read.
            OSError: the supervisor's store is full, or no descriptor is free.
        """
        self._server = server
        self._who = type(server).__qualname__
        self._names: tuple[str, ...] = server.kept
        found = stored.get((FD_NAME,))
        self.restored = False
        """Whether a former incarnation has kept anything."""
        if found is None:
            self._fd, self._packed = crash_safe_value.create(), b""
            store((FD_NAME,), self._fd)
            return
        self._fd = found
        values = crash_safe_value.load(found)
        if values is None:  # it was killed before it had written anything
            self._packed = b""
            return
        self.restored = True
        self._packed = codec.pack_exact(values)
        attributes = vars(server)
        attributes.update((name, values[name]) for name in self._names if name in values)

    def save(self) -> None:
        """Write the attributes, if they have changed.

        Raises:
            TypeError, ValueError: a value cannot be packed: it ends the actor.
            AttributeError: an attribute was deleted.
            OSError: there is no memory for them.
        """
        attributes = vars(self._server)
        try:
            values = {name: attributes[name] for name in self._names}
        except KeyError as error:
            text = f"{self._who}.kept names {error}, which a callback has deleted from self"
            raise AttributeError(text) from None
        try:
            packed = codec.pack_exact(values, "kept")
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"{self._who}.kept cannot be written: {error}") from None
        if packed != self._packed:
            crash_safe_value.save_packed(self._fd, packed)
            self._packed = packed
