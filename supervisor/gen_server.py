"""GenServer: an actor, in a process of its own. Source: OTP's ``gen_server`` behaviour.

A subclass says what it does with what it receives; everything else is here. State lives on
``self``, in the new process: neither the class nor the caller's instance is shared with it.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

from supervisor.actor import handlers, kept
from supervisor.actor.callback_results import Sender
from supervisor.actor.loop import Actor
from supervisor.actor.timers import Timer
from supervisor.client.ref import Ref
from supervisor.errors import NORMAL, SHUTDOWN, Reason, shown
from supervisor.linux import Process
from supervisor.protocol.invocation import Invocation
from supervisor.protocol.telemetry import SUPERVISION
from supervisor.spawn import in_thread
from supervisor.spawn.launch import launch

if TYPE_CHECKING:
    import zmq


class _NoActor:
    """Stands for the process of an object that is in none."""

    def __get__(self, server: object, kind: type) -> Any:
        raise RuntimeError(
            f"this {kind.__qualname__} runs in no process: start one by {kind.__qualname__}"
            ".start_link(), which calls its callbacks there"
        )


class GenServer:
    """An actor. Override the callbacks that are needed."""

    reference: ClassVar[type[Ref[Any]]] = Ref
    """What ``start`` returns."""
    supervises: ClassVar[bool] = False
    """Whether it is a supervisor."""

    kept: ClassVar[tuple[str, ...]] = ()
    """Names of attributes that survive a crash. In the next incarnation they are back on ``self``
    before ``init`` is called, which sets them otherwise; ``restored`` tells whether they are back.
    They can be whatever travels in a message and arrives as what it was, 16 MiB in all. They are
    written when they have changed, after each callback and before each reply, and forgotten when
    the supervisor stops this child for good. A subclass keeps what its bases keep, too."""
    idle_timeout: float | None = None
    """Seconds without a message after which ``handle_info`` is given a ``Timeout``, each time.
    None: never; 0: whenever nothing has come. Any callback may set it."""
    trap_exit: bool = False
    """Whether the end of a linked actor is a message, an ``Exit``; otherwise this actor ends with
    it, for the same reason, unless that is "normal"."""

    _actor: Actor = cast("Actor", _NoActor())
    _handlers: ClassVar[Mapping[str, Callable[..., Any]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Find the handlers, see ``handler``.

        Raises:
            TypeError: a callback or a handler is none that an actor could serve.
        """
        super().__init_subclass__(**kwargs)
        kept.check(cls, cls.kept, _OWN)
        cls.kept = kept.of_bases(cls)
        cls._handlers = handlers.collect(cls, _OWN)

    # -- callbacks -----------------------------------------------------------------------------

    def init(self, *args: Any, **kwargs: Any) -> Any:
        """Begin, in the new process, with what ``start`` was given.

        Returns:
            None, ``Continue``, ``Ignore``, or ``Stop(reason)``. An exception fails the start.
        """
        if args or kwargs:
            raise TypeError(f"{type(self).__qualname__} has no init, and takes no arguments")

    def handle_call(self, request: Any, sender: Sender) -> Any:
        """Serve a call. What it returns is the reply, unless NoReply, Stop or Continue.

        An exception ends the actor, and reaches the caller as ``RemoteError``.
        """
        raise NotImplementedError(
            f"{type(self).__qualname__} serves no calls: {shown(request)} from {sender}"
        )

    def handle_cast(self, request: Any) -> Any:
        """Serve a cast. Returns None, Stop or Continue."""
        raise NotImplementedError(f"{type(self).__qualname__} serves no casts: {shown(request)}")

    def handle_info(self, message: Any) -> Any:
        """Take any other message: ``Down`` of a monitor, a timer's, what was sent."""
        text = "%r received an unexpected message: %s"
        self._actor.log.warning(text, self.ref, shown(message))

    def handle_continue(self, argument: Any) -> Any:
        """Go on after a callback that returned ``Continue``."""
        raise NotImplementedError(
            f"{type(self).__qualname__} has no handle_continue: {shown(argument)}"
        )

    def terminate(self, reason: Reason) -> None:
        """Clean up before an orderly end, or after an exception. Not called by SIGKILL."""

    # -- starting ------------------------------------------------------------------------------

    @classmethod
    def check_arguments(cls, *args: Any, **kwargs: Any) -> None:
        """Raise ValueError or TypeError if ``init`` could do nothing with these arguments.

        Called where the actor is specified or started, before any process is.
        """

    @classmethod
    def start_link(cls, *args: Any, name: str | None = None, **kwargs: Any) -> Ref[Self]:
        """Start the actor in a process of its own, which ends when this process ends.

        If the calling process is an actor, the new actor is linked to it: see ``trap_exit``.
        ``name`` is registered for the new actor; ``init`` does not get it.

        Returns:
            A ``Ref``. If ``init`` returned ``Ignore``, None, which the signature does not say:
            few actors do so, and the others would have to be asked everywhere whether they have.

        Raises:
            ValueError, TypeError: of ``check_arguments``; nothing was started.
            StartFailed: ``init`` raised, or returned Stop.
            AlreadyRegistered: another living actor has the name.
        """
        cls.check_arguments(*args, **kwargs)
        ref = launch(cls, args, kwargs, name, linked=True)
        if ref is not None and Actor.current is not None:
            Actor.current.links.link(ref, mutual=False)  # it knows of its owner's end by the pidfd
        return cast("Ref[Self]", ref)

    @classmethod
    def start(cls, *args: Any, name: str | None = None, **kwargs: Any) -> Ref[Self]:
        """Start the actor in a process of its own, which goes on when this process ends.

        Below a supervisor it cannot: what an actor there has started ends with that actor.

        Returns and raises as ``start_link``.
        """
        cls.check_arguments(*args, **kwargs)
        return cast("Ref[Self]", launch(cls, args, kwargs, name, linked=False))

    @classmethod
    async def astart_link(cls, *args: Any, name: str | None = None, **kwargs: Any) -> Ref[Self]:
        """Do as ``start_link``, from asyncio: other tasks run meanwhile.

        Cancelled, it leaves nothing running: a start that is under way is interrupted. Cancelled
        once more, it does not wait for that.
        """
        start = functools.partial(cls.start_link, *args, name=name, **kwargs)
        return await in_thread.made_in_thread(start, in_thread.stop)

    @classmethod
    async def astart(cls, *args: Any, name: str | None = None, **kwargs: Any) -> Ref[Self]:
        """Do as ``start``, from asyncio; cancelled, as ``astart_link``."""
        start = functools.partial(cls.start, *args, name=name, **kwargs)
        return await in_thread.made_in_thread(start, in_thread.stop)

    # -- for callbacks -------------------------------------------------------------------------

    @property
    def ref(self) -> Ref[Self]:
        """This actor's reference."""
        return self._actor.ref

    @property
    def restored(self) -> bool:
        """Whether the attributes of ``kept`` are those of a former incarnation."""
        return self._actor.kept is not None and self._actor.kept.restored

    @functools.cached_property  # and so an attribute of a subclass may have this name, too
    def log(self) -> logging.Logger:
        """The logger of this package; it never blocks the actor."""
        return self._actor.log

    @property
    def sender(self) -> Sender | None:
        """Who waits for the call that is being served; None: nobody, or no call is served.

        A handler that returns ``NoReply`` keeps it, for ``reply`` or ``refuse``.
        """
        return self._actor.sender

    def reply(self, sender: Sender, value: Any) -> bool:
        """Reply to a call that ``handle_call`` answered by ``NoReply``, here or in another actor.

        Returns:
            Whether the caller's process was still there, as far as is known here.
        """
        return self._actor.reply(sender, value)

    def refuse(self, sender: Sender, error: Exception) -> None:
        """Answer a call by an error that the caller raises; this actor goes on.

        OSError, ValueError, TypeError, KeyError and this package's errors arrive as themselves,
        others as ``RemoteError``. ``handle_call`` returns ``NoReply`` then.
        """
        self._actor.refuse(sender, error)

    def send_after(self, seconds: float, message: Any) -> Timer:
        """Have a message delivered to this actor's ``handle_info`` later."""
        return self._actor.send_after(seconds, message)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call back later, between messages. See ``cancel_timer``."""
        return self._actor.call_later(seconds, self._actor.keeping(callback))

    def call_every(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call back again and again, between messages, until ``cancel_timer``.

        The seconds are from the end of one call to the next: none is made up for.
        """
        return self._actor.call_every(seconds, self._actor.keeping(callback))

    def exit(self, reason: Reason = NORMAL) -> None:
        """End when the present callback has returned, as a callback does that returns ``Stop``."""
        self._actor.exit(reason)

    def cancel_timer(self, timer: Timer) -> None:
        """Forget a timer, if its message has not been delivered, or its function called, yet."""
        timer.cancelled = True

    def monitor(self, ref: Ref) -> None:
        """Monitor another actor's present incarnation: a ``Down`` comes when it has ended.

        It comes at once, with reason "noproc", if there is none.
        """
        self._actor.links.monitor(ref)

    def demonitor(self, ref: Ref) -> None:
        """Remove a monitor of another actor. A ``Down`` may be under way."""
        self._actor.links.demonitor(ref)

    def link(self, ref: Ref) -> None:
        """Link this actor to another one's present incarnation: see ``trap_exit``, of both.

        If there is none, it is as if that had ended with reason "noproc".
        Source: ``erlang:link/1``; unlike there, ``terminate`` is called before the end.
        """
        self._actor.links.link(ref)

    def unlink(self, ref: Ref) -> None:
        """Undo a link. What has been delivered already stays delivered."""
        self._actor.links.unlink(ref)

    def subscribe(self, supervisor: Ref) -> None:
        """Have the ``Event`` objects of a supervisor, and of all below it, delivered.

        They come to ``handle_info``, as long as its present incarnation lives.

        Raises:
            NoProcess: there is none.
        """
        self._actor.links.subscribe(supervisor, SUPERVISION)

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        """Call back, between messages, whenever a descriptor is readable or has an error."""
        self._actor.add_reader(fd, self._actor.keeping(callback))

    def remove_reader(self, fd: int) -> None:
        """Poll a descriptor for reading no longer. Call it before closing it."""
        self._actor.remove_reader(fd)

    def add_writer(self, fd: int, callback: Callable[[], None]) -> None:
        """Call back, between messages, whenever a descriptor is writable or has an error.

        That is most of the time: ``remove_writer`` when there is nothing more to write.
        """
        self._actor.add_writer(fd, self._actor.keeping(callback))

    def remove_writer(self, fd: int) -> None:
        """Poll a descriptor for writing no longer. Call it before closing it."""
        self._actor.remove_writer(fd)

    def store_fd(self, name: str, fd: int) -> None:
        """Deposit a duplicate of a descriptor with the supervisor, to have it after a crash.

        When this returns, the supervisor has the duplicate. It keeps the duplicate until this
        child is stopped for good, or stores another descriptor under the same name. It also
        stores the descriptor with its own supervisor, for the case that it crashes itself.
        Source: systemd's file descriptor store, ``sd_pid_notify_with_fds(3)``.

        Raises:
            OSError: there is no supervisor, or its store is full.
        """
        self._actor.parent.store_fd((name,), fd)

    def drop_fd(self, name: str) -> None:
        """Take a descriptor out of the store."""
        self._actor.parent.drop_fd((name,))

    def stored_fds(self) -> dict[str, int]:
        """Return the descriptors that this child, or a former incarnation, has stored, by name.

        They are this process's own, close-on-exec; it may use and close them.
        """
        stored = self._actor.stored.items()
        return {path[0]: fd for path, fd in stored if len(path) == 1 and path[0] != kept.FD_NAME}

    @property
    def context(self) -> zmq.Context[zmq.Socket[bytes]]:
        """The ZeroMQ context of this process, for sockets of the actor's own.

        ``terminate`` should close them. After it, sockets that are still open are closed with a
        LINGER of two seconds, for which the process's end waits.
        """
        return self._actor.context

    # -- for the framework ---------------------------------------------------------------------

    def _operate(self, sender: Sender, request: list[Any]) -> None:
        """Serve an operation of a pool, which is asked for beside calls: those are its members'."""
        self.refuse(sender, ValueError(f"a {type(self).__qualname__} is no pool: {shown(request)}"))

    def _table(self) -> dict[str, Any]:
        """Return what a supervisor knows of its children, for ``supervisor.tree``.

        Raises:
            ValueError: this is none.
        """
        raise ValueError(f"a {type(self).__qualname__} supervises nobody")

    def _order_to_stop(self, reason: Reason) -> None:
        """Begin an orderly end. A supervisor stops its children first."""
        self._actor.exit(reason)

    def _directory_made_again(self) -> None:
        """The runtime directory was removed, and is there again."""

    def _owner_left(self, owner: Process, done: Callable[[], object]) -> None:
        """An owner has ended, or is about to. End with the last; otherwise call back."""
        del (
            owner
        )  # it owns the whole actor; only a supervisor has children with owners of their own
        if self._actor.owners:
            done()
        else:
            self._order_to_stop(SHUTDOWN)

    def _handler_for(self, message: Invocation) -> Callable[..., Any]:
        """Return what serves a call or cast of a method; it is given this object first.

        Raises:
            TypeError: nothing does, or with other arguments.
        """
        method = self._handlers.get(message.method)
        # As ``takes`` says: a call of it here is a hundredth of what a message costs.
        if method is not None and not message.kwargs:
            known = method.__handler__  # type: ignore[attr-defined]
            if known.least <= len(message.args) <= known.most:
                return method
        return handlers.find(type(self), self._handlers, message)

    @classmethod
    def _new(cls, actor: Actor) -> Self:
        server = cls()
        server._actor = actor
        return server


_OWN = frozenset(name for name in vars(GenServer) if not name.startswith("_"))
"""Names that no handler may have: those of what every actor is, and may do."""
