"""A network namespace of one's own, as root or through a user namespace. Source: namespaces(7)."""

from __future__ import annotations

import ctypes
import errno
import os

_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


def enter_new() -> str:
    """Put this process, which has one thread, into a new network namespace, where it may do all.

    Returns:
        How it was done, in words.

    Raises:
        PermissionError: neither is allowed; the text says what to type.
    """
    uid, gid = os.geteuid(), os.getegid()
    if _unshare(_CLONE_NEWNET):
        return "a network namespace of its own"
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
    return "a user namespace and a network namespace of its own"


def _unshare(flags: int) -> bool:
    return bool(_libc.unshare(flags) == 0)


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
