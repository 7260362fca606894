"""Names and mailboxes' files: one process gets a name, and what the dead have left goes."""

import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from actors import Counter
from processes import PATIENCE

from supervisor import (
    AlreadyRegistered,
    GenServer,
    StartFailed,
    Supervisor,
    linux,
    whereis,
)
from supervisor.protocol import registry
from supervisor.protocol import runtime_dir as runtime


class FailsSlowly(GenServer):
    def init(self) -> None:
        raise ValueError("no")

    def terminate(self, reason: Any) -> None:
        time.sleep(0.2)


def test_the_name_of_a_start_that_failed_is_free_again() -> None:
    for _ in range(5):
        with pytest.raises(StartFailed):
            FailsSlowly.start_link(name="taken")
        Counter.start_link(name="taken").stop()


def test_whoever_has_the_name_is_told() -> None:
    ref = Counter.start_link(5, name="taken")
    with pytest.raises(AlreadyRegistered, match="'taken' belongs to process") as caught:
        Counter.start_link(name="taken")
    assert caught.value.ref.call("get") == 5
    assert caught.value.ref.pid == ref.pid


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


@pytest.mark.parametrize("content", ["", "x", "1", "1 2 3 4 5", "\0" * 100, "-1 -1", "1 x"])
def test_a_names_file_of_nonsense_is_nobodys(runtime_dir: Path, content: str) -> None:
    runtime.directory()
    (runtime_dir / "names" / "taken").write_text(content)
    (runtime_dir / "names" / ".x").write_text(content)
    (runtime_dir / "mailboxes" / "x.y").write_text(content)
    assert whereis("taken") is None
    assert registry.names() == {}
    ref = Counter.start_link(name="taken")
    assert whereis("taken") == ref
    ref.stop()
    Supervisor.start_link([]).stop()
    (runtime_dir / "names" / ".x").unlink()
    (runtime_dir / "mailboxes" / "x.y").unlink()


def test_links_are_not_followed(runtime_dir: Path, tmp_path: Path) -> None:
    runtime.directory()
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (runtime_dir / "lock").symlink_to(victim)
    with pytest.raises(OSError, match="Too many levels"), runtime.lock():
        pass
    assert victim.read_text() == "mine"


def test_one_of_many_gets_a_name(runtime_dir: Path) -> None:
    """Also while the lock is held by somebody else."""
    runtime.directory()
    fd = os.open(runtime_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        sleepers = [subprocess.Popen(["sleep", "100"]) for _ in range(8)]
        who = [linux.process(sleeper.pid) for sleeper in sleepers]
        won: list[int] = []

        def register(number: int) -> None:
            try:
                registry.register("contended", who[number])
                won.append(number)
            except AlreadyRegistered:
                return

        threads = [threading.Thread(target=register, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert registry.lookup("contended") == who[won[0]]
    finally:
        os.close(fd)
        for sleeper in sleepers:
            sleeper.kill()
            sleeper.wait()
    assert registry.names() == {}


SHARES = """
import os, sys
from supervisor import AlreadyRegistered, GenServer, Supervisor, whereis

class Asked(GenServer):
    def handle_call(self, request, sender):
        return os.getpid()

if __name__ == "__main__":
    assert whereis("outside") is None  # it is not told
    try:
        Asked.start_link(name="outside")
    except AlreadyRegistered:
        print("taken")
    Supervisor.start_link([], name="inside").stop()
    print("served", Asked.start_link().call("pid") > 0)
"""


def test_the_living_of_another_pid_namespace_stay(runtime_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(SHARES)
    ref = Counter.start_link(5, name="outside")
    other = Counter.start_link(6)
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable]
    found = subprocess.run(
        [*command, f"{tmp_path}/program.py"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert found.stdout == "taken\nserved True\n", found.stderr
    for mailbox in (ref, other):
        assert runtime.mailbox(linux.process(mailbox.pid)).exists()
    found_again = whereis("outside")
    assert found_again is not None
    assert found_again.call("get") == 5


def test_what_another_pid_namespace_has_left_goes_when_it_is_old(runtime_dir: Path) -> None:
    runtime.directory()
    old, new, open_one = (runtime_dir / "mailboxes" / f"{n}.5.99" for n in (1, 2, 3))
    listeners = []
    for path in (old, new, open_one):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        if path is open_one:
            listener.listen()
        listeners.append(listener)
    for path in (old, open_one):
        os.utime(path, (0, 0))
    runtime.sweep()
    assert [path.exists() for path in (old, new, open_one)] == [False, True, True]
    for listener, path in zip(listeners, (old, new, open_one), strict=True):
        listener.close()
        path.unlink(missing_ok=True)


def test_a_mailbox_of_no_number_is_nobodys(runtime_dir: Path) -> None:
    runtime.directory()
    strange = runtime_dir / "mailboxes" / "\N{SUPERSCRIPT TWO}.1"
    strange.touch()
    runtime.sweep()
    strange.unlink()
