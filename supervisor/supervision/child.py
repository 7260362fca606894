"""A supervisor's child: its plan, its process if it has one, and what is known of both."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import os
import random
import signal
import time
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from supervisor import linux
from supervisor.actor.timers import Timer
from supervisor.client.ref import Ref
from supervisor.errors import HUNG, KILLED, Reason, reason_of
from supervisor.protocol import codec, registry, runtime_dir
from supervisor.protocol.channel import Channel
from supervisor.protocol.message_kinds import FAILED
from supervisor.spawn.stderr_handler import Repeated
from supervisor.supervision import fork
from supervisor.supervision.child_spec import Plan
from supervisor.supervision.strategy import Intensity

_LONGEST_DUMP = 65536  # bytes of a hung child's stacks


class LastExit(NamedTuple):
    """The last end of a child's process."""

    pid: int
    reason: Reason
    at: float
    """By ``time.monotonic``."""


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
    keep_spec: bool
    """Whether its plan is kept when it is stopped, to be restarted by hand."""
    owner: linux.Process | None = None
    state: State = State.IDLE
    pid: int | None = None
    process: linux.Process | None = None
    channel: Channel | None = None
    ref: Ref | None = None
    outcome: tuple[str, Any] | None = None
    """How its last start went: READY, IGNORE or FAILED, and a term."""
    reported_reason: Reason | None = None
    reason: Reason = KILLED
    """Why it ended the last time."""
    last_exit: LastExit | None = None
    restarts: int = 0
    """How often it has been restarted."""
    lacks_resources: bool = False
    """Whether its last start failed because memory, processes, descriptors or disk space were
    short, or because the runtime directory could not be made."""
    attempts: int = 0
    """Starts in a row that have failed."""
    said: Repeated = field(default_factory=Repeated)
    waits: int = 0
    """Restarts since it last served for long: what its backoff grows with."""
    since: float = 0.0
    """When its process was started, by ``time.monotonic``."""
    is_reaped: bool = False
    """Whether its process has been reaped, and its pid may be anybody's."""
    restarted: bool = False
    """Whether its last start was a restart."""
    unanswered: int = 0
    """0: no PING is open. A PING sets it to 1, and each look that finds no PONG adds 1."""
    grace_is_over: bool = False
    """Whether it has had the time in which it may end in order."""
    held: bool = False
    """Whether a debugger holds it up."""
    cancelled: bool = False
    """Whether ``terminate_child`` was called while it was starting."""
    start_id: object = None
    """Which of its starts is under way, or was the last."""
    retry: Timer | None = None
    """When it is restarted, after its backoff."""
    dump: int | None = None
    """A memfd for its stacks, if it has a watchdog."""

    @classmethod
    def of(cls, plan: Plan) -> Child:
        """Return a child that has not been started."""
        limit = None if plan.intensity is None else Intensity(plan.intensity, plan.period)
        return cls(plan, limit, keep_spec=plan.restart != "temporary")

    @property
    def is_restarting(self) -> bool:
        """Whether it has ended, and is, or waits to be, started again."""
        again = self.state is State.STARTING and self.restarted
        return self.state is State.RESTARTING or again

    @property
    def word(self) -> str:
        """What is told of its state."""
        return State.RESTARTING.value if self.is_restarting else self.state.value

    @property
    def failed(self) -> bool:
        """Whether its last start failed."""
        return self.outcome is not None and self.outcome[0] == FAILED

    def begin(self, *, again: bool) -> None:
        """Reset what belongs to one start. ``again``: the start is a restart."""
        self.start_id = object()
        self.restarted = again
        self.state, self.outcome, self.reported_reason = State.STARTING, None, None
        self.held = self.cancelled = self.grace_is_over = False
        self.lacks_resources = self.is_reaped = False
        self.unanswered = 0

    def forget_arguments(self) -> None:
        """Keep none that are not needed any more: a temporary child is never started again."""
        if self.plan.restart == "temporary":
            nothing = codec.pack([[], {}])
            self.plan = dataclasses.replace(self.plan, arguments=nothing, pickled=False, more=b"")

    def fork(self, stored: dict[tuple[str, ...], int]) -> Channel:
        """Start its process; return the channel on which it will report.

        Raises:
            StartFailed: the supervisor has a second Python thread, which a fork must not copy.
            OSError: no process, descriptor or memory is free.
        """
        self.since = time.monotonic()
        if self.plan.watchdog is not None:
            self.dump = os.memfd_create("stacks", os.MFD_CLOEXEC)
        try:
            self.pid, self.channel = fork.fork(self.plan, stored, self.dump)
        except BaseException:
            self.stacks()
            raise
        self.process = linux.process(self.pid)
        return self.channel

    def wait_no_longer(self) -> None:
        """Forget that it was to be restarted after its backoff."""
        if self.retry is not None:
            self.retry.cancelled = True
            self.retry = None

    def abort(self) -> None:
        """Send SIGXCPU, at which faulthandler writes the child's stacks, and the child dies."""
        self.reported_reason = HUNG
        self._kill(linux.HANG_SIGNAL)
        self._kill(signal.SIGCONT)  # a stopped process gets SIGXCPU only when it is continued

    def kill(self) -> None:
        """Kill it. Its pid is its own until it has been reaped."""
        self._kill(signal.SIGKILL)

    def _kill(self, number: signal.Signals) -> None:
        if self.pid is not None and not self.is_reaped:
            with contextlib.suppress(PermissionError):  # it runs a setuid program
                os.kill(self.pid, number)

    def note_end(self, status: int) -> None:
        """Its process has ended, with this status: note why."""
        told = self.reported_reason
        self.reason = (reason_of(status) if status else "exit status 0") if told is None else told
        assert self.pid is not None
        self.last_exit = LastExit(self.pid, self.reason, time.monotonic())

    def cleanup(self) -> None:
        """Its process has ended: remove what it may have left."""
        if self.channel is not None:
            self.channel.close()
        if self.process is not None:
            with contextlib.suppress(OSError):  # the directory has gone, or something has its place
                runtime_dir.mailbox(self.process).unlink(missing_ok=True)
                if self.plan.name is not None:
                    registry.unregister(self.plan.name, self.process)
        self.pid = self.process = self.channel = self.ref = None

    def stacks(self) -> str:
        """Return what it has written of its stacks, once."""
        if self.dump is None:
            return ""
        with contextlib.closing(os.fdopen(self.dump, "rb")) as file:
            self.dump = None
            return os.pread(file.fileno(), _LONGEST_DUMP, 0).decode(errors="replace")

    def backoff(self) -> float:
        """Return the seconds to wait before the next restart, and count it."""
        backoff = self.plan.backoff
        if backoff is None:
            return 0.0
        if not self.failed and time.monotonic() - self.since > backoff.maximum:
            self.waits = 0
        self.waits += 1
        return backoff.delay(self.waits - 1, random.random())  # noqa: S311 - jitter
