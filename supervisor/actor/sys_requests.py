"""What can be asked of any actor, whatever its class. Source: OTP's ``sys``."""

from __future__ import annotations

import time
from collections.abc import Sized
from typing import Any

from supervisor.actor.callback_results import Server
from supervisor.protocol import codec


class System:
    """An actor as seen from outside its class."""

    def __init__(self, server: Server, monitors: Sized) -> None:
        self._server = server
        self._monitors = monitors
        self._started = time.time()
        self.suspended = False
        self.counts = dict.fromkeys(("call", "cast", "info", "reply"), 0)

    def serve(self, request: Any) -> Any:
        """Do what is asked.

        Raises:
            ValueError, TypeError: it cannot be done.
        """
        match request:
            case ["get_state"]:
                return self._state()
            case ["replace_state", dict(new)]:
                return self._replace(new)
            case ["suspend" | "resume" as operation]:
                self.suspended = operation == "suspend"
                return None
            case ["tree"]:
                return self._server._table()  # noqa: SLF001 - a hook for this class alone
            case ["statistics"]:
                return self._statistics()
        raise ValueError(f"no request to an actor's system: {request!r:.200}")

    def _state(self) -> dict[str, Any]:
        attributes = vars(self._server)
        return {name: codec.portable(attributes[name]) for name in attributes if name != "_actor"}

    def _replace(self, new: dict[str, Any]) -> dict[str, Any]:
        wrong = [name for name in new if not isinstance(name, str) or name == "_actor"]
        if wrong:
            raise ValueError(f"{wrong[0]!r:.200} is no attribute that can be replaced")
        vars(self._server).update(new)
        return self._state()

    def _statistics(self) -> dict[str, Any]:
        return {
            "started": self._started,
            "cpu": time.process_time(),
            "suspended": self.suspended,
            "monitors": len(self._monitors),
            "calls": self.counts["call"],
            "casts": self.counts["cast"],
            "infos": self.counts["info"],
            "replies": self.counts["reply"],
        }
