"""What packages that build on this one may use besides its public names, as tuncer does.

These hooks are public, but nearer to the inside: a minor version may change them.
"""

from __future__ import annotations

from collections.abc import Callable

from supervisor.actor import crash_safe_value
from supervisor.actor.loop import Actor
from supervisor.actor.timers import Timer
from supervisor.client.connection import Connection
from supervisor.client.futures import CallFuture
from supervisor.client.lock import RLock
from supervisor.client.pending import Pending
from supervisor.client.ref import Ref, process_of, retry_of
from supervisor.client.ref import decode as decode_ref
from supervisor.client.ref import encode as encode_ref
from supervisor.gen_server import GenServer
from supervisor.host import Host
from supervisor.linux import Process
from supervisor.protocol import restoration, runtime_dir
from supervisor.protocol.channel import Channel, close_all
from supervisor.protocol.codec import Code, pack_exact, unpack
from supervisor.protocol.codec import extend as extend_codec
from supervisor.protocol.framing import peer_of
from supervisor.protocol.message_kinds import CALL, CAST
from supervisor.spawn.in_thread import made_in_thread
from supervisor.spawn.launch import stop_linked
from supervisor.spawn.references import load as load_reference
from supervisor.spawn.references import reference_to
from supervisor.supervision.child_spec import check_intensity
from supervisor.supervision.strategy import Restart
from supervisor.supervision.supervisor import Supervisor

FIRST_CODE = Code.FIRST_OF_OTHERS
"""The first code that is free for the types of other packages: see ``extend_codec``."""

__all__ = [
    "CAST",
    "FIRST_CODE",
    "CallFuture",
    "Channel",
    "Connection",
    "Host",
    "Pending",
    "Process",
    "RLock",
    "Restart",
    "Timer",
    "call_async",
    "check_intensity",
    "close_all",
    "crash_safe_value",
    "decode_ref",
    "encode_ref",
    "extend_codec",
    "give_up",
    "is_fork",
    "load_reference",
    "made_in_thread",
    "pack_exact",
    "peer_of",
    "process_of",
    "provide_fd",
    "provided_fd",
    "reference_to",
    "restoration",
    "retry_of",
    "runtime_dir",
    "starts_again",
    "stop_linked",
    "store_fd_later",
    "unpack",
    "when_restored",
]


def store_fd_later(
    server: GenServer, name: str, fd: int, done: Callable[[str | None], None]
) -> None:
    """Deposit a descriptor with the supervisor, as ``GenServer.store_fd`` does, without waiting.

    Args:
        server: the actor, which must be this process's.
        name: the descriptor's.
        fd: the descriptor, of which the supervisor gets a duplicate.
        done: called between messages, with None when it is stored, or with the reason why not.

    Raises:
        OSError: ENOTCONN, there is no supervisor.
    """
    server._actor.parent.store_fd_later((name,), fd, done)  # noqa: SLF001 - what this file is for


def when_restored(server: GenServer, callback: Callable[[], None]) -> None:
    """Have a function called, between messages, when the runtime directory was made again.

    It restores what this actor, which must be this process's, has put into the directory.
    """
    server._actor.when_restored.append(callback)  # noqa: SLF001 - what this file is for


def starts_again(server: GenServer) -> bool:
    """Tell, in ``terminate``, whether the supervisor stops this actor to start it again."""
    return server._actor.parent.starts_again  # noqa: SLF001 - what this file is for


def call_async(
    ref: Ref, request: object, timeout: float | None, pending: Pending | None = None
) -> CallFuture:
    """Do as ``Ref.call_async`` does; ``pending`` takes the reply when it arrives."""
    return ref._call_async(CALL, request, timeout, pending)  # noqa: SLF001 - what this file is for


def provide_fd(supervisor: GenServer, child: str, name: str, fd: int) -> None:
    """Give a child a descriptor, as if it had stored it: before the supervisor's own ``init``.

    Args:
        supervisor: which must be this process's. A descriptor that a former incarnation has
            provided is there already: see ``provided_fd``.
        child: its id.
        name: the descriptor's.
        fd: the descriptor, which the supervisor's store takes over.

    Raises:
        OSError: the store of the supervisor above is full.
    """
    actor = supervisor._actor  # noqa: SLF001 - what this file is for
    if actor.parent.supervises:
        actor.parent.store_fd((child, name), fd)
    actor.stored[child, name] = fd


def provided_fd(supervisor: GenServer, child: str, name: str) -> int | None:
    """Return the descriptor of a child's store that it has, or None; the store keeps it."""
    return supervisor._actor.stored.get((child, name))  # noqa: SLF001 - what this file is for


def give_up(supervisor: Supervisor, why: str) -> None:
    """Have a supervisor, which must be this process's, stop its children and end, as one gives up.

    Its reason is ``GaveUp(why)``.
    """
    supervisor._give_up(why)  # noqa: SLF001 - what this file is for


def is_fork(server: GenServer) -> bool:
    """Tell whether this process is a fork of the actor's, which a callback of it has made.

    Such a fork ends when it returns from the callback: until then it must change nothing that it
    shares with the actor.
    """
    return Actor.current is not server._actor  # noqa: SLF001 - what this file is for
