"""Actors and supervision on processes of the operating system, after Erlang/OTP.

An actor is a ``GenServer`` in a process of its own. A ``Supervisor`` starts actors, restarts
those that crash, and leaves nothing behind.
"""

from supervisor.actor.callback_results import Sender, Timeout
from supervisor.client.futures import CallFuture, Events
from supervisor.client.multi_call import Replies, multi_call
from supervisor.client.ref import Down, Exit, Monitor, Ref, Term
from supervisor.client.wait_any import wait_any
from supervisor.client.whereis import named, whereis
from supervisor.errors import (
    ActorError,
    AlreadyPresent,
    AlreadyRegistered,
    AlreadyStarted,
    BadMessage,
    CallCycle,
    CallTimeout,
    Cancelled,
    GaveUp,
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
from supervisor.log_collector import collect_logs
from supervisor.program import run
from supervisor.protocol.invocation import Invocation, handler
from supervisor.protocol.results import Continue, Ignore, NoReply, Stop
from supervisor.protocol.telemetry import Event, Traced
from supervisor.supervision.child_spec import ChildSpec, check_childspecs
from supervisor.supervision.dynamic_supervisor import DynamicSupervisor
from supervisor.supervision.pool import Pool
from supervisor.supervision.pool_ref import PoolRef
from supervisor.supervision.strategy import Backoff
from supervisor.supervision.supervisor import Supervisor
from supervisor.supervision.supervisor_ref import ChildRow, DynamicSupervisorRef, SupervisorRef

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
    "ChildRow",
    "ChildSpec",
    "Continue",
    "Down",
    "DynamicSupervisor",
    "DynamicSupervisorRef",
    "Event",
    "Events",
    "Exit",
    "GaveUp",
    "GenServer",
    "Ignore",
    "Invocation",
    "MailboxFull",
    "Monitor",
    "NoProcess",
    "NoReply",
    "NotFound",
    "NotOwner",
    "Pool",
    "PoolRef",
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
    "Term",
    "Timeout",
    "TooManyChildren",
    "Traced",
    "check_childspecs",
    "collect_logs",
    "handler",
    "multi_call",
    "named",
    "run",
    "wait_any",
    "whereis",
]
