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
from supervisor.lowlevel import restoration, runtime_dir
from tuncer.tunctl.linux import netlink, netns

_PUBLISHER, _WORKER = _BESIDE = (".pub", ".worker")
_offers = itertools.count(1)


def directory() -> Path:
    """Return the directory of control sockets, made if need be."""
    path = runtime_dir.directory() / "devices"
    try:
        runtime_dir.make(path)
    except FileNotFoundError:  # somebody has removed the directory above
        runtime_dir.make_again()
        runtime_dir.make(path)
    return path


def control_path(index: int) -> Path:
    """Return the path of an interface's control socket, in the present network namespace."""
    return control_path_at(netns.inode(), index)


def control_path_at(inode: int, index: int) -> Path:
    """Return the path of an interface's control socket, in a network namespace."""
    return directory() / f"{inode:x}-{index}"


def place_of(path: Path) -> tuple[int, int]:
    """Return where a device was made, from the path of its control socket.

    The inode of the network namespace, and the interface's number there.
    """
    inode, index = queue(path, 0).name.split("-")
    return int(inode, 16), int(index)


def control_path_of(tun: int) -> Path:
    """Return the path of a device's control socket, in whatever network namespace it is now.

    Args:
        tun: its descriptor.

    Raises:
        OSError: EBADFD the device was deleted; EPERM it is where this process may not go.
    """
    with netlink.located(tun) as name:
        return control_path(netlink.index_of(name))


def name_of(path: Path) -> str:
    """Return a device's present name if it is in this namespace, else its socket's file name."""
    inode, _, index = path.name.partition("-")
    if inode == f"{netns.inode():x}":
        with contextlib.suppress(OSError, ValueError):
            return socket.if_indextoname(int(index))
    return path.name


def queue(path: Path, number: int) -> Path:
    """Return the path of a queue's control socket: the first queue's is the device's."""
    return path.with_name(f"{path.name}.q{number}") if number else path


def link_worker(path: Path, worker: Process) -> None:
    """Record the worker's process, for whoever has to end one that does not answer."""
    new = path.with_name(f"{path.name}.new")
    with contextlib.suppress(FileNotFoundError):
        new.unlink()
    new.symlink_to(f"{worker.pid}.{worker.start}")
    new.rename(_worker_link(path))


def worker(path: Path) -> Process | None:
    """Return the device's worker, or the last one; None if that is not recorded."""
    try:
        pid, _, start = os.readlink(_worker_link(path)).partition(".")
    except OSError:
        return None
    return Process(int(pid), int(start))


def _worker_link(path: Path) -> Path:
    return path.with_name(path.name + _WORKER)


def publisher(path: Path) -> Path:
    """Return the path of the publisher's endpoint of a device."""
    return path.with_name(path.name + _PUBLISHER)


def offer() -> Path:
    """Return a path for handing over a descriptor, used once."""
    return directory() / f"{os.getpid()}-{next(_offers)}.offer"


def control_paths() -> list[Path]:
    """Return the control sockets of this user's devices, in any network namespace."""
    restoration.wait()
    paths = sorted(p for p in directory().iterdir() if not p.suffix)
    return [path for path in paths if is_open(path)]


def sweep() -> None:
    """Remove the sockets of devices whose worker and supervisors were all killed."""
    with runtime_dir.lock():  # a new control socket refuses connections until its listen(2)
        for found in directory().iterdir():
            control = found.with_suffix("") if found.suffix in _BESIDE else found
            if not is_open(control):
                found.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Remove the sockets of a device, and the link to its worker's pid."""
    for found in (path, publisher(path), _worker_link(path)):
        with contextlib.suppress(FileNotFoundError):
            found.unlink()


def is_open(path: Path, kind: int = socket.SOCK_SEQPACKET) -> bool:
    """Tell whether somebody listens at a Unix socket of a kind."""
    with socket.socket(socket.AF_UNIX, kind) as probe:
        probe.settimeout(0)
        try:
            probe.connect(str(path))
        except BlockingIOError:
            return True  # its queue is full
        except OSError:
            return False
        return True


runtime_dir.sweepers.append(sweep)
runtime_dir.parts.append("devices")
