"""The same call to several actors at the same time."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, NamedTuple

from supervisor.client.connection import deadline_of
from supervisor.client.futures import CallFuture
from supervisor.client.ref import Ref, begin
from supervisor.errors import ActorError, shown
from supervisor.protocol import codec


class Replies(NamedTuple):
    """What ``multi_call`` has got."""

    replies: list[tuple[Ref, Any]]
    """Who has replied, and what, in the order of the request."""
    errors: list[tuple[Ref, Exception]]
    """Who has not, and why."""


def multi_call(refs: Iterable[Ref], request: Any, timeout: float | None = 5.0) -> Replies:
    """Call several actors at the same time. Source: ``gen_server:multi_call``.

    Args:
        refs: whom.
        request: as that of ``Ref.call``.
        timeout: seconds for all of them together.

    Raises:
        TypeError, ValueError: the request cannot travel, or these are no references or no timeout;
            nothing was sent.
    """
    refs = list(refs)
    for ref in refs:
        if not isinstance(ref, Ref):
            raise TypeError(f"actors are called by their references, not by {shown(ref)}")
    codec.pack(request)
    deadline = None if timeout is None else deadline_of(timeout)
    found = Replies([], [])
    sent: list[tuple[Ref, CallFuture]] = []
    for ref in refs:
        try:
            sent.append((ref, begin(ref, request, _left(deadline))))
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
