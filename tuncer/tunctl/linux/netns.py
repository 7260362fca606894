"""Network namespaces: finding one, visiting one, making one. Source: namespaces(7), setns(2)."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

Namespace: TypeAlias = str | Path | int
"""A network namespace: its name (``ip netns``), a path, or the pid of a process in it."""

_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_NS_GET_NSTYPE = 0xB703  # ioctl_ns(2)
_NAMED = Path("/run/netns")  # ip-netns(8)
_OWN = "/proc/thread-self/ns/net"

_libc = ctypes.CDLL(None, use_errno=True)


def opened(namespace: Namespace) -> int:
    """Return a descriptor of a network namespace.

    Args:
        namespace: a name that ``ip netns list`` shows, a path (with a ``/``), or a pid.

    Raises:
        OSError: ENOENT there is none of this name or path, ESRCH no such process, EACCES,
            EINVAL it is no network namespace.
        TypeError: neither text, path nor number.
    """
    path = _path(namespace)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # it may be a FIFO
    except OSError as error:
        raise _explained(error.errno or 0, namespace, path) from error
    if not _is_network_namespace(fd):
        os.close(fd)
        raise OSError(errno.EINVAL, "this is no network namespace", str(path))
    return fd


def _path(namespace: Namespace) -> Path:
    if isinstance(namespace, bool) or not isinstance(namespace, (str, Path, int)):
        raise TypeError(f"a network namespace is a name, a path or a pid, not {namespace!r}")
    if isinstance(namespace, int):
        return Path(f"/proc/{namespace}/ns/net")
    if isinstance(namespace, Path) or "/" in namespace:
        if "\0" in str(namespace):
            raise OSError(errno.EINVAL, "no path has a NUL in it", str(namespace))
        return Path(namespace)
    if namespace in {"", ".", ".."} or "\0" in namespace:
        raise OSError(errno.EINVAL, "no network namespace can be called so", namespace)
    return _NAMED / namespace


def _is_network_namespace(fd: int) -> bool:
    try:
        return fcntl.ioctl(fd, _NS_GET_NSTYPE) == _CLONE_NEWNET
    except OSError:
        return False


def _explained(code: int, namespace: Namespace, path: Path) -> OSError:
    if isinstance(namespace, int) and code == errno.ENOENT:
        return OSError(errno.ESRCH, f"there is no process {namespace}", str(path))
    mending = {
        errno.ENOENT: "there is no such network namespace: 'ip netns list' shows those with a name",
        errno.EACCES: "this user may not look into the process's or the namespace's directory",
    }
    return OSError(code, mending.get(code, os.strerror(code)), str(path))


@contextlib.contextmanager
def visited(fd: int | None) -> Iterator[None]:
    """Be in another network namespace meanwhile: this thread, and nothing else of the process.

    Args:
        fd: of ``opened``; None: stay.

    Raises:
        PermissionError: CAP_SYS_ADMIN is needed, here and over the other namespace.
    """
    if fd is None:
        yield
        return
    before = present()
    try:
        _enter(fd)
        try:
            yield
        finally:
            _enter(before)
    finally:
        os.close(before)


def _enter(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET):
        code = ctypes.get_errno()
        raise OSError(
            code,
            f"{os.strerror(code)}: to enter a network namespace CAP_SYS_ADMIN is needed, here and"
            " in the user namespace that it belongs to: run as root, or from within that one"
            " ('nsenter --user --net --target PID')",
        )


def present() -> int:
    """Return a descriptor of the present network namespace."""
    return os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)


def inode(fd: int | None = None) -> int:
    """Return the number that tells a network namespace from others; of the present one: None."""
    return (os.stat(_OWN) if fd is None else os.fstat(fd)).st_ino


def enter_new() -> str:
    """Put this process, which has one thread, into a new network namespace, where it may do all.

    Returns:
        How it was done, in words.

    Raises:
        PermissionError: neither is allowed; the text says what to type.
    """
    if _unshare(_CLONE_NEWNET):
        return "a network namespace of its own"
    enter_new_user()
    return "a user namespace and a network namespace of its own"


def enter_new_user() -> None:
    """Put this process, which has one thread, into a new user namespace and network namespace.

    Raises:
        PermissionError: that is not allowed; the text says what to type.
    """
    uid, gid = os.geteuid(), os.getegid()
    if not _unshare(_CLONE_NEWUSER | _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise PermissionError(
            number or errno.EPERM,
            "neither this user nor a user namespace may make a network namespace: run as root, or"
            " allow user namespaces ('sudo sysctl user.max_user_namespaces=10000'; on Ubuntu also"
            " 'sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0')",
        )
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"0 {uid} 1")
    _write("/proc/self/gid_map", f"0 {gid} 1")


def _unshare(flags: int) -> bool:
    return bool(_libc.unshare(flags) == 0)


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
