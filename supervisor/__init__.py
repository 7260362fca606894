"""Actors and supervision on processes of the operating system, after Erlang/OTP.

An actor is a ``GenServer`` in a process of its own. A ``Supervisor`` starts actors, restarts
those that crash, and leaves nothing behind.
"""

from supervisor.actor.callback_results import Continue, Ignore, NoReply, Sender, Stop, Timeout
from supervisor.client.futures import CallFuture, Events
from supervisor.client.multi_call import Replies, multi_call
from supervisor.client.ref import Down, Exit, Monitor, Ref, whereis
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
from supervisor.protocol.telemetry import Event, Traced
from supervisor.supervision.child_spec import ChildSpec, check_childspecs
from supervisor.supervision.dynamic_supervisor import DynamicSupervisor
from supervisor.supervision.strategy import Backoff
from supervisor.supervision.supervisor import Supervisor
from supervisor.supervision.supervisor_ref import DynamicSupervisorRef, SupervisorRef

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
