"""The start of an interpreter that was started for one actor. See ``launch``."""

from __future__ import annotations

import os
import pickle
from multiprocessing import current_process

from supervisor import inherited, linux
from supervisor.actor import stacks
from supervisor.actor.loop import Actor, end_process
from supervisor.errors import RAISED, RemoteError
from supervisor.protocol import restoration, runtime_dir
from supervisor.protocol.channel import Channel
from supervisor.protocol.message_kinds import FAILED, HELLO
from supervisor.spawn import directory_watch, main_module, stderr_handler


def main(channel_fd: int, payload: bytes, owner: int, log_fd: int) -> None:
    """Become the actor; never returns."""
    inherited.settle()
    for fd in (channel_fd, owner, log_fd):
        if fd >= 0:
            os.set_inheritable(fd, False)
    inherited.log_fd = log_fd if log_fd >= 0 else None
    channel = Channel(channel_fd)
    stderr_handler.never_wait()
    stacks.register()
    if not channel.offer(HELLO, list(linux.process(os.getpid()))):
        end_process(1)  # whoever wanted this has ended meanwhile
    end_process(_run(channel, payload, owner))


def _run(channel: Channel, payload: bytes, owner: int) -> int:
    try:
        cls, args, kwargs, name = _load(payload)
        runtime_dir.make_again()
        held = runtime_dir.hold()  # before this actor's own files are made
        restoration.this_is_a_root()
        runtime_dir.sweep()
        actor = Actor(cls, name, channel, {}, supervised=False)
    except RAISED as error:  # whatever it is, it is why the start failed
        channel.send(FAILED, RemoteError.of(error))
        return 1
    linux.name_process(name or cls.__name__)
    current_process().name = name or cls.__name__
    directory_watch.DirectoryWatch(actor, held)
    if owner >= 0:
        actor.belong_to(_process_of(owner), owner)
    return actor.run(args, kwargs)


def _load(payload: bytes) -> tuple[type, tuple[object, ...], dict[str, object], str | None]:
    description, started = pickle.loads(payload)  # noqa: S301 - from the program, by a private memfd
    main_module.prepare(description)
    if any(name.encode() in started for name in main_module.NAMES):
        main_module.ensure()
    return pickle.loads(started)  # type: ignore[no-any-return]  # noqa: S301 - as above


def _process_of(pidfd: int) -> linux.Process:
    """Return who a pidfd is of: from its fdinfo, as it may have ended already."""
    with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as file:
        fields = dict(line.split(":", 1) for line in file.read().splitlines() if ":" in line)
    pid = int(fields["Pid"])
    try:
        return linux.process(pid)
    except ProcessLookupError:
        return linux.Process(pid, 0)
