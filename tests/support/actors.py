"""Actors that the tests start."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from typing import Any

from processes import (
    eventually,
)

from supervisor import (
    CallCycle,
    Continue,
    Down,
    GenServer,
    Ignore,
    NoReply,
    ProcessDown,
    Ref,
    Sender,
    Shutdown,
    Stop,
    Timeout,
    lowlevel,
)
from supervisor.client import connections


class Counter(GenServer):
    """Counts; and does, when told, what actors should not do."""

    def init(self, start: int = 0) -> None:
        self.n = start

    def handle_call(self, request: Any, sender: Sender) -> Any:
        match request:
            case "get":
                return self.n
            case "pid":
                return os.getpid()
            case "raise":
                error = ValueError("on request")
                error.add_note("a note of its own")
                raise error
            case "stop":
                return Stop(reply="stopping")
            case ["stop", reason]:
                return Stop(reason, reply="stopping")
            case "exit":
                os._exit(3)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "sys.exit":
                sys.exit("enough")
            case "self":
                return self.ref.call("get")
            case "popen":
                with subprocess.Popen(["sleep", "1000"]) as child:
                    os.kill(os.getpid(), signal.SIGKILL)
                    return child.pid
            case "breakpoint":
                breakpoint()  # noqa: T100 - what is tried
                return self.n
            case "fork":
                return self.fork(sender)
            case "child":
                return subprocess.Popen(["sleep", "1000"]).pid
            case "term":
                return (1, {2}, frozenset({3}), 1 << 100, b"x", {"k": [None, True, 1.5]}, self.ref)
            case ["echo", term]:
                return term
            case "unpackable":
                return object()
            case _:
                raise LookupError(request)

    def handle_cast(self, request: int) -> None:
        self.n += request

    def fork(self, sender: Sender) -> NoReply:
        """Fork; the fork asks this actor, and another that it starts, and has both told."""
        if os.fork() == 0:
            other = Counter.start_link(5)
            sender.reply([self.ref.call("get"), other.call("get")])
            other.stop()
            connections.close_all()
            os._exit(0)
        return NoReply()


class Later(GenServer):
    """Replies later, continues, sets timers, monitors."""

    def init(self) -> Any:
        self.waiting: list[Sender] = []
        self.log: list[Any] = []
        return Continue("from init")

    def handle_continue(self, argument: Any) -> None:
        self.log.append(["continue", argument])

    def handle_call(self, request: Any, sender: Sender) -> Any:
        match request:
            case "wait":
                self.waiting.append(sender)
                return NoReply()
            case ["reply", value]:
                for waiting in self.waiting:
                    self.reply(waiting, value)
                return len(self.waiting)
            case "log":
                return self.log
            case ["after", seconds, message]:
                self.send_after(seconds, message)
            case ["cancelled", message]:
                self.cancel_timer(self.send_after(0.01, message))
                self.send_after(0.02, "after the cancelled one")
            case ["monitor", ref]:
                self.monitor(ref)
                if ref.is_alive():
                    ref.call("log")  # on the same way: the monitor is in force before the reply
            case "continue":
                return Continue("from a call", reply="replied")
        return None

    def handle_info(self, message: Any) -> Any:
        self.log.append(message)
        if isinstance(message, Down):
            self.log[-1] = ["down", message.ref, message.reason]
        if message == "end":
            return Stop(Shutdown("told to"))
        if message == "end strangely":
            return Stop(Shutdown(object()))
        for waiting in self.waiting:
            self.reply(waiting, message)
        return None


class Witness(GenServer):
    """Writes down its start and its end, for tests of their order."""

    def init(self, path: str, name: str) -> None:
        self.path, self.name = path, name
        self.write(f"start {name}")

    def terminate(self, reason: Any) -> None:
        self.write(f"end {self.name} {reason}")

    def write(self, line: str) -> None:
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(fd, f"{line}\n".encode())
        os.close(fd)

    def handle_call(self, request: Any, sender: Sender) -> Any:
        if request == "never":
            self.write("hangs")
            threading.Event().wait()
        return self.name


class Refuses(GenServer):
    """Does not start, in several ways."""

    def init(self, how: str) -> Any:
        match how:
            case "raise":
                raise RuntimeError("no start today")
            case "stop":
                return Stop("for a reason")
            case "ignore":
                return Ignore()
            case "exit":
                os._exit(9)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "sys.exit":
                sys.exit("no")
            case "hang":
                threading.Event().wait()
        return None


class Stumbles(GenServer):
    """Starts, and fails at once afterwards."""

    def init(self) -> Any:
        return Continue("stumble")

    def handle_continue(self, argument: Any) -> None:
        raise RuntimeError(argument)


class Scripted(GenServer):
    """Starts as a script says, leaves when told, and writes it all down."""

    def init(self, place: str, name: str, outcomes: list[str]) -> Any:
        self.place, self.name, self.leaving = place, name, False
        number = self.append(f"{name}.starts", "x")
        outcome = outcomes[number] if number < len(outcomes) else "ok"
        self.append("log", f"{outcome} {name}\n")
        if outcome == "error":
            raise RuntimeError("refused")
        return Ignore() if outcome == "ignore" else None

    def append(self, file: str, text: str) -> int:
        """Append to a file; return its size before."""
        fd = os.open(f"{self.place}/{file}", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        size = os.fstat(fd).st_size
        os.write(fd, text.encode())
        os.close(fd)
        return size

    def handle_cast(self, reason: Any) -> Stop:
        self.leaving = True
        self.append("log", f"leave {self.name}\n")
        return Stop(reason)

    def terminate(self, reason: Any) -> None:
        if not self.leaving:
            self.append("log", f"stop {self.name} {reason}\n")


class Flaky(GenServer):
    """Does not start as long as a file is there."""

    def init(self, path: str) -> None:
        if os.path.exists(path):
            raise RuntimeError("the file is there")

    def handle_call(self, request: Any, sender: Sender) -> Any:
        return os.getpid()


class Keeper(GenServer):
    """Keeps its count in a memfd, and that in the fd store."""

    def init(self) -> None:
        fd = self.stored_fds().get("count")
        if fd is None:
            fd = os.memfd_create("count", os.MFD_CLOEXEC)
            os.pwrite(fd, b"0", 0)
            self.store_fd("count", fd)
        self.fd = fd

    def handle_call(self, request: Any, sender: Sender) -> Any:
        match request:
            case "add":
                n = int(os.pread(self.fd, 20, 0)) + 1
                os.pwrite(self.fd, str(n).encode(), 0)
                return n
            case "fds":
                return sorted(os.listdir("/proc/self/fd"))
            case ["store", name]:
                reader, writer = os.pipe()
                self.store_fd(name, writer)
                os.close(writer)
                os.close(reader)
            case ["store many", number]:
                self.answers: list[str | None] = []
                for n in range(number):
                    lowlevel.store_fd_later(self, f"{n % 9}", self.fd, self.answers.append)
            case "answers":
                return len(self.answers)
            case ["store what is none", later]:
                with contextlib.suppress(OSError):
                    if later:
                        lowlevel.store_fd_later(self, "none", 1 << 20, lambda _: None)
                    else:
                        self.store_fd("none", 1 << 20)
            case ["drop", name]:
                self.drop_fd(name)
            case "names":
                return sorted(self.stored_fds())
        return None


class Locks(GenServer):
    """Waits for the lock of each file that it is told of."""

    def init(self) -> None:
        self.locked = 0

    def handle_cast(self, request: str) -> None:
        with open(request, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            self.locked += 1

    def handle_call(self, request: Any, sender: Sender) -> int:
        return self.locked


class Starter(GenServer):
    """An actor that starts another one."""

    def init(self) -> None:
        self.other: Ref = Counter.start_link(7)

    def handle_call(self, request: Any, sender: Sender) -> Any:
        return self.other


class Relay(GenServer):
    """Calls, casts and delegates to others."""

    def init(self) -> None:
        self.heard: list[Any] = []
        self.opaque = object()

    def handle_call(self, request: Any, sender: Sender) -> Any:
        match request:
            case ["call"]:
                return "the end"
            case ["call", ref, *others]:
                return self.pass_on(ref, others)
            case ["method", ref, name, *arguments]:
                return getattr(ref, name)(*arguments)
            case ["survive", dying, others]:
                return self.survive(dying, others)
            case ["cast", ref, *others]:
                ref.cast(others)
                return "sent"
            case ["delegate", ref, n]:
                ref.cast([sender, n])
                return NoReply()
            case "heard":
                return self.heard
        return None

    def pass_on(self, ref: Ref, others: list[Ref]) -> Any:
        try:
            return ref.call(["call", *others], timeout=30.0)
        except CallCycle as error:
            return f"CallCycle: {error}"

    def survive(self, dying: Ref, others: list[Ref]) -> list[Any]:
        """Watch an actor, see it die in a call, and then turn to others."""
        self.monitor(dying)
        with contextlib.suppress(ProcessDown):
            dying.call("kill")
        return [ref.call("get") for ref in others]

    def handle_info(self, message: Any) -> None:
        self.heard.append(message)

    def handle_cast(self, request: Any) -> None:
        match request:
            case [Sender() as sender, n]:
                self.reply(sender, n * n)
            case [ref]:
                self.heard.append(self.pass_on(ref, []))


class Linked(GenServer):
    """Links, subscribes, and keeps what it is given."""

    def init(self, *, trap: bool, idle: float | None = None) -> None:
        self.trap_exit = trap
        self.idle_timeout = idle
        self.seen: list[Any] = []

    def handle_call(self, request: Any, sender: Sender) -> Any:
        match request:
            case ["link", ref]:
                self.link(ref)
            case ["unlink", ref]:
                self.unlink(ref)
            case ["subscribe", ref]:
                self.subscribe(ref)
            case ["start", n]:
                return Counter.start_link(n)
            case "seen":
                return self.seen
        return None

    def handle_info(self, message: Any) -> None:
        self.seen.append("idle" if isinstance(message, Timeout) else message)


def seen(ref: Any, number: int) -> list[Any]:
    """Wait until an actor has been given so many messages."""
    eventually(lambda: len(ref.call("seen")) >= number)
    return list(ref.call("seen"))


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
    assert ctypes.CDLL(None, use_errno=True).unshare(0x10000000) == 0
