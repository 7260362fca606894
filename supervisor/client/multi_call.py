"""The same call to several actors at the same time."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, Generic, NamedTuple, ParamSpec, TypeVar, overload

from supervisor.client.connection import deadline_of
from supervisor.client.futures import CallFuture
from supervisor.client.ref import Handler, Ref, Term, begin
from supervisor.errors import ActorError, shown
from supervisor.protocol import codec
from supervisor.protocol.invocation import term_of
from supervisor.protocol.message_kinds import CALL, CALL_METHOD

_Actor = TypeVar("_Actor")
_Given = ParamSpec("_Given")
_Reply = TypeVar("_Reply")

_PATIENCE = 5.0  # seconds


class Replies(NamedTuple, Generic[_Reply]):
    """What ``multi_call`` has got."""

    replies: list[tuple[Ref, _Reply]]
    """Who has replied, and what, in the order of the request."""
    errors: list[tuple[Ref, Exception]]
    """Who has not, and why."""


@overload
def multi_call(
    refs: Iterable[Ref[_Actor]],
    request: Handler[_Actor, _Given, _Reply],
    /,
    *args: _Given.args,
    **kwargs: _Given.kwargs,
) -> Replies[_Reply]: ...


@overload
def multi_call(
    refs: Iterable[Ref], request: Term, /, timeout: float | None = ...
) -> Replies[Any]: ...


def multi_call(refs: Iterable[Ref], request: Any, /, *args: Any, **kwargs: Any) -> Replies[Any]:
    """Call several actors at the same time. Source: ``gen_server:multi_call``.

    Args:
        refs: whom.
        request: as that of ``Ref.call``.
        *args: the method's. Of a term: ``timeout``, seconds for all of them together, by default 5;
            None waits as long as they live. For a method it is 5.
        **kwargs: as above.

    Raises:
        TypeError, ValueError: the request cannot travel, or these are no references or no timeout;
            nothing was sent.
    """
    refs = list(refs)
    for ref in refs:
        if not isinstance(ref, Ref):
            raise TypeError(f"actors are called by their references, not by {shown(ref)}")
    if callable(request):
        return _called(refs, CALL_METHOD, term_of(request, args, kwargs))
    return _called(refs, CALL, request, *args, **kwargs)


def _called(
    refs: list[Ref], kind: int, term: Any, timeout: float | None = _PATIENCE
) -> Replies[Any]:
    codec.pack(term)
    deadline = None if timeout is None else deadline_of(timeout)
    found = Replies[Any]([], [])
    sent: list[tuple[Ref, CallFuture]] = []
    for ref in refs:
        try:
            sent.append((ref, begin(ref, kind, term, _left(deadline))))
        except (ActorError, OSError) as error:
            found.errors.append((ref, error))
    for ref, future in sent:
        try:
            found.replies.append((ref, future.result(_left(deadline))))
        except Exception as error:  # noqa: BLE001 - what one has raised does not hide the others
            future.cancel()
            found.errors.append((ref, error))
    return found


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())
