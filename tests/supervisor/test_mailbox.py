"""Mailboxes and their callers' connections: descriptors, bounds, fairness, strangers, signals."""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import itertools
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from actors import Counter, Later
from processes import PATIENCE, SUPPORT, eventually, gone, kill, stop, wait_for_end
from strangers import hear, is_closed, say, stranger
from users import only_one_user

import tuncer
from supervisor import (
    CallTimeout,
    ChildSpec,
    GenServer,
    MailboxFull,
    ProcessDown,
    Sender,
    Supervisor,
    linux,
)
from supervisor.protocol import codec, framing, message_kinds
from supervisor.protocol import runtime_dir as runtime
from supervisor.protocol.channel import Channel

HERE = str(Path(__file__).parent)
PATHS = f"import sys; sys.path[:0] = [{SUPPORT!r}, {HERE!r}]\n"
"""The head of a program that imports what the tests have."""


class Recorder(GenServer):
    """Keeps the order of what it is sent."""

    def init(self) -> None:
        self.seen: list[Any] = []

    def handle_cast(self, request: Any) -> None:
        self.seen.append(request)

    def handle_call(self, request: Any, sender: Sender) -> Any:
        match request:
            case "seen":
                return self.seen
            case ["busy", seconds]:
                time.sleep(seconds)
            case ["fork"]:
                return self.fork()
            case ["become", user]:
                os.setgroups([])
                os.setgid(user)
                os.setuid(user)
            case ["unshare"]:
                os.unshare(os.CLONE_NEWUSER) if hasattr(os, "unshare") else unshare()
            case ["fds"]:
                return len(os.listdir("/proc/self/fd"))
            case ["limit", number]:
                resource.setrlimit(resource.RLIMIT_NOFILE, (number, number))
            case ["much", size]:
                return b"x" * size
            case term:
                return term
        return None

    def fork(self) -> int:
        pid = os.fork()
        if pid == 0:
            time.sleep(1000)
            os._exit(0)
        return pid


def unshare() -> None:
    import ctypes

    assert ctypes.CDLL(None, use_errno=True).unshare(0x10000000) == 0


def program(code: str, *arguments: str, timeout: float = 50.0) -> str:
    """Run a program that may import the tests' actors; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", f"{PATHS}{code}", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# -- what it costs ---------------------------------------------------------------------------------


def tasks(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def test_no_process_of_ours_has_a_thread_until_it_publishes(
    runtime_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = len(os.listdir("/proc/self/task"))
    sup = Supervisor.start_link([ChildSpec("c", Counter)])
    child = sup.child("c")
    with tuncer.create("lab0", tuncer.Flag.TUN | tuncer.Flag.NO_PI) as dev:
        root = linux.parent(dev.pid).pid
        child.call("get")
        dev.statistics()
        with dev.subscribe():
            assert [tasks(pid) for pid in (sup.pid, child.pid, root, dev.pid)] == [1] * 4
        assert len(os.listdir("/proc/self/task")) == before
        for pid in (sup.pid, child.pid, root):
            assert "libzmq" not in maps(pid) or pid == root  # a library that no thread of it runs
        endpoint = dev.endpoint
        assert tasks(dev.pid) > 1
        kill(dev.pid)
        assert dev.endpoint == endpoint
        assert tasks(root) == 1


def maps(pid: int) -> str:
    return Path(f"/proc/{pid}/maps").read_text()


def test_a_peer_costs_a_descriptor_on_each_side() -> None:
    recorder = Recorder.start_link()
    refs = [Counter.start_link() for _ in range(5)]
    recorder.call("warm up")
    before, there = len(os.listdir("/proc/self/fd")), recorder.call(["fds"])
    for ref in refs:
        ref.call("get")
    assert len(os.listdir("/proc/self/fd")) == before + 5
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            say(stack.enter_context(stranger(recorder.pid)), [0, 1, "hello"])
        eventually(lambda: recorder.call(["fds"]) >= there + 10)
        assert recorder.call(["fds"]) == there + 10
    eventually(lambda: recorder.call(["fds"]) <= there)


MANY = """
import resource
from test_mailbox import Recorder
from supervisor import ChildSpec, DynamicSupervisor, multi_call
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[2]), hard))
if __name__ == "__main__":
    number = int(sys.argv[1])
    pool = DynamicSupervisor.start_link(ChildSpec("c", Recorder))
    refs = [pool.start_child() for _ in range(number)]
    for turn in range(4):
        for ref in refs:
            ref.cast(turn)
            ref.cast(turn + 100)
    assert all(ref.call("seen") == [0, 100, 1, 101, 2, 102, 3, 103] for ref in refs)
    import os
    assert len(os.listdir("/proc/self/fd")) < int(sys.argv[2]) // 2, "it leaves no room for others"
    replies, errors = multi_call(refs[:number // 4], "seen")
    assert not errors and len(replies) == number // 4, errors[:1]
    print(len(refs))
"""


@pytest.mark.slow
def test_more_actors_than_descriptors() -> None:
    assert program(MANY, "200", "96") == "200\n"


# -- order, bounds, fairness -----------------------------------------------------------------------


def test_one_that_floods_delays_the_others_little() -> None:
    ref = Recorder.start_link(name="fair")
    flood = (
        "from supervisor import whereis\n"
        "ref = whereis('fair')\n"
        "print('floods', flush=True)\n"
        "for n in range(100_000): ref.cast(n)\n"
    )
    with subprocess.Popen([sys.executable, "-c", flood], stdout=subprocess.PIPE) as flooder:
        assert flooder.stdout is not None
        flooder.stdout.readline()
        with stranger(ref.pid) as other:
            waited = []
            for number in range(200):
                say(other, [0, 1, number])
                assert hear(other) == [message_kinds.REPLY, 1, number]
                waited.append(ref.statistics()["casts"])
        assert flooder.wait(PATIENCE) == 0
    # What the flooder has left is served in turns with this caller's requests.
    eventually(lambda: ref.statistics()["casts"], 100_000)
    assert ref.call("seen", timeout=PATIENCE) == list(range(100_000))
    assert waited[-1] - waited[0] < 100_000  # it was not served before the others


def test_a_caller_that_does_not_read_its_answers_is_not_served_until_it_does() -> None:
    ref = Recorder.start_link()
    size, number = 20_000, 3000  # 60 MB
    with stranger(ref.pid) as sleeper:
        sleeper.setblocking(False)
        request = codec.pack([0, 5, ["much", size]])
        unsent = request * number
        deadline = time.monotonic() + PATIENCE
        while unsent and time.monotonic() < deadline:
            try:
                unsent = unsent[sleeper.send(unsent) :]
            except BlockingIOError:
                break
        assert ref.call("hello") == "hello"
        assert resident(ref.pid) < 200 << 20
        sleeper.settimeout(PATIENCE)
        answered = 0
        frames = framing.frames(codec.LIMIT)
        sent = number - -(-len(unsent) // len(request))
        while answered < sent:
            frames.feed(sleeper.recv(1 << 16))
            answered += sum(1 for _ in frames)
    assert ref.call("hello") == "hello"


def resident(pid: int) -> int:
    """Return the bytes of memory that a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


def test_one_that_ignores_its_credit_fills_no_memory() -> None:
    ref = Recorder.start_link()
    ref.suspend()
    message = codec.pack([1, 0, b"x" * 20_000])
    with stranger(ref.pid) as floods:
        floods.settimeout(1.0)
        with pytest.raises(TimeoutError):
            for _ in range(100_000):
                floods.sendall(message)
        assert resident(ref.pid) < 4 * message_kinds.MAILBOX_BYTES
        assert ref.statistics()["suspended"]
        ref.resume()
        floods.settimeout(PATIENCE)
        floods.sendall(message)
    assert ref.call("hello", timeout=PATIENCE) == "hello"


def test_an_actor_that_is_busy_holds_as_much_as_is_promised() -> None:
    ref = Recorder.start_link()
    for size in (0, 50, 3000, 40_000):
        stop(ref.pid)  # as one that is busy, for however long this takes
        most = min(message_kinds.MAILBOX - 2, message_kinds.MAILBOX_BYTES // (size + 40))
        for _ in range(most * 3 // 4):  # a quarter may have been served, and not given back
            ref.cast(b"x" * size, timeout=0)
        os.kill(ref.pid, signal.SIGCONT)
        assert ref.call("hello", timeout=PATIENCE) == "hello"


def test_a_full_backlog_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from supervisor.client import caller_socket

    monkeypatch.setattr(caller_socket, "_BACKLOG", 1)
    ref = Counter.start_link()
    process = ref._process
    assert process is not None
    stop(process.pid)
    path = str(runtime.mailbox(process))
    waiting = []
    try:
        with pytest.raises(BlockingIOError):
            for _ in range(10_000):
                sock = socket.socket(socket.AF_UNIX)
                waiting.append(sock)
                sock.setblocking(False)
                sock.connect(path)
        with pytest.raises(MailboxFull, match="accepts no connection"):
            ref.cast(1)
    finally:
        os.kill(process.pid, signal.SIGCONT)
        for sock in waiting:
            sock.close()
    while True:
        with contextlib.suppress(MailboxFull):
            ref.cast(1)
            break
    assert ref.call("get") == 1


def ordinary(sock: socket.socket) -> None:
    """Give a socket what an ordinary user may have where net.core.wmem_max is 212,992."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 212_992)


def test_an_ordinary_users_buffer_slows_a_sender_and_loses_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(framing, "enlarge", ordinary)
    ref = Recorder.start_link()
    stop(ref.pid)
    sent = 0
    with pytest.raises(MailboxFull, match="does not serve its mailbox"):
        for _ in itertools.count():
            ref.cast(sent, timeout=0)
            sent += 1
    assert 500 < sent < 600
    threading.Timer(0.1, os.kill, (ref.pid, signal.SIGCONT)).start()
    for number in range(sent, 20_000):
        ref.cast(number, timeout=PATIENCE)
    assert ref.call("seen", timeout=PATIENCE) == list(range(20_000))


def test_asyncio_waits_for_the_kernels_room_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framing, "enlarge", ordinary)
    ref = Recorder.start_link()

    async def main() -> None:
        stop(ref.pid)  # however busy this machine is, it serves nothing
        calls = [asyncio.create_task(ref.acall("x" * 20_000, PATIENCE)) for _ in range(300)]
        await asyncio.sleep(0.1)
        began = time.process_time()
        await asyncio.sleep(1)
        assert time.process_time() - began < 0.5  # the loop does not poll for room all the time
        os.kill(ref.pid, signal.SIGCONT)
        assert set(await asyncio.gather(*calls)) == {"x" * 20_000}

    asyncio.run(main())


# -- long messages ---------------------------------------------------------------------------------


def test_messages_of_every_length_in_both_directions() -> None:
    ref = Recorder.start_link()
    edges = [framing.INLINE + n for n in range(-20, 4)]
    for size in (0, 1, 200, 250, 255, 256, 257, 65535, 65536, 1 << 20, *edges, codec.LIMIT - 100):
        assert ref.call(["echo", b"x" * size], timeout=PATIENCE) == ["echo", b"x" * size]
    for size in (10, 100_000, 5, framing.INLINE, 1):
        ref.cast([size, b"y" * size])
    assert ref.call("seen", timeout=PATIENCE) == [
        [size, b"y" * size] for size in (10, 100_000, 5, framing.INLINE, 1)
    ]
    with pytest.raises(ValueError, match="over the limit"):
        ref.cast(b"x" * (codec.LIMIT + 1))


def memfd(content: bytes, seals: int = framing._SEALS) -> int:
    fd = os.memfd_create("test", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    os.write(fd, content)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


@contextlib.contextmanager
def given(fds: list[int]) -> Iterator[list[tuple[int, int, array.array[int]]]]:
    try:
        yield [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
    finally:
        for fd in fds:
            os.close(fd)


def test_a_descriptor_that_holds_no_message_ends_its_connection(
    capfd: pytest.CaptureFixture[str],
) -> None:
    ref = Recorder.start_link()
    ref.call("warm up")
    message, before = codec.pack([0, 1, "hello"]), ref.call(["fds"])
    reader, writer = os.pipe()
    os.close(writer)
    cases: list[tuple[Any, list[int]]] = [
        (len(message), [memfd(message, 0)]),
        (len(message) + 1, [memfd(message)]),
        (1 << 40, [memfd(message)]),
        (-1, [memfd(message)]),
        (5, [reader]),
        (5, [os.open("/dev/zero", os.O_RDONLY)]),
        (5, [os.open("/", os.O_RDONLY)]),
        ([0, 1, "hello"], [os.open("/dev/null", os.O_RDONLY) for _ in range(100)]),
    ]
    for size, fds in cases:
        with stranger(ref.pid) as other, given(fds) as rights:
            other.sendmsg([codec.pack(size)], rights)
            assert is_closed(other), size
    for bad in (b"\x93\x00\x01\xdd\xff\xff\xff\xff" + bytes(40_000), b"\x91" * 40_000):
        with stranger(ref.pid) as other:
            framing.send_long(other, bad)
            assert is_closed(other)
    with stranger(ref.pid) as other, given([memfd(message)]) as rights:
        other.sendmsg([codec.pack(len(message))], rights)
        assert hear(other) == [message_kinds.REPLY, 1, "hello"]
    eventually(lambda: ref.call(["fds"]) <= before)
    assert len(capfd.readouterr().err.splitlines()) == len(cases) + 2


# -- deaths ----------------------------------------------------------------------------------------


def test_a_fork_of_an_actor_does_not_hide_its_death() -> None:
    ref = Recorder.start_link()
    child = ref.call(["fork"])
    waiting = ref.call_async(["busy", 1000])
    monitor = ref.monitor()
    os.kill(ref.pid, signal.SIGKILL)
    with pytest.raises(ProcessDown, match="killed"):
        waiting.result(PATIENCE)
    assert monitor.wait(PATIENCE).reason == "killed"
    assert not gone(child)
    kill(child)


def test_a_fork_of_a_caller_does_not_keep_its_connection() -> None:
    ref = Recorder.start_link(name="recorder")
    before = ref.call(["fds"])
    code = (
        "import os, time\n"
        "from supervisor import whereis\n"
        "whereis('recorder').call('hello')\n"
        "child = os.fork()\n"
        "if child == 0: os.closerange(0, 3), time.sleep(1000)\n"
        "print(child)\n"
    )
    child = int(program(code))
    eventually(lambda: ref.call(["fds"]) <= before)
    assert not gone(child)
    kill(child)


def test_what_was_told_is_heard_although_something_was_left_unread() -> None:
    ours, fd = Channel.pair()
    theirs = Channel(fd)
    ours.send("an order that nobody reads")
    theirs.send("last words")
    theirs.close()
    assert ours.receive() == (["last words"], [])
    with pytest.raises(EOFError):
        ours.receive()
    ours.close()


def test_replies_before_a_death_are_read_although_casts_were_left_unread() -> None:
    for _ in range(20):
        ref = Later.start_link()
        futures = [ref.call_async("log") for _ in range(20)]
        futures[-1].result(PATIENCE)
        stop(ref.pid)
        for _ in range(100):
            ref.cast("unread")
        late = ref.call_async("log")
        kill(ref.pid)
        assert [future.exception(PATIENCE) for future in futures] == [None] * 20
        with pytest.raises(ProcessDown, match="killed"):
            late.result(PATIENCE)


# -- waits, and who reads --------------------------------------------------------------------------


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
    program(code)
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


def test_an_idle_connection_is_one_whose_messages_were_served() -> None:
    ref = Recorder.start_link()
    ref.suspend()
    for number in range(message_kinds.MAILBOX // 2):
        ref.cast(number)
    there = ref._connection()
    assert not there.close_if_idle(unread=True)
    ref.resume()
    eventually(lambda: len(ref.call("seen", PATIENCE)) >= message_kinds.MAILBOX // 2)
    assert there.close_if_idle(unread=True)
    assert ref.call("again") == "again"


# -- users -----------------------------------------------------------------------------------------


def as_user(user: int, pid: int) -> str:
    """Send a call as another user who has got into the directory; return what comes of it."""
    path = runtime.mailbox(linux.process(pid))
    path.chmod(0o777)
    path.parent.chmod(0o711)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.chdir(path.parent)
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
        with socket.socket(socket.AF_UNIX) as other:
            other.settimeout(PATIENCE)
            other.connect(path.name)
            with contextlib.suppress(OSError):
                say(other, [0, 1, "hello"])
            try:
                answer = hear(other)
            except OSError as error:
                answer = type(error).__name__
        os.write(writer, repr(answer).encode())
        os._exit(0)
    os.close(writer)
    with open(reader) as pipe:
        found = pipe.read()
    os.waitpid(child, 0)
    return found


@pytest.mark.skipif(only_one_user(), reason="there is only one user here")
def test_other_users_are_refused_also_when_the_actor_has_become_one(
    capfd: pytest.CaptureFixture[str],
) -> None:
    ref = Recorder.start_link()
    path = runtime.mailbox(linux.process(ref.pid))
    assert path.stat().st_mode & 0o777 == 0o600
    refused = ("None", "'ConnectionResetError'")
    assert as_user(65534, ref.pid) in refused
    assert as_user(0, ref.pid) == repr([message_kinds.REPLY, 1, "hello"])
    ref.call(["become", 65534])
    assert as_user(65534, ref.pid) in refused
    assert as_user(0, ref.pid) == repr([message_kinds.REPLY, 1, "hello"])
    assert ref.call("hello") == "hello"
    assert "user 65534, is refused" in capfd.readouterr().err


def test_an_actor_in_a_user_namespace_of_its_own_serves_on() -> None:
    ref = Recorder.start_link()
    ref.call(["unshare"])
    with stranger(ref.pid) as other:
        say(other, [0, 1, "hello"])
        assert hear(other) == [message_kinds.REPLY, 1, "hello"]


@pytest.mark.skipif(only_one_user(), reason="there is only one user here")
def test_a_caller_that_has_dropped_its_privileges_goes_on_with_its_connection() -> None:
    ref = Recorder.start_link()
    assert ref.call("hello") == "hello"
    code = (
        "import os\n"
        "from supervisor import whereis\n"
        "ref = whereis('recorder')\n"
        "ref.call('hello')\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "print(ref.call('again'))\n"
    )
    Recorder.start_link(name="recorder")
    assert program(code) == "again\n"


# -- descriptors of the actor ----------------------------------------------------------------------


def test_silent_connections_make_room_for_those_that_speak(
    capfd: pytest.CaptureFixture[str],
) -> None:
    ref = Recorder.start_link()
    ref.call(["limit", 40])
    with contextlib.ExitStack() as stack:
        for _ in range(60):
            stack.enter_context(stranger(ref.pid))
        with stranger(ref.pid) as other:
            say(other, [0, 1, "hello"])
            assert hear(other) == [message_kinds.REPLY, 1, "hello"]
        assert ref.call("hello") == "hello"
    assert "it has sent nothing, and others need its descriptor" in capfd.readouterr().err


def test_an_actor_that_is_short_of_descriptors_loses_no_message(
    capfd: pytest.CaptureFixture[str],
) -> None:
    ref = Recorder.start_link(name="short")
    ref.call(["limit", 50])
    busy = ref.call_async(["busy", 0.5])
    pids = []
    for number in range(80):
        pid = os.fork()
        if pid == 0:
            status = 1
            with contextlib.suppress(BaseException):
                ref.cast(number, timeout=PATIENCE)
                status = int(ref.call(["echo", number], timeout=PATIENCE) != ["echo", number])
            os._exit(status)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 80
    assert busy.result(PATIENCE) is None
    assert sorted(ref.call("seen")) == list(range(80))
    capfd.readouterr()


# -- signals ---------------------------------------------------------------------------------------

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
