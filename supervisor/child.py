"""A supervisor's child: its plan, its process if it has one, and what is known of both."""

from __future__ import annotations

import enum
import os
import signal
from dataclasses import dataclass
from typing import Any

from supervisor import fork, linux, registry, runtime
from supervisor.channel import Channel
from supervisor.child_spec import Plan
from supervisor.errors import KILLED, SHUTDOWN, Reason
from supervisor.protocol import FAILED, SHUT
from supervisor.ref import Ref
from supervisor.strategy import Intensity


class State(enum.Enum):
    """Where a child stands."""

    IDLE = "undefined"  # OTP's word for: no process
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    RESTARTING = "restarting"


@dataclass
class Child:
    """A child."""

    plan: Plan
    limit: Intensity | None
    owner: linux.Process | None = None
    state: State = State.IDLE
    pid: int | None = None
    process: linux.Process | None = None
    channel: Channel | None = None
    ref: Ref | None = None
    outcome: tuple[str, Any] | None = None
    """How its last start went: READY, IGNORE or FAILED, and a term."""
    last_words: Reason | None = None
    reason: Reason = KILLED
    """Why it ended the last time."""

    @classmethod
    def of(cls, plan: Plan) -> Child:
        """Return a child that has not been started."""
        return cls(plan, None if plan.intensity is None else Intensity(plan.intensity, plan.period))

    @property
    def failed(self) -> bool:
        """Whether its last start failed."""
        return self.outcome is not None and self.outcome[0] == FAILED

    def fork(self, stored: dict[tuple[str, ...], int]) -> Channel:
        """Start its process; return the channel on which it will report.

        Raises:
            StartFailed, OSError: there is none.
        """
        self.state, self.outcome, self.last_words = State.STARTING, None, None
        self.pid, self.channel = fork.fork(self.plan, stored)
        self.process = linux.process(self.pid)
        return self.channel

    def order_to_end(self) -> None:
        """Tell it to end in order."""
        if self.channel is not None:
            try:
                self.channel.send(SHUT, SHUTDOWN)
            except BrokenPipeError:
                return  # it is ending already

    def kill(self) -> None:
        """Kill it. Its pid is its own until it has been reaped."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)

    def bury(self, status: int) -> None:
        """Its process has ended, with this status: note why, and remove what it may have left."""
        status_says = KILLED if status < 0 else f"exit status {status}"
        self.reason = status_says if self.last_words is None else self.last_words
        if self.channel is not None:
            self.channel.close()
        if self.process is not None:
            runtime.mailbox(self.process).unlink(missing_ok=True)
            if self.plan.name is not None:
                registry.unregister(self.plan.name, self.process)
        self.pid = self.process = self.channel = self.ref = None
