"""Methods as messages: what a call of ``Counter.add`` with 5 is on its way to an actor.

Only the method's name and its arguments travel. The caller and the actor both check them against
the method's signature: the caller so that a mistake is raised where it was made, the actor because
the caller may have another version of the class, or none.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from supervisor.errors import shown
from supervisor.protocol import codec
from supervisor.protocol.codec import Code

if sys.version_info >= (3, 14):
    import annotationlib

_MARK = "__handler__"
"""The attribute of a function that is a handler: its ``_Arguments``."""

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)

_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(slots=True)
class Invocation:
    """A call or cast of a method, as ``Traced`` shows it."""

    method: str
    args: list[Any]
    kwargs: dict[str, Any]

    @classmethod
    def of(cls, term: Any) -> Invocation:
        """Read what has arrived.

        Raises:
            ValueError: it is no such message.
        """
        # A match would take five times as long, which a call of a method is too short for.
        if type(term) is list and len(term) in (2, 3):
            method, args = term[0], term[1]
            if type(method) is str and type(args) is list:
                if len(term) == 2:
                    return cls(method, args, {})
                if _are_named(term[2]):
                    return cls(method, args, term[2])
        raise ValueError(f"no call of a method: {shown(term)}")

    def __repr__(self) -> str:
        given = [shown(arg) for arg in self.args]
        given += [f"{name}={shown(value)}" for name, value in self.kwargs.items()]
        return f"{self.method}({', '.join(given)})"


def _are_named(kwargs: Any) -> bool:
    return type(kwargs) is dict and all(type(name) is str for name in kwargs)


@dataclass(frozen=True, slots=True)
class _Arguments:
    """How many arguments a handler takes by position, besides ``self``, if none has a keyword."""

    least: float
    most: float

    @classmethod
    def of(cls, function: Callable[..., Any]) -> _Arguments:
        parameters = list(_signature(function).parameters.values())
        variable = any(one.kind is inspect.Parameter.VAR_POSITIONAL for one in parameters)
        first = [one for one in parameters if one.kind in _POSITIONAL]
        if not first and not variable:
            raise TypeError(f"{_name(function)} takes no self: a handler is a method of an actor")
        optional = [one for one in first if one.default is not inspect.Parameter.empty]
        needs_keywords = any(
            one.kind is inspect.Parameter.KEYWORD_ONLY and one.default is inspect.Parameter.empty
            for one in parameters
        )
        least = math.inf if needs_keywords else max(0, len(first) - len(optional) - 1)
        return cls(least, math.inf if variable else len(first) - 1)


def handler(function: _Function) -> _Function:
    """Mark a method of a ``GenServer`` as one that other processes may call or cast.

    ``ref.call(Counter.add, 5)`` has it called in the actor with these arguments. What it returns is
    the reply, unless it is ``NoReply``, ``Stop`` or ``Continue``. A method that overrides a handler
    is one, too.

    Raises:
        TypeError: it is no plain method of an object.
    """
    if not inspect.isroutine(function) or isinstance(function, (staticmethod, classmethod)):
        raise TypeError(f"a handler is a plain method, not {shown(function)}")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(
            f"{_name(function)} is an async function: an actor serves one message after the other,"
            " in plain methods"
        )
    if inspect.isgeneratorfunction(function):
        raise TypeError(f"{_name(function)} is a generator, which cannot travel as a reply")
    if not is_handler(function):
        setattr(function, _MARK, _Arguments.of(function))
    return function


def is_handler(function: object) -> bool:
    """Tell whether a function is marked as a handler."""
    return hasattr(function, _MARK)


def term_of(method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """Return the term of the message that has a method called with these arguments.

    Raises:
        TypeError: it is no handler, or takes other arguments.
    """
    try:
        known: _Arguments = method.__handler__  # type: ignore[attr-defined]
    except AttributeError:
        raise TypeError(
            f"{_name(method)} is not marked by @handler, so no other process may call it; and a"
            " function itself cannot travel in a message"
        ) from None
    if not kwargs and known.least <= len(args) <= known.most:
        return [method.__name__, list(args)]
    check_arguments(method, args, kwargs)
    return [method.__name__, list(args), kwargs]


def takes(method: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Tell whether a handler certainly takes these arguments, by their number."""
    known: _Arguments = method.__handler__  # type: ignore[attr-defined]
    return not kwargs and known.least <= len(args) <= known.most


def check_arguments(
    method: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
) -> None:
    """Check that a handler takes these arguments.

    Raises:
        TypeError: which one it does not take, or lacks.
    """
    if takes(method, args, kwargs):
        return
    try:
        _signature(method).bind(None, *args, **kwargs)
    except TypeError as error:
        text = f"{_name(method)}: {error!s:.500}"
        if not {"timeout", "retry"}.isdisjoint(kwargs):
            text += "; a timeout, or retry, is given by ref.within(...).call(...): here all is the"
            text += " method's"
        raise TypeError(text) from None


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    """Return a function's signature, without evaluating its annotations.

    As a class is defined, an annotation may name the class itself, which is not there yet, or what
    is imported for type checkers alone. Python 3.14 evaluates annotations when they are asked for.
    """
    if sys.version_info >= (3, 14):
        return inspect.signature(function, annotation_format=annotationlib.Format.STRING)
    return inspect.signature(function)


def _name(function: object) -> str:
    return getattr(function, "__qualname__", None) or shown(function)


codec.extend(
    Code.INVOCATION,
    Invocation,
    lambda found: [found.method, found.args, found.kwargs],
    Invocation.of,
)
