"""A caller's end of a connection: room, what was sent before an end, and who keeps it open."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import threading

import pytest
from actors import Counter, Later, Recorder
from processes import (
    PATIENCE,
    eventually,
    gone,
    kill,
    python,
    stop,
)
from users import only_one_user, ordinary_buffer

from supervisor import (
    MailboxFull,
    ProcessDown,
)
from supervisor.client import caller_socket
from supervisor.protocol import framing
from supervisor.protocol import runtime_dir as runtime
from supervisor.protocol.channel import Channel


def test_an_ordinary_users_buffer_slows_a_sender_and_loses_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(framing, "enlarge", ordinary_buffer)
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
    child = int(python(code))
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
    for _ in range(8):
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
    assert python(code) == "again\n"


def test_a_full_backlog_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
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
