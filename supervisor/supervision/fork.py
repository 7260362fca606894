"""A supervisor's children are forks of it: they find everything imported, and serve in 3 ms.

The supervisor has one thread. The child closes every descriptor but its own, and keeps the parent's
objects, unused, for ever.
"""

from __future__ import annotations

import atexit
import faulthandler
import os
import signal
import threading
import traceback
import warnings
from multiprocessing import current_process
from typing import NamedTuple, NoReturn

from supervisor import inherited, linux
from supervisor.actor import stacks
from supervisor.actor.loop import Actor, end_process
from supervisor.errors import RAISED, RemoteError, StartFailed, is_shortage
from supervisor.protocol.channel import Channel
from supervisor.protocol.message_kinds import FAILED
from supervisor.supervision import orphans
from supervisor.supervision.child_spec import Plan

_FAILED = 70  # EX_SOFTWARE of sysexits.h: an error before the actor ran


class Forked(NamedTuple):
    """A child that is starting."""

    pid: int
    channel: Channel


def fork(plan: Plan, stored: dict[tuple[str, ...], int], dump: int | None = None) -> Forked:
    """Start a child: it inherits these descriptors, and reports on the channel.

    ``linux.HANG_SIGNAL`` has it write its stacks to ``dump``, and die.

    Raises:
        StartFailed: an import has started a thread, or is one that has not ended.
        OSError: no more processes, or no runtime directory.
    """
    _prepare(plan)
    ours, theirs = Channel.pair()
    parent = os.getpid()
    try:
        with warnings.catch_warnings():
            # Python 3.12 warns of a fork beside threads. _prepare refuses Python's own; a library
            # that a child's module has imported (numpy, say) may have others.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
    except OSError:
        ours.close()
        os.close(theirs)
        raise
    if pid == 0:
        _child(plan, stored, theirs, dump, parent)
    # The child first: every page that this process touches now is copied, and the child waits if
    # there is one processor for both.
    os.sched_yield()
    os.close(theirs)
    return Forked(pid, ours)


def _prepare(plan: Plan) -> None:
    """Make sure that the child will find what it needs, and nothing that it must not have."""
    others = [t.name for t in threading.enumerate() if t is not threading.main_thread()]
    if others:
        raise StartFailed(
            plan.id,
            f"a supervisor forks, and must have one Python thread, but has {', '.join(others)}:"
            f" the import of {plan.start} or of another child's module started it, or still hangs;"
            " preload=False imports in the child alone",
        )


def _child(
    plan: Plan,
    stored: dict[tuple[str, ...], int],
    channel: int,
    dump: int | None,
    parent: int,
) -> NoReturn:
    """Become the child. The frames of the parent below this one are never returned to."""
    status = _FAILED
    try:
        # First: if the parent was killed since the fork, this child ends here.
        linux.die_with_parent(parent)
        # The parent's loop is told of signals by a descriptor that this child has inherited.
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        # Not the parent's epoll, pidfds, channels of other children, their stored descriptors.
        kept = [0, 1, 2, channel, *stored.values()]
        if inherited.log_fd is not None:
            kept.append(inherited.log_fd)
        if stacks.fd >= 0:
            kept.append(stacks.fd)
        if dump is not None:
            kept.append(dump)
            faulthandler.enable(dump)
            faulthandler.register(linux.HANG_SIGNAL, dump, chain=True)  # and die of it
        linux.close_descriptors_except(kept)
        inherited.restore_descriptors()
        linux.name_process(plan.id)
        current_process().name = plan.name or plan.id
        orphans.mark(linux.process(os.getpid()))
        atexit._clear()  # noqa: SLF001 - the parent's are not ours to run
        status = _run(plan, stored, Channel(channel))
        atexit._run_exitfuncs()  # noqa: SLF001 - a fork ends by os._exit
    except BaseException:  # noqa: BLE001 - nothing may return into the parent's frames
        traceback.print_exc()
    finally:
        end_process(status)


def _run(plan: Plan, stored: dict[tuple[str, ...], int], channel: Channel) -> int:
    try:
        cls, args, kwargs = plan.load()
        actor = Actor(cls, plan.name, channel, stored)
    except RAISED as error:  # an import, an argument's unpickling, a mailbox that cannot be made
        channel.send(FAILED, RemoteError.of(error), is_shortage(error))
        return _FAILED
    return actor.run(args, kwargs)
