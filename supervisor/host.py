"""Several objects in one actor: each is of a GenServer class, with its own state and handlers.

They share the actor's process, mailbox, timers and name. For packages that build on this one:
tuncer's pipelines run stages that follow one another in one process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from supervisor.actor.callback_results import Sender
from supervisor.gen_server import GenServer
from supervisor.protocol.invocation import Invocation

_Server = TypeVar("_Server", bound=GenServer)


class Host(GenServer):
    """An actor in which other objects live. Calls of a handler go to the first one that has it.

    Terms, casts, messages and timers' messages go to the only object, if there is one alone.
    """

    hosted: tuple[GenServer, ...] = ()

    def make(self, cls: type[_Server]) -> _Server:
        """Make an object of a class, which lives in this actor. Its ``init`` is not called."""
        server = cls._new(self._actor)
        self.hosted = (*self.hosted, server)
        return server

    def after_callback(self) -> None:
        """Do what is to be done after a callback of a hosted object, before its reply is sent."""

    def handle_call(self, request: Any, sender: Sender) -> Any:
        """Have the only object serve a call."""
        return self._served(self._only().handle_call, request, sender)

    def handle_cast(self, request: Any) -> Any:
        """Have the only object serve a cast."""
        return self._served(self._only().handle_cast, request)

    def handle_info(self, message: Any) -> Any:
        """Have the only object take a message."""
        return self._served(self._only().handle_info, message)

    def _only(self) -> GenServer:
        if len(self.hosted) == 1:
            return self.hosted[0]
        raise TypeError(
            f"{len(self.hosted)} objects live in {self.ref}: only a handler's name tells which one"
            " a call is for"
        )

    def _served(self, callback: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = callback(*args, **kwargs)
        self.after_callback()
        return result

    def _handler_for(self, message: Invocation) -> Callable[..., Any]:
        for server in self.hosted:
            if message.method in server._handlers:  # noqa: SLF001 - of a base class
                method = server._handler_for(message)  # noqa: SLF001 - of a base class
                return lambda _, *args, **kwargs: self._served(method, server, *args, **kwargs)
        if self.hosted:
            return self.hosted[0]._handler_for(message)  # noqa: SLF001 - it says what is wrong
        return super()._handler_for(message)
