"""GenServer and Ref, on real processes."""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from actors import Counter, Later, Refuses, Starter, Witness
from processes import PATIENCE, eventually, gone, run, stop, wait_for_end
from strangers import hear, is_closed, say, stranger

from supervisor import (
    AlreadyRegistered,
    CallTimeout,
    Down,
    GenServer,
    MailboxFull,
    NoProcess,
    ProcessDown,
    Ref,
    RemoteError,
    Shutdown,
    StartFailed,
    whereis,
)
from supervisor.client import connections
from supervisor.protocol import codec, message_kinds
from supervisor.protocol.message_kinds import REPLY


def test_calls_and_casts_keep_their_order() -> None:
    ref = Counter.start_link(10, name="counter")
    ref.cast(5)
    ref.cast(-3)
    assert ref.call("get") == 12
    assert ref.pid != os.getpid()
    assert ref.is_alive()
    assert whereis("counter") == ref
    ref.stop()
    assert not ref.is_alive()
    assert whereis("counter") is None


def test_terms_arrive_as_what_they_were() -> None:
    ref = Counter.start_link()
    expected = (1, {2}, frozenset({3}), 1 << 100, b"x", {"k": [None, True, 1.5]}, ref)
    assert ref.call("term") == expected
    assert ref.call(["echo", expected]) == expected


def test_a_reference_can_be_pickled_and_used_elsewhere() -> None:
    ref = Counter.start_link(3, name="n")
    assert pickle.loads(pickle.dumps(ref)) == ref
    assert pickle.loads(pickle.dumps(ref)).call("get") == 3


def test_nobody_there_is_told_at_once() -> None:
    started = time.monotonic()
    with pytest.raises(NoProcess, match="nobody has the name 'ghost'"):
        Ref(name="ghost").call("get", timeout=None)
    ref = Counter.start_link()
    ref.stop()
    for attempt in (ref.call, ref.cast, ref.send):
        with pytest.raises(NoProcess):
            attempt("x", timeout=None)
    assert time.monotonic() - started < PATIENCE


@pytest.mark.parametrize(("how", "reason"), [("exit", "exit status 3"), ("kill", "killed")])
def test_an_end_during_the_call_is_told_at_once(how: str, reason: str) -> None:
    ref = Counter.start_link()
    with pytest.raises(ProcessDown) as caught:
        ref.call(how, timeout=None)
    assert caught.value.reason == reason


def test_an_exception_reaches_the_caller_with_its_traceback(
    capfd: pytest.CaptureFixture[str],
) -> None:
    ref = Counter.start_link()
    monitor = ref.monitor()
    with pytest.raises(RemoteError, match="ValueError: on request") as caught:
        ref.call("raise")
    assert "raise error" in str(caught.value)
    assert "a note of its own" in str(caught.value)
    reason = monitor.wait(PATIENCE).reason
    assert isinstance(reason, RemoteError)
    assert reason.kind == "ValueError"
    assert "on request" in capfd.readouterr().err


def test_a_reply_that_cannot_travel_is_an_error_of_the_actor(
    capfd: pytest.CaptureFixture[str],
) -> None:
    ref = Counter.start_link()
    monitor = ref.monitor()
    with pytest.raises(RemoteError, match="object, which cannot travel"):
        ref.call("unpackable")
    monitor.wait(PATIENCE)
    assert "cannot travel" in capfd.readouterr().err


def test_a_request_that_cannot_travel_fails_at_the_sender() -> None:
    ref = Counter.start_link()
    with pytest.raises(TypeError, match=r"the message\[1\] is object"):
        ref.call(["echo", object()])
    with pytest.raises(ValueError, match="over the limit"):
        ref.call(["echo", bytes(17 << 20)])
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(TypeError, match=r"nested too deeply|cannot travel"):
        ref.call(loop)
    assert ref.call("get") == 0


def test_a_late_reply_is_dropped() -> None:
    ref = Later.start_link()
    with pytest.raises(CallTimeout):
        ref.call("wait", timeout=0.01)
    assert ref.call(["reply", "late"]) == 1
    assert ref.call("log") == [["continue", "from init"]]


def test_a_reply_may_come_later() -> None:
    ref = Later.start_link()
    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(ref.call, "wait", PATIENCE) for _ in range(3)]
        eventually(lambda: ref.call(["reply", "now"]) >= 3)
        assert [a.result(PATIENCE) for a in answers] == ["now"] * 3


def test_continue_timers_and_plain_messages() -> None:
    ref = Later.start_link()
    assert ref.call("continue") == "replied"
    ref.call(["cancelled", "never"])
    assert ref.call("wait", timeout=PATIENCE) == "after the cancelled one"
    ref.send("hello")
    assert ref.call("log") == [
        ["continue", "from init"],
        ["continue", "from a call"],
        "after the cancelled one",
        "hello",
    ]


def test_monitors_of_a_program_and_of_an_actor_tell_the_reason() -> None:
    watched, watcher = Later.start_link(), Later.start_link()
    watcher.call(["monitor", watched])
    monitor = watched.monitor()
    pid = watched.pid
    with pytest.raises(CallTimeout):
        monitor.wait(0)
    watched.send("end")
    assert monitor.wait(PATIENCE) == Down(watched, pid, Shutdown("told to"))
    eventually(lambda: watcher.call("log")[-1:], [["down", watched, Shutdown("told to")]])


def test_a_monitor_of_nobody_tells_so() -> None:
    watcher = Later.start_link()
    watcher.call(["monitor", Ref(name="ghost")])
    assert watcher.call("log")[-1] == ["down", Ref(name="ghost"), "noproc"]


@pytest.mark.slow
def test_a_reply_that_was_sent_is_not_lost_to_the_senders_end() -> None:
    for _ in range(20):
        ref = Counter.start_link()
        assert ref.call("stop") == "stopping"
        assert wait_for_end(ref._process.pid)


def test_an_actor_that_calls_itself_learns_so(capfd: pytest.CaptureFixture[str]) -> None:
    ref = Counter.start_link()
    with pytest.raises(RemoteError, match="CallCycle"):
        ref.call("self")
    capfd.readouterr()


def test_a_reason_that_cannot_travel_is_an_error() -> None:
    ref = Later.start_link()
    monitor = ref.monitor()
    ref.send("end strangely")
    reason = monitor.wait(PATIENCE).reason
    assert isinstance(reason, RemoteError)
    assert "cannot travel" in reason.message


def test_a_name_is_given_once_and_free_after_death() -> None:
    first = Counter.start_link(1, name="only")
    with pytest.raises(AlreadyRegistered, match="'only'"):
        Counter.start_link(2, name="only")
    os.kill(first.pid, signal.SIGKILL)
    first.monitor().wait(PATIENCE) if first.is_alive() else None
    second = Counter.start_link(3, name="only")
    assert first == second
    assert first.call("get") == 3  # a named reference follows its name


@pytest.mark.parametrize("name", ["", "x" * 300, "../../etc/passwd", ".", "\N{SNOWMAN}"])
def test_names_are_any_text_of_a_bearable_length(name: str) -> None:
    if 0 < len(name) < 100:
        assert Counter.start_link(name=name).call("get") == 0
        ref = whereis(name)
        assert ref is not None
        ref.stop()
    else:
        with pytest.raises(ValueError, match="1 to 200 bytes"):
            Counter.start_link(name=name)


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("raise", "no start today"),
        ("stop", "for a reason"),
        ("exit", "ended before it served"),
        ("kill", "ended before it served"),
    ],
)
def test_a_start_that_fails_says_why(how: str, text: str) -> None:
    with pytest.raises(StartFailed, match=text):
        Refuses.start_link(how)


def test_a_start_may_be_ignored() -> None:
    assert Refuses.start_link("ignore") is None


def test_wrong_arguments_fail_the_start() -> None:
    with pytest.raises(StartFailed, match="unexpected keyword"):
        Counter.start_link(nonsense=1)


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


def test_a_mailbox_has_a_bound() -> None:
    """What is over it waits, and is told; nothing is lost."""
    ref = Counter.start_link()
    pid = ref.pid
    stop(pid)
    sent = 0
    try:
        with pytest.raises(MailboxFull, match="does not serve its mailbox, which is full"):
            for _ in range(100_000):
                ref.cast(1, timeout=0.05)
                sent += 1
    finally:
        os.kill(pid, signal.SIGCONT)
    assert sent == message_kinds.MAILBOX
    assert ref.call("get") == sent  # what was accepted arrives


def test_casts_of_a_program_that_ends_arrive(runtime_dir: Path) -> None:
    ref = Counter.start_link(name="sink")
    program = "from supervisor import Ref\nr = Ref(name='sink')\nfor _ in range(500): r.cast(1)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=PATIENCE)
    eventually(lambda: ref.call("get"), 500)  # it is served in turns with them


def test_many_threads_share_a_reference() -> None:
    ref = Counter.start_link()

    def work(k: int) -> list[Any]:
        return [ref.call(["echo", [k, i]], timeout=PATIENCE) for i in range(100)]

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(work, range(8)))
    assert results == [[[k, i] for i in range(100)] for k in range(8)]


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


def test_an_actor_may_start_another_which_ends_with_it() -> None:
    ref = Starter.start_link()
    other = ref.call("other")
    assert other.call("get") == 7
    monitor = other.monitor()
    os.kill(ref.pid, signal.SIGKILL)
    monitor.wait(PATIENCE)


def test_terminate_is_called_at_an_orderly_end(runtime_dir: Path) -> None:
    log = runtime_dir / "log"
    ref = Witness.start_link(str(log), "w")
    ref.stop("shutdown")
    assert log.read_text().splitlines() == ["start w", "end w shutdown"]


def test_an_unlinked_actor_outlives_the_program_that_started_it(runtime_dir: Path) -> None:
    program = "import sys; sys.path.insert(0, 'tests/support'); from actors import Counter; {}"
    start = program.format("Counter.{}(1, name='{}')")
    command = [sys.executable, "-c", start.format("start", "free")]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL, timeout=PATIENCE)
    run(sys.executable, "-c", start.format("start_link", "bound"))
    assert whereis("bound") is None
    free = whereis("free")
    assert free is not None
    assert free.call("get") == 1
    free.stop()


def test_stopped_actors_leave_no_process(runtime_dir: Path) -> None:
    ref = Counter.start_link()
    pid = ref.pid
    ref.stop()
    assert gone(pid)


class Leaves(GenServer):
    """Logs, and ends by itself a little later."""

    def handle_cast(self, request: Any) -> None:
        self.log.warning("%s leaves", request)
        cancelled = self.call_later(0.01, lambda: self.exit("too early"))
        self.cancel_timer(cancelled)
        self.call_later(0.02, lambda: self.exit(Shutdown("done")))


def test_an_actor_logs_calls_back_and_ends_by_itself(capfd: Any) -> None:
    ref = Leaves.start_link()
    monitor = ref.monitor()
    ref.cast("somebody")
    assert monitor.wait(PATIENCE).reason == Shutdown("done")
    assert "somebody leaves" in capfd.readouterr().err
