"""The handlers of a class of actors: its methods that other processes may call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

from supervisor.protocol.invocation import Invocation, check_arguments, handler, is_handler

_CALLBACKS = ("init", "handle_call", "handle_cast", "handle_info", "handle_continue", "terminate")


def collect(cls: type, reserved: AbstractSet[str]) -> dict[str, Callable[..., Any]]:
    """Return the handlers of a class that is just being defined, by name.

    Whatever has the name of a handler of a base class is one, too, unless it is no method at all:
    ``add = None`` takes a handler away, as with ``__hash__``.

    Args:
        cls: the class.
        reserved: names that no handler may have.

    Raises:
        TypeError: a callback or a handler is none that an actor could serve.
    """
    further = {name for one in cls.__mro__ for name in vars(one) if name.startswith("handle_")}
    for name in sorted(further.union(_CALLBACKS)):
        _check_callback(cls, name, inspect.getattr_static(cls, name))
    for name, value in vars(cls).items():
        _check_wrapped(cls, name, value)
    marked = {name for one in cls.__mro__ for name, value in vars(one).items() if is_handler(value)}
    found = {name: inspect.getattr_static(cls, name) for name in marked}
    handlers = {name: handler(value) for name, value in found.items() if value is not None}
    for name, value in handlers.items():
        if name in reserved:
            raise TypeError(
                f"the handler {cls.__qualname__}.{name} has a name that every GenServer uses itself"
            )
        if value.__name__ not in handlers:
            raise TypeError(
                f"the handler {cls.__qualname__}.{name} calls itself {value.__name__!r}, by which"
                " callers would not find it: a decorator uses functools.wraps, and a name does not"
                " begin with two underscores"
            )
    return handlers


def _check_callback(cls: type, name: str, value: object) -> None:
    if is_handler(value):
        raise TypeError(f"{cls.__qualname__}.{name} is a callback of the actor, and no handler")
    if inspect.iscoroutinefunction(value) or inspect.isasyncgenfunction(value):
        raise TypeError(
            f"{cls.__qualname__}.{name} is an async function: an actor serves one message after the"
            " other, in plain callbacks; await elsewhere, and send the actor what came of it"
        )


def _check_wrapped(cls: type, name: str, value: object) -> None:
    """Refuse what hides a handler: a property, say, which no message can call."""
    inner = value.fget if isinstance(value, property) else getattr(value, "__func__", None)
    if isinstance(value, (property, classmethod, staticmethod)) and is_handler(inner):
        raise TypeError(
            f"{cls.__qualname__}.{name} is a {type(value).__name__}, and so no handler:"
            " a handler is a plain method"
        )


def find(cls: type, handlers: Mapping[str, Any], message: Invocation) -> Callable[..., Any]:
    """Return the method that a message is for.

    Raises:
        TypeError: there is none of this name, or it takes other arguments.
    """
    method: Callable[..., Any] | None = handlers.get(message.method)
    if method is None:
        known = ", ".join(sorted(handlers)) or "none"
        raise TypeError(
            f"{cls.__qualname__} has no handler {message.method!r:.200}; it has: {known:.500}"
        )
    check_arguments(method, message.args, message.kwargs)
    return method
