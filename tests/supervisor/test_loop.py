"""An actor's loop: whatever a callback does, its own actor pays for it, and nobody else."""

import asyncio
import atexit
import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from actors import Counter
from processes import PATIENCE, eventually

from supervisor import (
    ActorError,
    ChildSpec,
    GenServer,
    NoProcess,
    ProcessDown,
    RemoteError,
    Sender,
    StartFailed,
    Supervisor,
    SupervisorRef,
)

RAISED = (KeyboardInterrupt, asyncio.CancelledError, GeneratorExit, SystemExit, ZeroDivisionError)


class Odd:
    """Cannot be shown."""

    def __repr__(self) -> str:
        raise KeyboardInterrupt


class OddError(Exception):
    """Cannot be told."""

    def __str__(self) -> str:
        raise asyncio.CancelledError


class Wild(GenServer):
    """Does what it is told."""

    def init(self, begin: str = "", where: str = "") -> Any:
        self.where, self.odd = where, Odd()
        if begin:
            raise RAISED[int(begin)]

    def handle_call(self, request: Any, sender: Sender) -> Any:
        match request:
            case "pid":
                return os.getpid()
            case ["raise", int(which)]:
                raise RAISED[which]
            case "raise what cannot be told":
                raise OddError
            case "return what cannot be shown":
                return self.odd
            case "fork":
                return os.fork() or "what nobody must receive"
            case ["link", ref]:
                self.link(ref)
        return None

    def handle_cast(self, request: Any) -> Any:
        match request:
            case "write to a wrong descriptor":
                os.write(self._channel(), b"GET / HTTP/1.0\r\n\r\n")
            case "say what no actor says":
                self._actor.parent._channel.send("store", 5)  # type: ignore[union-attr]
            case "close descriptors":
                os.closerange(3, 100)
            case "hang in atexit":
                atexit.register(time.sleep, 1000)
                raise ZeroDivisionError
            case "change directory":
                os.chdir("/proc")
                raise ZeroDivisionError
            case "print into a pipe that is full":
                reader, writer = os.pipe()
                os.dup2(writer, 1)
                os.set_blocking(writer, False)
                while True:
                    try:
                        os.write(writer, bytes(4096))
                    except BlockingIOError:
                        break
                os.set_blocking(writer, True)
                sys.stdout = os.fdopen(1, "w", buffering=4096)
                sys.stdout.write("never read\n")
                self.reader = reader
                raise ZeroDivisionError
            case "return what cannot be shown":
                return self.odd
        return None

    def _channel(self) -> int:
        channel = self._actor.parent._channel
        assert channel is not None
        return channel.fileno()

    def terminate(self, reason: Any) -> None:
        if self.where:
            Path(self.where).write_text(str(reason))


def family(*args: Any) -> SupervisorRef:
    children = [ChildSpec("wild", Wild, args), ChildSpec("tame", Counter)]
    ref: SupervisorRef = Supervisor.start_link(children, intensity=100)
    return ref


def successor(sup: SupervisorRef, former: int) -> int:
    """Return the pid of the next one: who closes its descriptors seems to have ended before."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with contextlib.suppress(ActorError):
            pid: int = sup.child("wild").call("pid")
            if pid != former:
                return pid
    return former


def sees_it_restarted(sup: SupervisorRef, act: Any) -> None:
    """Do something to an actor; see that it alone is another process then."""
    wild, tame = sup.child("wild"), sup.child("tame")
    down, pid = wild.monitor(), tame.pid
    former = wild.pid
    act(wild)
    down.wait(PATIENCE)
    assert successor(sup, former) != former
    assert tame.pid == pid == sup.child("tame").pid
    assert tame.call("get") == 0


@pytest.mark.parametrize("which", range(len(RAISED)), ids=lambda n: RAISED[n].__name__)
def test_whatever_a_callback_raises_is_an_error_as_others(which: int, tmp_path: Path) -> None:
    sup = family("", str(tmp_path / "terminated"))

    def ask(wild: Any) -> None:
        with pytest.raises(RemoteError, match=RAISED[which].__name__):
            wild.call(["raise", which])

    sees_it_restarted(sup, ask)
    assert RAISED[which].__name__ in (tmp_path / "terminated").read_text()


@pytest.mark.parametrize("which", range(len(RAISED)), ids=lambda n: RAISED[n].__name__)
def test_whatever_init_raises_fails_the_start(which: int) -> None:
    with pytest.raises(StartFailed, match=RAISED[which].__name__):
        Wild.start_link(str(which))


def test_an_error_that_cannot_be_told_is_told_nevertheless() -> None:
    def ask(wild: Any) -> None:
        with pytest.raises(RemoteError, match="OddError"):
            wild.call("raise what cannot be told")

    sees_it_restarted(family(), ask)


def test_a_state_that_cannot_be_shown_is_told_as_that() -> None:
    ref = Wild.start_link()
    assert "whose repr raises KeyboardInterrupt" in ref.get_state()["odd"]
    down = ref.monitor()
    ref.cast("return what cannot be shown")
    assert "whose repr raises KeyboardInterrupt" in str(down.wait(PATIENCE).reason)


def test_a_reply_that_cannot_be_shown_is_an_error() -> None:
    def ask(wild: Any) -> None:
        with pytest.raises(RemoteError, match="the message is Odd, which cannot travel"):
            wild.call("return what cannot be shown")

    sees_it_restarted(family(), ask)


@pytest.mark.parametrize(
    "what",
    [
        "write to a wrong descriptor",
        "say what no actor says",
        "close descriptors",
        "hang in atexit",
        "change directory",
        "print into a pipe that is full",
    ],
)
def test_its_own_actor_alone_is_restarted(what: str) -> None:
    sees_it_restarted(family(), lambda wild: wild.cast(what))


def test_a_fork_that_returns_twice_ends(capfd: pytest.CaptureFixture[str]) -> None:
    ref = Wild.start_link()
    pidfd = os.pidfd_open(ref.call("fork"))
    assert select.select([pidfd], [], [], PATIENCE)[0]
    os.close(pidfd)
    for _ in range(20):
        assert ref.call("pid") == ref.pid
    ref.stop()
    assert "the fork has returned from it too" in capfd.readouterr().err


def test_an_actor_that_links_itself_to_its_supervisor_harms_it_not() -> None:
    sup = family()

    def act(wild: Any) -> None:
        wild.call(["link", sup])
        with pytest.raises(RemoteError):
            wild.call(["raise", 4])

    sees_it_restarted(sup, act)


def test_descriptors_that_come_with_a_wrong_word_are_closed() -> None:
    sup = Supervisor.start_link([ChildSpec("sender", Sends)])
    sup.which_children()
    before = len(os.listdir(f"/proc/{sup.pid}/fd"))
    sup.child("sender").call("send")
    sup.which_children()
    assert len(os.listdir(f"/proc/{sup.pid}/fd")) == before


class Sends(GenServer):
    def handle_call(self, request: Any, sender: Sender) -> None:
        channel = self._actor.parent._channel
        assert channel is not None
        for _ in range(100):
            channel.send("pong", fds=(0,) * 16)


class Drops(GenServer):
    """Becomes nobody, as network daemons do."""

    def init(self) -> None:
        os.setgid(65534)
        os.setuid(65534)

    def handle_call(self, request: Any, sender: Sender) -> int:
        return os.getpid()


def test_an_actor_that_has_become_another_user_ends_with_its_supervisor() -> None:
    sup = Supervisor.start_link([ChildSpec("d", Drops)])
    ref = sup.child("d")
    ref.call("pid")
    down = ref.monitor()
    os.kill(sup.pid, signal.SIGKILL)
    assert down.wait(PATIENCE).reason == "killed"


def test_a_caller_is_told_of_an_actor_that_closes_its_descriptors() -> None:
    ref = Wild.start_link()
    ref.cast("close descriptors")
    with pytest.raises((ProcessDown, NoProcess)):
        while True:
            ref.call("pid")


def test_what_an_actor_has_printed_is_written(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        "from supervisor import GenServer\n"
        "class Prints(GenServer):\n"
        "    def handle_call(self, request, sender):\n"
        "        print('printed')\n"
        "if __name__ == '__main__':\n"
        "    Prints.start_link().call(1)\n"
    )
    command = [sys.executable, tmp_path / "program.py"]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert run.stdout == "printed\n"


# -- descriptors -----------------------------------------------------------------------------------


class Copies(GenServer):
    """Writes much to a socket, and reads what comes, in the order in which the kernel has room."""

    def init(self, descriptor_name: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(descriptor_name)
        self.sock.setblocking(False)
        self.unsent, self.turns, self.said = b"x" * 3_000_000, 0, b""
        self.add_writer(self.sock.fileno(), self.write)

    def write(self) -> None:
        self.turns += 1
        self.unsent = self.unsent[self.sock.send(self.unsent) :]
        if not self.unsent:
            self.remove_writer(self.sock.fileno())

    def read(self) -> None:
        self.said += self.sock.recv(100)

    def handle_call(self, request: Any, sender: Sender) -> Any:
        fd = self.sock.fileno()
        match request:
            case "read":
                self.add_reader(fd, self.read)
            case "read no more":
                self.remove_reader(fd)
            case "write no more":
                self.remove_writer(fd)
            case "write":
                self.unsent = b"x" * 3_000_000
                self.add_writer(fd, self.write)
            case "turns":
                return self.turns
        return self.said


def test_a_descriptor_is_written_when_it_has_room(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        ref = Copies.start_link(str(tmp_path / "s"))
        sock, _ = listener.accept()
    with sock:

        def received(size: int) -> int:
            found = 0
            while found < size:
                found += len(sock.recv(65536))
            return found

        assert received(3_000_000) == 3_000_000
        turns = ref.call("turns")
        assert turns > 1
        ref.call("read")
        ref.call("write")  # both on one descriptor
        sock.send(b"a")
        eventually(lambda: ref.call("said"), b"a")
        assert received(3_000_000) == 3_000_000
        ref.call("read no more")
        ref.call("write")
        sock.send(b"b")
        assert received(3_000_000) == 3_000_000
        assert ref.call("said") == b"a"
        ref.call("read")
        eventually(lambda: ref.call("said"), b"ab")
        ref.call("write")
        ref.call("write no more")
        sock.send(b"c")
        eventually(lambda: ref.call("said"), b"abc")
        ref.call("read no more")
