"""Mailboxes: threads, descriptors, fairness, users, strangers."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from actors import Counter, Recorder
from processes import (
    PATIENCE,
    eventually,
    gone,
    kill,
    resident,
)
from strangers import hear, is_closed, say, stranger
from users import several_users

import tuncer
from supervisor import (
    ChildSpec,
    ProcessDown,
    Supervisor,
    linux,
)
from supervisor.protocol import codec, framing, message_kinds
from supervisor.protocol import runtime_dir as runtime
from supervisor.protocol.message_kinds import REPLY

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


@several_users
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


JUNK = {
    "text": b"hello",
    "a map": b"\x81\x01\x02",
    "bytes that are longer than any": b"\xc6\xff\xff\xff\xff" + bytes(300_000),
    "an array of four billion": b"\xdd\xff\xff\xff\xff",
    "text that never ends": b"\x93\x01\x02\xdb\x00\x00\x7f\xff" * 40_000,
    "no msgpack": b"\xc1",
    "an array of more than there is": b"\x93\x01\x02\xdd\xff\xff\xff\xff",
    "arrays in arrays": b"\x93\x01\x00" + b"\xdd\x00\x00\x10\x00" * 5000,
    "an empty list": codec.pack([]),
    "too short": codec.pack([1, 2]),
    "too long": codec.pack([1, 2, 3, [], 5]),
    "a kind that is text": codec.pack(["0", 1, 2]),
    "a number that is none": codec.pack([0, None, 2]),
    "an unknown kind": codec.pack([99, 1, 2]),
    "an unknown extension": b"\x93\x01\x02\xd4\x77\x00",
    "a chain of text": codec.pack([0, 1, "get", ["x"]]),
    "a chain that is none": codec.pack([0, 1, "get", 5]),
    "a memfd's size without a memfd": codec.pack(1 << 20),
}


@pytest.mark.parametrize("what", JUNK)
def test_a_message_that_is_none_ends_its_connection_and_harms_nobody(
    what: str, capfd: pytest.CaptureFixture[str]
) -> None:
    ref = Counter.start_link(name="target")
    with stranger(ref.pid) as other, stranger(ref.pid) as bystander:
        with contextlib.suppress(BrokenPipeError):
            other.sendall(JUNK[what])
        assert is_closed(other)
        say(bystander, [0, 7, "get"])
        assert hear(bystander) == [REPLY, 7, 0]
    assert ref.call(["echo", 1]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert f"the connection of process {os.getpid()} is closed: malformed data" in line


def test_a_stranger_that_speaks_the_protocol_is_served() -> None:
    ref = Counter.start_link(5)
    with stranger(ref.pid) as other:
        for byte in codec.pack([0, 7, "get"]):
            other.send(bytes([byte]))  # it may come in pieces
        assert hear(other) == [REPLY, 7, 5]
