"""How a program starts an actor: by exec of a new interpreter, not by a fork of its own.

A fork would take the program's threads' locks along, held for ever. A multiprocessing.Process
would make the program's exit wait for it. So a new interpreter is started with what
multiprocessing's spawn would give it, and detached: it is no child of the program, whose
``wait`` and exit know nothing of it. It knows of the program's end by a pidfd.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import marshal
import os
import pickle
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from multiprocessing import spawn
from typing import Any

from supervisor import inherited, linux
from supervisor.actor.loop import Actor
from supervisor.client.ref import Ref
from supervisor.errors import ActorError, AlreadyRegistered, CallTimeout, Reason, StartFailed
from supervisor.linux import Process
from supervisor.protocol import registry, restoration, runtime_dir
from supervisor.protocol.channel import Channel, close_all
from supervisor.protocol.message_kinds import EXIT, FAILED, HELLO, IGNORE, LEFT, READY
from supervisor.spawn import main_module

_EXIT_PATIENCE = 10.0  # seconds that a program's exit waits for its actors to end in order

# A program starts the interpreter by a double fork: the parent exits at once, and init, or a
# subreaper, adopts the child. So no zombie is left to a program that does not reap it. An actor
# starts the interpreter as its own child: if the actor crashes, its supervisor, a subreaper,
# becomes the parent, and kills it.
_DETACH = """\
import posix
if posix.fork(): posix._exit(0)
"""
# Before sys.path is set, only built-in modules are imported. With ``-c`` the current directory is
# the first entry of sys.path, and another user may have put a file of a module's name there.
_BOOT = """\
import marshal, posix, sys
while (fd := posix.open("/dev/null", posix.O_RDWR)) <= 2: posix.set_inheritable(fd, True)
posix.close(fd)
content = posix.pread({payload}, posix.fstat({payload}).st_size, 0)
posix.close({payload})
sys.path[:], payload = marshal.loads(content)
from supervisor.spawn.bootstrap import main
main({channel}, payload, {owner}, {log})
"""

_linked: list[tuple[Ref, Channel]] = []
"""The actors that this process has started and is an owner of, each with the channel to it. The
kernel closes the channel at an exec of this process, and the actor reads end of file."""

interrupts = threading.local()
"""``interrupts.fd``, if a thread has set it, is a descriptor that becomes readable when a start by
this thread is to be given up. The start then raises ``Interrupted``."""

_starts: list[list[Process]] = []
"""The starts that are under way, of all threads: each has a process, once that has said HELLO."""

when_stopped: list[Callable[[], None]] = []
"""What else the program's exit does, after the actors that belong to it have ended."""

_children: list[subprocess.Popen[bytes]] = []
"""What an actor has started, to be reaped."""


class Interrupted(Exception):
    """A start has been given up, as ``interrupts`` says."""


def launch(
    cls: type,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    name: str | None,
    *,
    linked: bool,
) -> Ref | None:
    """Start an actor in a new interpreter, and wait until it serves.

    Raises:
        StartFailed, AlreadyRegistered: it does not.
        TypeError: the arguments cannot be pickled.
        ValueError: the name is none, or the class cannot be imported by another process.
        OSError: there is no interpreter that can be run.
        RuntimeError: the main module is being imported by another such start.
    """
    if main_module.importing:
        raise RuntimeError(
            "an actor is started while another one imports this main module: put the start below"
            " 'if __name__ == \"__main__\":'"
        )
    if name is not None:
        registry.quoted(name)  # a bad one is refused here and now
    main_module.check_importable(cls)
    restoration.remember()
    started: list[Process] = []
    _starts.append(started)
    ours, theirs = Channel.pair()
    passed = [theirs]
    try:
        passed[0] = theirs = _above_stdio(theirs)
        passed.append(payload := _above_stdio(_payload(cls, args, kwargs, name)))
        owner = log = -1
        if linked:
            passed.append(owner := _above_stdio(linux.pidfd_of(os.getpid())))
        if inherited.log_fd is not None:
            passed.append(log := _above_stdio(os.dup(inherited.log_fd)))
        try:
            _boot(theirs, payload, owner, log)
        finally:
            close_all(passed)
            passed.clear()
        ref = _outcome(ours, cls, started)
        if ref is not None and linked:
            _forget_ended()
            _linked.append((ref, ours))
        else:
            ours.close()
    except BaseException:
        close_all(passed)
        ours.close()
        _cancel(started, patiently=getattr(cls, "supervises", False))
        raise
    finally:
        _starts.remove(started)
    return ref


def _forget_ended() -> None:
    """Forget what this process has started, and has ended since."""
    linux.reap_adopted()
    for entry in list(_linked):
        if entry[1].has_hung_up():
            entry[1].close()
            _linked.remove(entry)


def has_started() -> bool:
    """Tell whether actors run that this process has started."""
    _forget_ended()
    return bool(_linked)


def last_words(ref: Ref) -> Reason | None:
    """Return why an actor that this process has started has ended; None: it has not said so."""
    for known, channel in _linked:
        if known == ref:
            with contextlib.suppress(EOFError, OSError, TypeError):
                while True:
                    (word, *terms), _ = channel.receive(wait=True)  # type: ignore[misc]
                    if word == EXIT:
                        reason: Reason = terms[0]
                        return reason
    return None


def _forget_all() -> None:
    for _, channel in _linked:
        channel.close()
    _linked.clear()


os.register_at_fork(after_in_child=_forget_all)  # a fork has started nothing


def _payload(cls: type, args: tuple[Any, ...], kwargs: dict[str, Any], name: str | None) -> int:
    """Return a memfd with what the new interpreter needs to know."""
    started = pickled(cls.__qualname__, (cls, args, kwargs, name))
    content = pickle.dumps((main_module.description(), started))
    fd = os.memfd_create("supervisor-start", os.MFD_CLOEXEC)
    with os.fdopen(os.dup(fd), "wb") as file:
        marshal.dump((main_module.boot_path(), content), file)
    return fd


def pickled(who: str, arguments: Any) -> bytes:
    """Pickle arguments.

    Raises:
        TypeError: whatever an object's own pickling has raised.
    """
    try:
        return pickle.dumps(arguments)
    except Exception as error:
        raise TypeError(f"{who}: its arguments cannot be pickled: {error}") from error


def _above_stdio(fd: int) -> int:
    """Move a descriptor out of the way of standard input, output and error.

    In a program that has closed those, anything may get their numbers.
    """
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(fd)
    return moved


def _boot(channel: int, payload: int, owner: int, log: int) -> None:
    program = _BOOT.format(channel=channel, payload=payload, owner=owner, log=log)
    if Actor.current is None:
        program = _DETACH + program
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # noqa: SLF001 - as spawn
    python = os.fsdecode(spawn.get_executable() or "")
    passed = [fd for fd in (channel, payload, owner, log) if fd >= 0]
    try:
        # A session of its own: the terminal's Ctrl-C and hang-up are for the program.
        started = subprocess.Popen(
            [python, *flags, "-c", program],
            stdin=subprocess.DEVNULL,
            pass_fds=passed,
            start_new_session=True,
        )
    except (FileNotFoundError, PermissionError) as error:
        text = f"{python!r} is no Python that can be run: tell multiprocessing.set_executable() one"
        raise OSError(error.errno, text) from error
    if Actor.current is None:
        started.wait()
    else:
        _children.append(started)
        reap_children()


def starting() -> list[Process]:
    """Return the processes that start right now."""
    return [process for started in _starts for process in started]


def _outcome(channel: Channel, cls: type, started: list[Process]) -> Ref | None:
    """Wait until an actor says how its start went; ``started`` takes its process."""
    try:
        while True:
            _wait(channel)
            (word, *terms), _ = channel.receive(wait=True)  # type: ignore[misc]
            if word != HELLO:
                break
            started.append(Process(*terms[0]))
            if Actor.current is None:
                linux.adopts(started[0].pid)
    except EOFError:
        for process in started:
            _see_it_end(process)
        python = os.fsdecode(spawn.get_executable() or "")
        reason = f"its process, of {python}, ended before it served; what it printed may say why"
        raise StartFailed(cls.__qualname__, reason) from None
    if word == READY:
        ref: Ref = terms[0]
        return ref
    for process in started:
        _see_it_end(process)  # and so its name is free again
    if word == IGNORE:
        return None
    reason = terms[0] if word in {FAILED, EXIT} else f"it said {word!r}"
    if isinstance(reason, _RAISED_AS_THEY_ARE):
        raise reason
    raise StartFailed(cls.__qualname__, reason)  # EXIT: it was told to end before it served


def reap_children() -> None:
    """Reap what an actor has started, and has ended."""
    _children[:] = [child for child in _children if child.poll() is None]


def _wait(channel: Channel) -> None:
    """Wait for the next message of an actor that starts.

    Raises:
        Interrupted: the start is to be given up.
    """
    poller = select.poll()
    poller.register(channel.fileno(), select.POLLIN)
    interrupt = getattr(interrupts, "fd", -1)
    if interrupt >= 0:
        poller.register(interrupt, select.POLLIN)
    if any(fd == interrupt for fd, _ in poller.poll()):
        raise Interrupted


def _cancel(started: list[Process], *, patiently: bool) -> None:
    """End what a start has begun that was interrupted, by a signal's handler say.

    SIGTERM has a supervisor stop its children in order, which is waited for. An interpreter that
    has not said HELLO yet ends by itself, since nobody has the other end of its channel.
    """
    for process in started:
        try:
            pidfd = linux.open_process(process)
        except ProcessLookupError:
            continue
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)
            while not linux.ended(pidfd, _EXIT_PATIENCE) and patiently:
                pass
        finally:  # also if another signal's handler raises
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)
        _see_it_end(process)


def _see_it_end(process: Process) -> None:
    """Wait for the end of a process that has closed its channel, and remove what it has left."""
    with contextlib.suppress(ProcessLookupError):
        pidfd = linux.open_process(process)
        linux.ended(pidfd, _EXIT_PATIENCE)
        os.close(pidfd)
    linux.reap_adopted()
    _sweep()


_RAISED_AS_THEY_ARE = (AlreadyRegistered, StartFailed)


def stop_linked() -> None:
    """Stop, in order, what this program has started by ``start_link``. Its exit does this.

    The actors would end anyway, since each has a pidfd of this process: but only after its exit.
    """
    linked = list(_linked)
    deadline = time.monotonic() + _EXIT_PATIENCE
    waits = []
    try:
        for ref, channel in reversed(linked):
            with contextlib.suppress(ActorError):
                waits.append((ref, _left(ref, channel, deadline)))
        for ref, wait in waits:
            try:
                wait()
            except CallTimeout:
                if type(ref) is Ref:  # it hangs in a callback; a supervisor may have its reasons
                    kill(ref)
            except (ActorError, OSError):
                continue
    except KeyboardInterrupt:  # the second Ctrl-C: at once
        for ref, _ in linked:
            kill(ref)
    if linked:
        with contextlib.suppress(OSError):  # the directory is gone, and all in it
            _sweep()  # what was killed may have left something
    _forget_all()


def _exit() -> None:
    stop_linked()
    for callback in when_stopped.copy():  # a callback may remove itself
        callback()


def _left(ref: Ref, channel: Channel, deadline: float) -> Callable[[], object]:
    """Tell an actor that this program exits; return a function that waits for what then ends."""
    try:
        return ref._leave(deadline)  # noqa: SLF001 - for this module alone
    except OSError:  # no descriptor is free, say: this needs none
        channel.offer(LEFT)
        return lambda: channel.wait_for_end(max(0.0, deadline - time.monotonic()))


def _sweep() -> None:
    """Remove what killed processes have left in the runtime directory."""
    runtime_dir.sweep()
    registry.names()


def kill(ref: Ref) -> None:
    """Kill an actor, if it lives."""
    try:
        os.kill(ref.pid, 9)
    except (ActorError, ProcessLookupError):
        return


# atexit runs in reverse order of registration: this before ``connections.close_all``, which the
# imports above have registered.
atexit.register(_exit)
