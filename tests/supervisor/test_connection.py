"""A caller's connection, as actors end, processes fork, and signals come."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from actors import Counter, Later
from processes import (
    PATHS,
    PATIENCE,
    SUPPORT,
    eventually,
    gone,
    kill,
    program,
    python,
    wait_for_end,
)

from supervisor import (
    CallTimeout,
    ChildSpec,
    GenServer,
    NoProcess,
    ProcessDown,
    Sender,
    Supervisor,
    SupervisorRef,
)
from supervisor.client import connections


def test_threads_of_an_actor_may_call_it_and_its_serving_thread_may_not() -> None:
    ref = Threads.start_link()
    assert ref.call("go") == "waits"
    eventually(lambda: ref.call("seen") is not None)
    assert ref.call("seen") == 5


class Threads(GenServer):
    """A thread of it calls it."""

    def init(self) -> None:
        self.seen: Any = None

    def handle_call(self, request: Any, sender: Sender) -> Any:
        if request == "go":
            threading.Thread(target=self.ask).start()
            return "waits"
        return 5 if request == "five" else self.seen

    def ask(self) -> None:
        self.seen = self.ref.call("five")


SIGNALLED = """
import signal, sys
sys.path.insert(0, {tests!r})
from actors import Counter
from supervisor import ActorError, CallTimeout, ChildSpec, Supervisor
if __name__ == "__main__":
    sup = Supervisor.start_link([ChildSpec("c", Counter)])
    monitor = sup.monitor()
    signal.signal(signal.SIGTERM, lambda *_: sup.stop())
    print("ready", flush=True)
    if sys.argv[1] == "waits":
        print("down", monitor.wait().reason, flush=True)
        sys.exit()
    while True:
        try:
            print("down", monitor.wait(0.0001).reason, flush=True)
            break
        except CallTimeout:
            try:
                sup.count_children()
            except ActorError:
                continue
"""


@pytest.mark.parametrize("how", ["waits", "works"])
def test_a_signals_handler_may_stop_what_its_thread_waits_for(how: str, runtime_dir: Path) -> None:
    path = runtime_dir / "program.py"
    path.write_text(SIGNALLED.format(tests=SUPPORT))
    for _ in range(5):
        with program(sys.executable, str(path), how) as waits:
            waits.expect("ready")
            if how == "waits":
                sleeps(waits.process.pid)
            waits.process.send_signal(signal.SIGTERM)
            waits.expect("down normal")
            assert waits.process.wait(PATIENCE) == 0


def sleeps(pid: int) -> None:
    """Wait until a process waits: its main thread does nothing else by then."""
    eventually(lambda: Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0], "S")


def test_what_was_asked_before_a_fork_is_not_waited_for_in_it() -> None:
    ref = Later.start_link()
    future, monitor = ref.call_async("wait"), ref.monitor()
    for wait in (future.result, monitor.wait):
        pid = os.fork()
        if pid == 0:
            try:
                wait(5)
            except RuntimeError:
                os._exit(7)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    ref.call(["reply", 1])
    assert future.result(PATIENCE) == 1


@pytest.mark.slow
def test_a_reply_of_an_actor_that_stops_is_never_lost() -> None:
    for _ in range(10):
        refs = [Counter.start_link() for _ in range(2)]
        assert [future.result() for future in [ref.call_async("stop") for ref in refs]] == [
            "stopping",
            "stopping",
        ]


def stop_with_a_reply(rounds: int) -> None:
    """Stop an actor so often with a reply, which is read each time."""
    counter = ChildSpec("c", Counter, name="c")
    sup: SupervisorRef = Supervisor.start_link([counter], intensity=rounds, period=1000)
    for _ in range(rounds):
        ref = sup.child("c")
        pid = ref.pid
        assert ref.call("stop") == "stopping"
        assert wait_for_end(pid)


def test_stops_with_a_reply(capfd: Any) -> None:
    stop_with_a_reply(100)
    capfd.readouterr()


def test_a_fork_of_an_actor_is_a_caller_like_others() -> None:
    ref = Counter.start_link(3)
    assert ref.call("fork", timeout=PATIENCE) == [3, 5]


def test_an_end_leaves_nobody_waiting_in_threads_and_loops() -> None:
    ref = Later.start_link()
    pid = ref.pid
    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(ref.call, "wait", None) for _ in range(5)]
        eventually(lambda: ref.statistics()["calls"] >= 5)
        os.kill(pid, signal.SIGKILL)
        assert {type(future.exception(PATIENCE)) for future in waiting} == {ProcessDown}
    assert wait_for_end(pid)
    assert gone(pid)


@pytest.mark.parametrize(("how", "reason"), [("exit", "exit status 3"), ("kill", "killed")])
def test_an_end_during_the_call_is_told_at_once(how: str, reason: str) -> None:
    ref = Counter.start_link()
    with pytest.raises(ProcessDown) as caught:
        ref.call(how, timeout=None)
    assert caught.value.reason == reason


def test_a_late_reply_is_dropped() -> None:
    ref = Later.start_link()
    with pytest.raises(CallTimeout):
        ref.call("wait", timeout=0.01)
    assert ref.call(["reply", "late"]) == 1
    assert ref.call("log") == [["continue", "from init"]]


@pytest.mark.slow
def test_a_reply_that_was_sent_is_not_lost_to_the_senders_end() -> None:
    for _ in range(8):
        ref = Counter.start_link()
        assert ref.call("stop") == "stopping"
        assert wait_for_end(ref._process.pid)


def test_casts_of_a_program_that_ends_arrive(runtime_dir: Path) -> None:
    ref = Counter.start_link(name="sink")
    program = "from supervisor import Ref\nr = Ref(name='sink')\nfor _ in range(500): r.cast(1)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=PATIENCE)
    eventually(lambda: ref.call("get"), 500)  # it is served in turns with them


def test_threads_that_wait_all_learn_of_the_end() -> None:
    ref = Later.start_link()
    pid = ref.pid
    entered = threading.Barrier(5)

    def work() -> str:
        entered.wait()
        try:
            ref.call("wait", timeout=None)
        except (ProcessDown, NoProcess) as error:
            return type(error).__name__
        return "replied"

    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(work) for _ in range(4)]
        entered.wait()
        os.kill(pid, signal.SIGKILL)
        assert {a.result(PATIENCE) for a in answers} <= {"ProcessDown", "NoProcess"}


def test_a_fork_of_the_caller_has_connections_of_its_own() -> None:
    ref = Counter.start_link(4)
    assert ref.call("get") == 4
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            ref.cast(1)
            status = 0 if ref.call("get") == 5 else 2
            connections.close_all()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert ref.call("get") == 5


def test_a_deadline_holds_while_another_thread_waits_for_the_same_actor() -> None:
    ref = Later.start_link()
    with ThreadPoolExecutor() as pool:
        leader = pool.submit(ref.call, "wait", PATIENCE)
        eventually(lambda: ref.statistics()["calls"] >= 1)
        began, used = time.monotonic(), time.process_time()
        with pytest.raises(CallTimeout):
            ref.call("wait", timeout=0.3)
        with pytest.raises(CallTimeout):
            asyncio.run(ref.acall("wait", 0.3))
        assert time.monotonic() - began < PATIENCE / 2
        assert time.process_time() - used < 0.3  # nobody looks all the time
        ref.call(["reply", 7])
        assert leader.result(PATIENCE) == 7


def test_events_that_were_sent_are_read_to_the_end_of_who_sent_them() -> None:
    ref = Counter.start_link(name="dies")
    trace = ref.trace()
    code = (
        "from supervisor import whereis\n"
        "ref = whereis('dies')\n"
        "for _ in range(300): ref.cast(1)\n"
        "assert ref.call('get') == 300\n"
    )
    python(code)
    kill(ref.pid)
    assert len(list(trace)) == 302  # with the call and its reply


def test_a_fork_waits_for_no_lock_of_its_parents_threads() -> None:
    ref = Counter.start_link()
    future, over = ref.call_async("get"), threading.Event()

    def call() -> None:
        while not over.is_set():
            ref.call("get", PATIENCE)

    with ThreadPoolExecutor() as pool:
        calls = [pool.submit(call) for _ in range(2)]
        for _ in range(30):
            pid = os.fork()
            if pid == 0:
                future.cancel()
                os._exit(0)
            assert wait_for_end(pid)
            os.waitpid(pid, 0)
        over.set()
        assert [done.result(PATIENCE) for done in calls] == [None, None]


def test_who_waits_no_longer_is_forgotten() -> None:
    ref = Later.start_link()

    async def main() -> None:
        future = ref.call_async("wait")
        for _ in range(100):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.001):
                    await future

    asyncio.run(main())
    assert not ref._connection()._waiters


INTERRUPTED = """
import itertools, signal
from actors import Counter
class Interrupt(Exception): pass
armed, depth = False, 0
def interrupt(*_):
    global armed, depth
    if sys.argv[1] == "raise":
        if armed:
            armed = False
            raise Interrupt
        return
    if depth == 20:  # on a busy machine the next one comes before a call has its reply
        return
    depth += 1
    number = next(numbers)
    assert ref.call(["echo", number], timeout=20) == number
    ref.cast(1)
    seen.append(number)
    depth -= 1
if __name__ == "__main__":
    numbers, seen, interrupted, done = itertools.count(), [], 0, 0
    ref = Counter.start_link(0)
    signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.0007, 0.0007)
    for number in range(4000):
        try:
            armed = True
            reply = ref.call(["echo", [number, "x" * (number % 700)]], timeout=20)
            armed = False
            assert reply == [number, "x" * (number % 700)], reply
            done += 1
        except Interrupt:
            interrupted += 1
        except BaseException:
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
            raise
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    assert ref.call("get", timeout=20) == len(seen)
    assert sorted(seen) == list(range(len(seen)))
    assert sys.argv[1] != "raise" or (interrupted > 100 and done > 100), (interrupted, done)
    assert sys.argv[1] != "call" or len(seen) > 100, len(seen)
    print("well")
"""


BESIDE_OTHERS = """
import asyncio, random, signal, threading, time
from actors import Counter
class Interrupt(Exception): pass
armed = False
def interrupt(*_):
    global armed
    if armed and random.random() < 0.5:
        armed = False
        raise Interrupt
    ref.call(["echo", 0], timeout=20)
if __name__ == "__main__":
    ref, over, counts = Counter.start_link(0), threading.Event(), [0, 0, 0, 0]
    def call(place):
        while not over.is_set():
            assert ref.call(["echo", [place, counts[place]]], 5) == [place, counts[place]]
            counts[place] += 1
    async def main():
        while not over.is_set():
            assert await ref.acall(["echo", [2, counts[2]]], 5) == [2, counts[2]]
            counts[2] += 1
    failed = []
    def guarded(run, *arguments):
        try: run(*arguments)
        except BaseException as error: failed.append(error)
    threads = [threading.Thread(target=guarded, args=(call, n)) for n in (0, 1)]
    threads.append(threading.Thread(target=guarded, args=(lambda: asyncio.run(main()),)))
    for thread in threads: thread.start()
    signal.signal(signal.SIGALRM, interrupt)
    until = time.monotonic() + float(sys.argv[1])
    while time.monotonic() < until:
        try:
            armed = True
            signal.setitimer(signal.ITIMER_REAL, 0.0005 + random.random() / 1000)
            ref.call(["echo", 3], timeout=20)
            armed = False
            counts[3] += 1
        except Interrupt:
            pass
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    over.set()
    for thread in threads: thread.join(10)
    assert not failed and not any(thread.is_alive() for thread in threads), failed
    assert min(counts) > 10, counts
    print("well")
"""


def test_signals_of_one_thread_leave_the_others_well(runtime_dir: Path) -> None:
    path = runtime_dir / "beside.py"
    path.write_text(f"{PATHS}{BESIDE_OTHERS}")
    done = subprocess.run(
        [sys.executable, str(path), "3"], capture_output=True, text=True, check=False, timeout=55
    )
    assert done.stdout == "well\n", done.stderr


@pytest.mark.parametrize("how", ["raise", "call"])
def test_signals_at_any_moment_leave_a_connection_whole(how: str, runtime_dir: Path) -> None:
    path = runtime_dir / "interrupted.py"
    path.write_text(f"{PATHS}{INTERRUPTED}")
    done = subprocess.run(
        [sys.executable, str(path), how], capture_output=True, text=True, check=False, timeout=55
    )
    assert done.stdout == "well\n", done.stderr
