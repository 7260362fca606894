"""Where a device is found: two sockets in the runtime directory, whose paths outlive the worker.

``devices/NAMESPACE-INDEX`` is the control socket, see ``tuncer.protocol.control_socket``. It
listens as long as the device has a worker, or a supervisor that keeps its descriptor.
``devices/NAMESPACE-INDEX.pub`` is the publisher's endpoint. ``.worker`` is a symbolic link, whose
target is the worker's pid and start time.
Further queues have ``.q1``, ``.q2``, ... in their names. NAMESPACE is the inode of the network
namespace where the device was created, in hexadecimal, and INDEX the interface's number there:
names change, and are used again.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
from pathlib import Path

from supervisor.linux import Process
from supervisor.protocol import runtime_dir
from tuncer.tunctl.linux import netlink, netns

_PUBLISHER, _WORKER = _BESIDE = (".pub", ".worker")
_offers = itertools.count(1)


def directory() -> Path:
    """Return the directory of doors, made if need be."""
    path = runtime_dir.directory() / "devices"
    runtime_dir.make(path)
    return path


def door(index: int) -> Path:
    """Return the path of the door of an interface in the present network namespace."""
    return door_at(netns.inode(), index)


def door_at(inode: int, index: int) -> Path:
    """Return the path of the door of an interface in a network namespace."""
    return directory() / f"{inode:x}-{index}"


def door_of(tun: int) -> Path:
    """Return the path of the door of a device, in whatever network namespace it is now.

    Args:
        tun: its descriptor.

    Raises:
        OSError: EBADFD the device was deleted; EPERM it is where this process may not go.
    """
    with netlink.located(tun) as name:
        return door(netlink.index_of(name))


def name_of(door_path: Path) -> str:
    """Return the present name of a door's device if it is here, and otherwise the door's."""
    inode, _, index = door_path.name.partition("-")
    if inode == f"{netns.inode():x}":
        with contextlib.suppress(OSError, ValueError):
            return socket.if_indextoname(int(index))
    return door_path.name


def queue(door_path: Path, number: int) -> Path:
    """Return the path of the door of one of a device's queues: the first one's is the device's."""
    return door_path.with_name(f"{door_path.name}.q{number}") if number else door_path


def note_worker(door_path: Path, worker: Process) -> None:
    """Write down which process serves a door: for whoever has to end one that does not answer."""
    new = door_path.with_name(f"{door_path.name}.new")
    with contextlib.suppress(FileNotFoundError):
        new.unlink()
    new.symlink_to(f"{worker.pid}.{worker.start}")
    new.rename(_note(door_path))


def worker(door_path: Path) -> Process | None:
    """Return the process that serves a door, or has last served it; None if nobody knows."""
    try:
        pid, _, start = os.readlink(_note(door_path)).partition(".")
    except OSError:
        return None
    return Process(int(pid), int(start))


def _note(door_path: Path) -> Path:
    return door_path.with_name(door_path.name + _WORKER)


def publisher(door_path: Path) -> Path:
    """Return the path of the publisher's endpoint of a door's device."""
    return door_path.with_name(door_path.name + _PUBLISHER)


def offer() -> Path:
    """Return a path for handing over a descriptor, used once."""
    return directory() / f"{os.getpid()}-{next(_offers)}.offer"


def doors() -> list[Path]:
    """Return the doors of this user's devices, in any network namespace, that are open."""
    paths = sorted(p for p in directory().iterdir() if not p.suffix)
    return [path for path in paths if is_open(path)]


def sweep() -> None:
    """Remove the sockets of devices whose worker and supervisors were all killed."""
    with runtime_dir.lock():  # a new door is not open yet between its bind and its listen
        for path in directory().iterdir():
            door_path = path.with_suffix("") if path.suffix in _BESIDE else path
            if not is_open(door_path):
                path.unlink(missing_ok=True)


def remove(door_path: Path) -> None:
    """Remove the sockets of a device, and what is written down beside them."""
    for path in (door_path, publisher(door_path), _note(door_path)):
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def is_open(path: Path) -> bool:
    """Tell whether somebody listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except BlockingIOError:
            return True  # its queue is full
        except OSError:
            return False
        return True


runtime_dir.sweepers.append(sweep)
