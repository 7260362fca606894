"""What takes minutes: many callers, many actors, many deaths. Run by ``make soak``."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
import time
from collections import Counter as Count
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from actors import Counter, Recorder
from processes import PATHS, PATIENCE, eventually, python
from test_connection import BESIDE_OTHERS, INTERRUPTED, stop_with_a_reply
from test_connections import MANY

from supervisor import ActorError, ChildSpec, NoProcess, ProcessDown, Supervisor, SupervisorRef

pytestmark = pytest.mark.timeout(900)


def test_a_thousand_actors_and_a_limit_of_1024_descriptors() -> None:
    assert python(MANY, "1000", "1024", timeout=600) == "1000\n"


def test_five_hundred_callers_keep_their_order_beside_one_that_floods() -> None:
    ref = Recorder.start_link(name="fan")
    pids = []
    for caller in range(500):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                for number in range(20_000 if caller == 0 else 40):
                    ref.cast([caller, number], timeout=None)
                assert ref.call(["echo", caller], timeout=None) == ["echo", caller]
                status = 0
            finally:
                os._exit(status)
        pids.append(pid)
    assert all(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0 for pid in pids)
    places = Count[int]()
    for caller, number in ref.call("seen", timeout=None):
        assert number == places[caller]
        places[caller] += 1
    assert places == Count(dict.fromkeys(range(1, 500), 40)) + Count({0: 20_000})


def test_kills_while_threads_and_loops_call(capfd: Any) -> None:
    """Every call returns its own reply or tells of a death; nothing waits or is left open."""
    spec = ChildSpec("c", Counter, name="victim")
    sup: SupervisorRef = Supervisor.start_link([spec], intensity=10_000)
    ref, over = sup.child("c"), threading.Event()
    ref.call("get")
    before = len(os.listdir("/proc/self/fd"))

    def call(thread: int) -> Count[str]:
        found = Count[str]()
        for number in iter(lambda: None if over.is_set() else found.total(), None):
            try:
                assert ref.call(["echo", [thread, number]], PATIENCE) == [thread, number]
                ref.cast(1)
                found["well"] += 1
            except (NoProcess, ProcessDown) as error:
                found[type(error).__name__] += 1
        return found

    def loop(thread: int) -> Count[str]:
        async def one(number: int) -> str:
            try:
                assert await ref.acall(["echo", [thread, number]], PATIENCE) == [thread, number]
            except (NoProcess, ProcessDown) as error:
                return type(error).__name__
            return "well"

        async def main() -> Count[str]:
            found = Count[str]()
            while not over.is_set():
                found.update(await asyncio.gather(*(one(number) for number in range(20))))
            return found

        return asyncio.run(main())

    with ThreadPoolExecutor() as pool:
        futures = [pool.submit(call, n) for n in range(3)] + [pool.submit(loop, n) for n in (3, 4)]
        for _ in range(300):
            time.sleep(random.uniform(0.005, 0.05))
            try:
                os.kill(sup.child("c").pid, signal.SIGKILL)
            except (ActorError, ProcessLookupError):
                continue
        over.set()
        found = [future.result(PATIENCE) for future in futures]
    assert all(count["well"] > 100 for count in found), found
    assert sum(count["ProcessDown"] for count in found) > 100
    eventually(ref.is_alive)  # the last kill may not have been noticed yet
    assert len(os.listdir("/proc/self/fd")) <= before + 1
    capfd.readouterr()


def test_a_thousand_stops_with_a_reply(capfd: Any) -> None:
    stop_with_a_reply(1000)
    capfd.readouterr()


@pytest.mark.parametrize("how", ["raise", "call"])
@pytest.mark.parametrize("turn", range(20))
def test_signals_at_any_moment(how: str, turn: int, runtime_dir: Path) -> None:
    path = runtime_dir / "interrupted.py"
    path.write_text(f"{PATHS}{INTERRUPTED}")
    code = (
        f"import runpy; sys.argv[1:] = [{how!r}]; runpy.run_path({str(path)!r}, {{}}, '__main__')"
    )
    assert python(code) == "well\n"


def test_signals_of_one_thread_beside_others(runtime_dir: Path) -> None:
    path = runtime_dir / "beside.py"
    path.write_text(f"{PATHS}{BESIDE_OTHERS}")
    code = f"import runpy; sys.argv[1:] = ['30']; runpy.run_path({str(path)!r}, {{}}, '__main__')"
    assert python(code, timeout=100) == "well\n"
