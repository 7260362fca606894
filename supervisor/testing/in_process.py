"""An actor in the test's own process, for tests of its callbacks.

It has a mailbox and a loop as others have, and is reached by the same sockets: what differs is that
the test runs the loop, and so sees the object, its exceptions, and every line in a debugger.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, Self, TypeVar, overload

from supervisor.actor import crash_safe_value
from supervisor.actor.kept import FD_NAME
from supervisor.actor.loop import Actor
from supervisor.client import futures
from supervisor.client.ref import Handler, Ref, Term
from supervisor.errors import (
    NORMAL,
    AlreadyRegistered,
    CallTimeout,
    Reason,
    RemoteError,
    StartFailed,
    shown,
)
from supervisor.gen_server import GenServer
from supervisor.spawn import launch

_Actor = TypeVar("_Actor", bound=GenServer)
_Given = ParamSpec("_Given")
_Reply = TypeVar("_Reply")

_PATIENCE = 5.0  # seconds for a reply
_MOST_TURNS = 100_000  # of the loop in a row: an actor that calls itself back at once never stops


class InProcess(Generic[_Actor]):
    """An actor that runs in this process, whenever the test has it run: a context manager.

    ``server`` is its object. ``call``, ``cast`` and ``send`` send a message, and run the actor
    until it has nothing more to do. Timers do not wait: ``elapse`` lets their time pass. ``ref``
    can be given to others; what they send is served by ``run``.

    There may be one in a process, as a process has one mailbox. It has no supervisor: it cannot
    store descriptors, and nobody starts it again.
    """

    _running: InProcess[Any] | None = None

    def __init__(
        self,
        cls: type[_Actor],
        *args: Any,
        name: str | None = None,
        kept: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Start it: ``init`` has returned when this does.

        Args:
            cls: its class.
            *args: for ``init``.
            name: a name to register.
            kept: what a former incarnation has kept (``GenServer.kept``).
            **kwargs: for ``init``, too.

        Raises:
            StartFailed: ``init`` raised, or returned Stop or Ignore; the exception is its cause.
            AlreadyRegistered: another living actor has the name.
            RuntimeError: another one runs in this process.
        """
        if InProcess._running is not None:
            text = f"{InProcess._running} runs in this process already: stop it first"
            raise RuntimeError(f"{text}; a process has one mailbox")
        cls.check_arguments(*args, **kwargs)
        self._memfd = crash_safe_value.create(kept)
        self._kept: dict[str, Any] = {}
        stored: dict[tuple[str, ...], int] = {(FD_NAME,): self._memfd} if cls.kept else {}
        try:
            self._actor = Actor(cls, name, None, stored, supervised=False)
        except BaseException:
            os.close(self._memfd)
            raise
        self._has_ended = False
        InProcess._running = self
        self._do(lambda: self._actor.begin(args, kwargs))
        self.run()
        if self._has_ended and not self._actor.has_started:
            reason = self._actor.reason
            if isinstance(self._actor.error, AlreadyRegistered):
                raise self._actor.error
            raise StartFailed(cls.__qualname__, reason or NORMAL) from self._actor.error

    @property
    def server(self) -> _Actor:
        """The actor's object."""
        return self._actor.server  # type: ignore[return-value]

    @property
    def ref(self) -> Ref[_Actor]:
        """The actor's reference."""
        return self._actor.ref

    @property
    def reason(self) -> Reason | None:
        """Why it has ended; None: it has not."""
        return self._actor.reason

    @property
    def kept(self) -> dict[str, Any]:
        """What it has kept so far: what a next incarnation would find."""
        return self._kept if self._has_ended else crash_safe_value.load(self._memfd) or {}

    @overload
    def call(
        self,
        request: Handler[_Actor, _Given, _Reply],
        /,
        *args: _Given.args,
        **kwargs: _Given.kwargs,
    ) -> _Reply: ...

    @overload
    def call(self, request: Term, /) -> Any: ...

    def call(self, request: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call the actor as ``Ref.call`` does, and run it until it has replied.

        Raises:
            RemoteError: a callback raised; its exception is the cause.
            CallTimeout: it has not replied within five seconds.
            Exception: whatever else ``Ref.call`` raises.
        """
        future = self.ref.call_async(request, *args, **kwargs)
        deadline = time.monotonic() + _PATIENCE
        while not future.done():
            if time.monotonic() > deadline:
                raise CallTimeout(f"{self} has not replied to {shown(request)}: it is idle")
            self._turn(deadline - time.monotonic())
        self.run()
        try:
            return future.result(0.0)
        except RemoteError as error:
            raise error from self._actor.error

    @overload
    def cast(
        self, request: Handler[_Actor, _Given, Any], /, *args: _Given.args, **kwargs: _Given.kwargs
    ) -> None: ...

    @overload
    def cast(self, request: Term, /) -> None: ...

    def cast(self, request: Any, /, *args: Any, **kwargs: Any) -> None:
        """Cast to the actor as ``Ref.cast`` does, and run it.

        Raises:
            BaseException: what a callback has raised, by which the actor has ended.
        """
        self.ref.cast(request, *args, **kwargs)
        self._run_and_raise()

    def send(self, message: Any) -> None:
        """Send a message for ``handle_info``, and run the actor. Raises as ``cast``."""
        self.ref.send(message)
        self._run_and_raise()

    def elapse(self, seconds: float) -> None:
        """Let time pass for the actor's timers and ``idle_timeout``, and run what is due then.

        Raises as ``cast``. Only the actor's own clock is set forward, not ``time.monotonic``.
        """
        while seconds > 0.0 and not self._has_ended:
            step = min(seconds, self._actor.patience())
            self._actor.elapse(step)
            seconds -= step
            self._run_and_raise()

    def run(self, seconds: float = 0.0) -> None:
        """Run the actor until it has nothing to do, and for so many seconds at least."""
        deadline = time.monotonic() + seconds
        for _ in range(_MOST_TURNS):
            busy = self._turn(max(0.0, deadline - time.monotonic()))
            if not busy and time.monotonic() >= deadline:
                return
        raise RuntimeError(
            f"{self} still has something to do after {_MOST_TURNS} turns of its loop"
        )

    def stop(self, reason: Reason = NORMAL) -> None:
        """End it in order, as its supervisor would."""
        self._actor.exit(reason)
        self._finish()

    def kill(self) -> None:
        """End it without ``terminate``, as SIGKILL would; ``kept`` says what has survived."""
        if not self._has_ended:
            self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<InProcess {type(self.server).__qualname__}>"

    # -- the loop ------------------------------------------------------------------------------

    def _run_and_raise(self) -> None:
        self.run()
        if self._actor.error is not None:
            raise self._actor.error

    def _turn(self, patience: float) -> bool:
        """Run one turn of the actor's loop; return whether there was anything to do."""
        found: list[bool] = []
        self._do(lambda: found.append(self._actor.turn(patience)))
        return bool(found) and found[0] and not self._has_ended

    def _do(self, what: Callable[[], object]) -> None:
        """Do something as the actor; what a callback raises ends it."""
        if self._has_ended:
            return
        former, Actor.current = Actor.current, self._actor
        before = futures.actor_calls_back(self._actor.links.calls_back)
        try:
            what()
        except BaseException as error:
            self._actor.crash(error)
            if not isinstance(error, Exception):  # of the test: Ctrl-C, pytest.fail()
                raise
        finally:
            Actor.current = former
            futures.actor_calls_back(before)
            if self._actor.reason is not None:
                self._finish()

    def _finish(self) -> None:
        """Have it end, as its process would."""
        if not self._has_ended:
            self._actor.end(self._actor.reason or NORMAL)
            self._close()

    def _close(self) -> None:
        self._kept, self._has_ended = self.kept, True
        os.close(self._memfd)
        self._actor.close()
        launch.reap_children()
        InProcess._running = None
