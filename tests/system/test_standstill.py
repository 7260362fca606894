"""Time in which the watcher itself stood still is nobody's fault: SIGSTOP, a frozen cgroup."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from processes import PATIENCE, eventually, program, stop

from supervisor import ChildSpec, GenServer, Sender, Supervisor

WORK = 0.6
"""Seconds that a child works, within its limit."""
LIMIT = 1.5
STANDSTILL = 3.0


class Works(GenServer):
    """Takes some time for all that it does."""

    def init(self, how_long: float = 0.0, where: str = "") -> None:
        self.where = where
        time.sleep(how_long)

    def handle_call(self, request: Any, sender: Sender) -> int:
        return os.getpid()

    def handle_cast(self, how_long: float) -> None:
        time.sleep(how_long)

    def terminate(self, reason: Any) -> None:
        if self.where:
            time.sleep(WORK)
            Path(self.where).touch()


@contextlib.contextmanager
def stopped(*pids: int) -> Iterator[None]:
    for pid in pids:
        stop(pid)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def test_a_child_that_stood_still_with_its_supervisor_does_not_hang() -> None:
    sup = Supervisor.start_link([ChildSpec("w", Works, watchdog=LIMIT)])
    ref = sup.child("w")
    pid = ref.call("pid")
    ref.cast(2 * WORK)
    time.sleep(WORK)  # at work, and asked for a sign of life since
    with stopped(sup.pid, pid):
        time.sleep(STANDSTILL)
    assert ref.call("pid") == pid == sup.child("w").pid


def test_a_child_that_answered_a_supervisor_that_stood_still_does_not_hang() -> None:
    sup = Supervisor.start_link([ChildSpec("w", Works, watchdog=LIMIT)])
    ref = sup.child("w")
    pid = ref.call("pid")
    with stopped(sup.pid):
        time.sleep(STANDSTILL)
    assert sup.child("w").pid == pid


def test_a_start_that_stood_still_is_not_too_slow() -> None:
    sup = Supervisor.start_link([])
    started: list[Any] = []
    spec = ChildSpec("w", Works, (WORK,), init_timeout=LIMIT)
    thread = threading.Thread(target=lambda: started.append(sup.start_child(spec)))
    thread.start()
    children = Path(f"/proc/{sup.pid}/task/{sup.pid}/children")
    pids = eventually(lambda: children.read_text().split())
    with stopped(sup.pid, int(pids[0])):
        time.sleep(STANDSTILL)
    thread.join()
    assert started[0].pid == int(pids[0])


def test_an_end_that_stood_still_is_in_order(tmp_path: Path) -> None:
    where = tmp_path / "terminated"
    sup = Supervisor.start_link([ChildSpec("w", Works, (0.0, str(where)), shutdown=LIMIT)])
    pid = sup.child("w").pid
    thread = threading.Thread(target=lambda: sup.terminate_child("w"))
    thread.start()
    time.sleep(WORK / 2)
    with stopped(sup.pid, pid):
        time.sleep(STANDSTILL)
    thread.join()
    assert where.exists()


CALLER = """
import asyncio, sys
from supervisor import whereis
async def main():
    print("calling", flush=True)
    print("replied", await whereis("slow").acall("pid", timeout=1.5))
asyncio.run(main())
"""


def test_a_reply_that_came_meanwhile_is_no_timeout() -> None:
    ref = Works.start_link(name="slow")
    with program(sys.executable, "-c", CALLER) as caller:
        with stopped(ref.pid):
            caller.expect("calling")
            waits = Path(f"/proc/{caller.process.pid}/wchan")
            eventually(lambda: "poll" in waits.read_text())
            stop(caller.process.pid)
        time.sleep(STANDSTILL)
        os.kill(caller.process.pid, signal.SIGCONT)
        assert caller.process.wait(PATIENCE) == 0
