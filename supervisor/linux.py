"""Linux's own calls: process identity and death, signals of a parent's death, reaping.

FreeBSD's counterparts (procctl, kqueue) would stand in a file beside this one.
Sources: prctl(2), pidfd_open(2), waitid(2), proc(5), and ``linux/pidfd.h`` for PIDFD_GET_INFO.
"""

import ctypes
import errno
import fcntl
import os
import select
import signal
import struct
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PF_EXITING = 0x4  # of linux/sched.h
_PR_SET_CHILD_SUBREAPER, _PR_GET_CHILD_SUBREAPER = 36, 37
_PIDFD_GET_INFO = 0xC040FF0B  # _IOWR(0xFF, 11, struct pidfd_info), first published with 64 bytes
_PIDFD_INFO_EXIT = 1 << 3  # since Linux 6.15
_PIDFD_INFO = struct.Struct("QQ11Ii")  # mask, cgroupid, 11 ids, exit_code

LONGEST_POLL = 2**31 - 1
"""Milliseconds that poll(2) can wait: whoever wants to wait longer waits again."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4


class Process(NamedTuple):
    """One incarnation of a process: its pid, and when it started, in clock ticks after boot.

    The kernel gives pids out again; both together mean one process for as long as the system runs.
    """

    pid: int
    start: int


def process(pid: int) -> Process:
    """Identify a process.

    Raises:
        ProcessLookupError: there is none of this pid.
    """
    return Process(pid, _stat(pid, 22))


def parent(pid: int) -> Process:
    """Identify the parent of a process.

    Raises:
        ProcessLookupError: there is no process of this pid.
    """
    return process(_stat(pid, 4))


def image(pid: int) -> list[bytes]:
    """Return what an exec changes of a process: where its stack and its arguments lie.

    Where this may not be seen, all are 0.
    """
    try:
        fields = _fields(pid)
    except ProcessLookupError:
        return []
    return [fields[28 - 3], *fields[48 - 3 : 52 - 3]]  # startstack, arg_start to env_end


def controlling_terminal() -> str | None:
    """Return the path of this process's controlling terminal, if that is a pty(7)."""
    device = _stat(os.getpid(), 7)
    # How the kernel writes a device's number there; see proc_pid_stat(5).
    major, minor = device >> 8 & 0xFF, device & 0xFF | device >> 12 & 0xFFF00
    path = f"/dev/pts/{(major - _FIRST_PTS) * 256 + minor}"
    try:
        found = os.stat(path).st_rdev
    except OSError:  # it has none, or one of another mount namespace
        return None
    return path if (os.major(found), os.minor(found)) == (major, minor) else None


def _stat(pid: int, field: int) -> int:
    """Return a field of proc_pid_stat(5), by its number there, from 3 on."""
    return int(_fields(pid)[field - 3])


def _fields(pid: int) -> list[bytes]:
    try:
        stat = read_file(f"/proc/{pid}/stat")
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessLookupError(f"no process {pid}") from None
    return stat[stat.rindex(b")") + 2 :].split()


def read_file(path: str) -> bytes:
    """Return the content of a small file, with the fewest system calls: it is read at each start.

    Raises:
        OSError: there is none.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 4096)
    finally:
        os.close(fd)


# IN_MOVED_FROM, IN_DELETE, IN_DELETE_SELF, IN_MOVE_SELF of sys/inotify.h.
_REMOVALS = 0x40 | 0x200 | 0x400 | 0x800
_CREATIONS = 0x100  # IN_CREATE, which link(2) causes, too
SUPERVISOR_MARK = "supervisor"
"""The name of the memfd that each supervisor has open, by which it is known from outside."""
MAILBOX_GAUGE = "mailbox gauge"
"""The name of the memfd in which each actor says how much waits in its mailbox."""

_FIRST_PTS = 136  # UNIX98_PTY_SLAVE_MAJOR of linux/major.h
_FIRST_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO of linux/proc_ns.h


def pid_namespace() -> str:
    """Return what tells this process's pid namespace from others: "" for the system's first one."""
    try:
        inode = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return ""
    return "" if inode == _FIRST_PID_NAMESPACE else str(inode)


def overflow_user() -> int:
    """Return the uid that the kernel shows for users outside of this user namespace, or -1."""
    whole = b"4294967295"
    if read_file("/proc/self/uid_map").split()[-1:] == [whole]:
        return -1
    return int(read_file("/proc/sys/kernel/overflowuid"))


def pidfd_of(pid: int) -> int:
    """Return a pidfd of a process of this pid. Source: pidfd_open(2).

    Raises:
        ProcessLookupError: there is none.
        OSError: ENOSYS, EPERM: the kernel, or a sandbox, has no pidfds.
    """
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        if error.errno in {errno.ENOSYS, errno.EPERM}:
            why = "actors need pidfd_open(2) of Linux 5.3, which a sandbox must not lack or forbid"
            raise OSError(error.errno, f"{error.strerror}: {why}") from None
        raise


def open_process(wanted: Process) -> int:
    """Return a pidfd, which becomes readable when this very process has ended.

    Raises:
        ProcessLookupError: it has ended already.
    """
    pidfd = pidfd_of(wanted.pid)
    try:
        if process(wanted.pid) == wanted and not ended(pidfd):
            return pidfd
    except ProcessLookupError:
        pass
    os.close(pidfd)
    raise ProcessLookupError(f"process {wanted.pid} has ended")


def alive(wanted: Process) -> bool:
    """Tell whether this very process still runs. A zombie does not."""
    try:
        os.close(open_process(wanted))
    except ProcessLookupError:
        return False
    return True


def wait_if_dying(wanted: Process, seconds: float) -> None:
    """Wait for the end of a process that the kernel is about to kill, or that is exiting already.

    When a process has ended, the children that asked for it have their SIGKILL pending at least.
    """
    try:
        pidfd = open_process(wanted)
    except ProcessLookupError:
        return
    try:
        if _is_dying(wanted.pid):
            ended(pidfd, seconds)
    finally:
        os.close(pidfd)


def _is_dying(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            flags = int(file.read().rsplit(b")", 1)[1].split()[6])  # field 9 of proc_pid_stat(5)
        with open(f"/proc/{pid}/status", "rb") as file:
            fields = dict(line.split(b":", 1) for line in file.read().splitlines())
    except (FileNotFoundError, ProcessLookupError):
        return True
    pending = int(fields[b"SigPnd"], 16) | int(fields[b"ShdPnd"], 16)
    return bool(flags & _PF_EXITING or pending >> (signal.SIGKILL - 1) & 1)


def ended(pidfd: int, seconds: float = 0.0) -> bool:
    """Tell whether the process of a pidfd has ended, after waiting for it so long at most."""
    poller = select.poll()  # select(2) knows no descriptor over 1023
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(seconds * 1000))


def exit_status(pidfd: int, pid: int) -> int | None:
    """Return an ended process's status as of waitpid(2), whoever its parent is.

    A zombie's is in its /proc/PID/stat; a reaped one's is told by the pidfd since Linux 6.15. While
    its parent reaps it, it is dead, but not yet told by the pidfd.
    """
    reaped = _reaped_status(pidfd)
    if reaped is not None:
        return reaped
    try:
        fields = _fields(pid)
    except ProcessLookupError:
        return _reaped_status(pidfd)  # it was reaped between the two looks
    if fields[0] in {b"Z", b"X"}:  # zombie, dead
        return int(fields[49])  # field 52, exit_code
    return _reaped_status(pidfd)  # the pid is another's already


def _reaped_status(pidfd: int) -> int | None:
    query = bytearray(_PIDFD_INFO.size)
    struct.pack_into("Q", query, 0, _PIDFD_INFO_EXIT)
    try:
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, query)
    except OSError:
        return None
    mask, *_, status = _PIDFD_INFO.unpack_from(query)
    return int(status) if mask & _PIDFD_INFO_EXIT else None


HANG_SIGNAL = signal.SIGXCPU
"""SIGXCPU, sent to a child that hangs. An exit by this signal is taken for the reason "hung":
nothing else sends it, but the kernel to a process over its limit of processor time (setrlimit(2)),
which hangs as well."""


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process (SIGKILL) when the thread that forked it ends.

    Exits at once if the parent has gone before the signal was armed. A change of user or group
    disarms it: call this again after one.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parents end (PR_SET_CHILD_SUBREAPER)."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def name_process(name: str) -> None:
    """Let ps(1) and top(1) show a name of this process: its first 15 bytes."""
    buffer = ctypes.create_string_buffer(name.encode()[:15])
    _prctl(_PR_SET_NAME, ctypes.addressof(buffer))


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")


def inotify() -> int:
    """Return a descriptor by inotify_init1(2), or -1 if there are as many instances as may be."""
    made: int = _libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
    return made


def watch_removals(fd: int, path: str) -> bool:
    """Have a descriptor of ``inotify`` tell of removals in a directory, and when that is moved.

    Of the removal of a directory that somebody has open, as a lock of it, nothing is told.

    Returns:
        False if it will tell nothing: there is no such directory, or there are as many watches as
        may be.
    """
    return bool(_libc.inotify_add_watch(fd, os.fsencode(path), _REMOVALS) >= 0)


def watch_creations(fd: int, path: str) -> bool:
    """Have a descriptor of ``inotify`` tell of files that are made in a directory.

    Returns:
        False if it will tell nothing, as ``watch_removals``.
    """
    return bool(_libc.inotify_add_watch(fd, os.fsencode(path), _CREATIONS) >= 0)


def children() -> list[int]:
    """Return the pids of this process's children, adopted ones and zombies among them."""
    pid = os.getpid()
    with open(f"/proc/{pid}/task/{pid}/children", "rb") as file:
        return [int(child) for child in file.read().split()]


def reap(known: Collection[int], is_ours: Callable[[int], bool]) -> list[tuple[int, int]]:
    """Collect children that have ended: pid and status, negative for a fatal signal.

    Args:
        known: pids of children.
        is_ours: tells of another child that has ended, by its pid, whether it is to be collected;
            raises ProcessLookupError when that child was collected meanwhile.
    """
    found: list[tuple[int, int]] = []
    while (pid := _first_that_ended()) is not None:
        try:
            ours = pid in known or is_ours(pid)
        except ProcessLookupError:
            continue  # another thread, which runs an import, has collected it since
        if ours:
            found += _collected(pid)
            continue
        for pid in known:  # waitid reports only that other one, so ask for each known child
            found += _collected(pid)
        break
    return found


_adopted: set[int] = set()
"""Pids of detached processes that come back to this process, pid 1 or a subreaper, as children."""


def adopts(pid: int) -> None:
    """Take note of a detached process, if this is a process to which such ones come back.

    That is the first of a pid namespace (a program in a container), and a subreaper.
    """
    found = ctypes.c_int(0)
    _libc.prctl(_PR_GET_CHILD_SUBREAPER, ctypes.addressof(found), 0, 0, 0)
    if os.getpid() == 1 or found.value:
        _adopted.add(pid)


def reap_adopted() -> None:
    """Collect those that have ended: nobody else in this process knows of them."""
    for pid in list(_adopted):
        try:
            ended_one, _ = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            ended_one = pid  # somebody has done so
        if ended_one:
            _adopted.discard(pid)


def _first_that_ended() -> int | None:
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return None if found is None else found.si_pid


def _collected(pid: int) -> list[tuple[int, int]]:
    try:
        found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        return []
    if found is None:
        return []
    status = found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
    return [(pid, status)]


def process_group(pid: int) -> int:
    """Return the process group of a process, also of a zombie.

    Raises:
        ProcessLookupError: there is no process of this pid.
    """
    return _stat(pid, 5)


def environment(pid: int) -> dict[bytes, bytes]:
    """Return the environment with which a process began; nothing if that cannot be had."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            entries = file.read().split(b"\0")
    except OSError:
        return {}
    return {name: value for name, _, value in (entry.partition(b"=") for entry in entries)}


def command(pid: int) -> bytes:
    """Return the command line of a process; nothing if that cannot be had."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except OSError:
        return b""


def close_descriptors_except(keep: Iterable[int]) -> None:
    """Close every descriptor of this process but these."""
    low = 0
    for fd in sorted(set(keep)):
        if low < fd:  # an empty range would be taken for "all"
            os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, 1 << 20)
