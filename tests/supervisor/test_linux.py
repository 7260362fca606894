"""Processes as the kernel tells of them: identity, end, exit status, reaping."""

import os
import signal
import subprocess
import sys
from typing import Any

import pytest
from actors import Counter
from processes import PATIENCE, program, python

from supervisor import (
    Shutdown,
    Supervisor,
    linux,
)
from supervisor.errors import reason_of


@pytest.mark.parametrize(
    ("kind", "reason", "told"),
    [
        (Counter, "normal", "normal"),
        (Counter, "shutdown", "shutdown"),
        (Counter, Shutdown("x"), "shutdown"),
        (Counter, "strange", "exit status 1"),
        (Supervisor, "shutdown", "normal"),  # for whoever runs it as a service
    ],
)
def test_the_exit_status_tells_those_who_asked_too_late(kind: Any, reason: Any, told: str) -> None:
    ref = kind.start_link()
    process = linux.process(ref.pid)
    pidfd = linux.open_process(process)
    ref.stop(reason)
    assert linux.ended(pidfd, PATIENCE)
    status = linux.exit_status(pidfd, process.pid)
    os.close(pidfd)
    assert status is not None
    assert reason_of(os.waitstatus_to_exitcode(status)) == told


CHILDREN = """
import os, signal, sys
for _ in range(int(sys.argv[1])):
    pid = os.fork()
    if not pid:
        signal.pause()
    print(pid, flush=True)
    os.waitpid(pid, 0)
    sys.stdin.readline()
"""


def test_the_exit_status_is_told_while_the_parent_reaps() -> None:
    """Between zombie and reaped a process is dead for a moment, which one look in 1,500 met."""
    rounds = 3000
    with program(sys.executable, "-c", CHILDREN, str(rounds)) as parent:
        for _ in range(rounds):
            pid = int(parent.expect("\n"))
            pidfd = os.pidfd_open(pid)
            os.kill(pid, signal.SIGSEGV)
            assert linux.ended(pidfd, PATIENCE)
            assert linux.exit_status(pidfd, pid) == signal.SIGSEGV
            os.close(pidfd)
            print(file=parent.process.stdin, flush=True)


# The second child has ended too when the first one, which was seen first, is collected elsewhere.
COLLECTED_ELSEWHERE = """
import os
from supervisor import linux

def child_that_has_ended():
    pid = os.fork()
    if pid == 0:
        os._exit(3)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid

there = {child_that_has_ended(), child_that_has_ended()}
gone = set()

def is_ours(pid):
    if not gone:
        os.waitpid(pid, 0)  # as the thread does that runs an import
        gone.add(pid)
    return linux.process_group(pid) == os.getpgrp()

found = linux.reap((), is_ours)
assert found == [(pid, 3) for pid in there - gone], found
"""


def test_a_child_that_another_thread_collects_meanwhile_is_not_in_the_way() -> None:
    subprocess.run([sys.executable, "-c", COLLECTED_ELSEWHERE], check=True, timeout=PATIENCE)


def test_a_process_is_known_by_its_pid_and_its_start() -> None:
    with program("sleep", "100") as sleeper:
        process = linux.process(sleeper.process.pid)
        assert linux.alive(process)
        assert linux.parent(process.pid) == linux.process(os.getpid())
        assert not linux.alive(process._replace(start=process.start + 1))  # one before it
        sleeper.process.kill()
        sleeper.process.wait()
        assert not linux.alive(process)
        for ask in (linux.process, linux.parent, linux.process_group):
            with pytest.raises(ProcessLookupError, match=f"no process {process.pid}"):
                ask(process.pid)
    assert (linux.environment(process.pid), linux.command(process.pid)) == ({}, b"")


def test_a_zombie_is_not_alive_and_its_status_is_known() -> None:
    pid = os.fork()
    if not pid:
        os._exit(7)
    pidfd = os.pidfd_open(pid)
    process = linux.process(pid)
    assert linux.ended(pidfd, PATIENCE)
    assert not linux.alive(process)
    assert linux.exit_status(pidfd, pid) == 7 << 8
    assert linux.reap({pid}, lambda _: False) == [(pid, 7)]
    os.close(pidfd)


def test_only_what_is_known_or_taken_for_ours_is_collected() -> None:
    def child(status: int) -> int:
        pid = os.fork()
        if not pid:
            os._exit(status)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        return pid

    strange, known, adopted = child(1), child(2), child(3)
    assert linux.reap({known}, lambda pid: pid == adopted) == [(known, 2)]
    assert os.waitpid(strange, 0) == (strange, 1 << 8)
    assert linux.reap((), lambda pid: pid == adopted) == [(adopted, 3)]


def test_who_is_about_to_die_is_waited_for() -> None:
    with program("sleep", "100") as sleeper:
        process = linux.process(sleeper.process.pid)
        linux.wait_if_dying(process, PATIENCE)  # it is not: this returns at once
        assert linux.alive(process)
        sleeper.process.kill()
        linux.wait_if_dying(process, PATIENCE)
        assert not linux.alive(process)
        sleeper.process.wait()
        linux.wait_if_dying(process, PATIENCE)


CLOSES = """
import os
from supervisor import linux
kept = sorted(os.dup(0) for _ in range(6))[::2]
linux.close_descriptors_except([1, 2, *kept])
left = set(range(100)) - {fd for fd in range(100) if not os.path.exists(f"/proc/self/fd/{fd}")}
print(left == {1, 2, *kept})
"""


def test_all_descriptors_are_closed_but_some() -> None:
    assert python(CLOSES) == "True\n"
