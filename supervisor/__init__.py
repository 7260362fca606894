"""Actors and supervision on processes of the operating system, after Erlang/OTP.

An actor is a ``GenServer`` in a process of its own. A ``Supervisor`` starts actors, restarts
those that crash, and leaves nothing behind.
"""

from supervisor.calls import CallFuture, Events
from supervisor.child_spec import ChildSpec, check_childspecs
from supervisor.dynamic import DynamicSupervisor
from supervisor.errors import (
    ActorError,
    AlreadyPresent,
    AlreadyRegistered,
    AlreadyStarted,
    BadMessage,
    CallCycle,
    CallTimeout,
    Cancelled,
    MailboxFull,
    NoProcess,
    NotFound,
    NotOwner,
    ProcessDown,
    Reason,
    RemoteError,
    Restarting,
    Shutdown,
    StartFailed,
    StillRunning,
    TooManyChildren,
)
from supervisor.gen_server import GenServer
from supervisor.multi_call import Replies, multi_call
from supervisor.ref import Down, Exit, Monitor, Ref, whereis
from supervisor.results import Continue, Ignore, NoReply, Sender, Stop, Timeout
from supervisor.strategy import Backoff
from supervisor.supervisor_ref import DynamicSupervisorRef, SupervisorRef
from supervisor.telemetry import Event, Traced
from supervisor.tree import Supervisor

__all__ = [
    "ActorError",
    "AlreadyPresent",
    "AlreadyRegistered",
    "AlreadyStarted",
    "Backoff",
    "BadMessage",
    "CallCycle",
    "CallFuture",
    "CallTimeout",
    "Cancelled",
    "ChildSpec",
    "Continue",
    "Down",
    "DynamicSupervisor",
    "DynamicSupervisorRef",
    "Event",
    "Events",
    "Exit",
    "GenServer",
    "Ignore",
    "MailboxFull",
    "Monitor",
    "NoProcess",
    "NoReply",
    "NotFound",
    "NotOwner",
    "ProcessDown",
    "Reason",
    "Ref",
    "RemoteError",
    "Replies",
    "Restarting",
    "Sender",
    "Shutdown",
    "StartFailed",
    "StillRunning",
    "Stop",
    "Supervisor",
    "SupervisorRef",
    "Timeout",
    "TooManyChildren",
    "Traced",
    "check_childspecs",
    "multi_call",
    "whereis",
]
