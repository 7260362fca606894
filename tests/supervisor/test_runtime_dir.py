"""The runtime directory: removed, squatted, swapped, full of nonsense, shared with others."""

import asyncio
import contextlib
import errno
import fcntl
import os
import pickle
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from actors import Counter
from processes import PATIENCE, Run, eventually, program, turns_during
from traffic import send_one
from users import only_one_user, run_as_user

import tuncer
from supervisor import (
    AlreadyRegistered,
    ChildSpec,
    GenServer,
    NoProcess,
    Ref,
    Sender,
    Supervisor,
    linux,
    whereis,
)
from supervisor.client import connections
from supervisor.protocol import registry, restoration
from supervisor.protocol import runtime_dir as runtime
from tuncer import Flag


class Nested(GenServer):
    def handle_call(self, request: Any, sender: Sender) -> int:
        if request == "slowly":
            time.sleep(0.5)
        return os.getpid()


# -- removed ---------------------------------------------------------------------------------------


def remove(directory: Path) -> None:
    """Remove it, though what was there before may just be about to be restored."""
    while directory.exists():
        with contextlib.suppress(OSError):
            shutil.rmtree(directory)
            return


def test_the_living_are_found_again(runtime_dir: Path) -> None:
    inner = ChildSpec("inner", Supervisor, ([ChildSpec("n", Nested, name="nested")],))
    sup = Supervisor.start_link([ChildSpec("c", Counter, (5,), name="named"), inner])
    direct = Counter.start_link(7, name="direct")
    for _ in range(3):
        remove(runtime_dir)
        assert eventually(lambda: whereis("named")).call("get") == 5
        assert eventually(lambda: whereis("direct")).call("get") == 7
        pid = eventually(lambda: whereis("nested")).call("pid")
        assert pid in {ref.pid for _, ref, *_ in sup.child("inner").which_children()}
    assert direct.call("get") == 7


def test_a_directory_that_is_removed_as_it_is_made_again_is_restored(runtime_dir: Path) -> None:
    Counter.start_link(5, name="one")
    Counter.start_link(7, name="other")
    chance = random.Random(1)
    for _ in range(40):  # each root may be anywhere between making it and watching it
        eventually((runtime_dir / "names").is_dir)
        moment = time.monotonic() + chance.uniform(0, 0.002)
        eventually(lambda moment=moment: time.monotonic() >= moment)
        away = f"{runtime_dir}.away"
        runtime_dir.rename(away)
        shutil.rmtree(away)
    assert eventually(lambda: whereis("one")).call("get") == 5
    assert eventually(lambda: whereis("other")).call("get") == 7
    remove(runtime_dir)
    assert eventually(lambda: whereis("one")).call("get") == 5
    assert eventually(lambda: whereis("other")).call("get") == 7


REMOVES = """
import os, shutil, time
from supervisor import GenServer, whereis

if __name__ == "__main__":
    GenServer.start_link(name="named")
    shutil.rmtree(os.environ["TUNCER_RUNTIME_DIR"])
    deadline = time.monotonic() + 20
    while whereis("named") is None:
        assert time.monotonic() < deadline
    print("found again")
"""


@pytest.mark.parametrize("limit", ["max_inotify_instances", "max_inotify_watches"])
def test_the_living_are_found_again_where_inotify_cannot_be_had(
    run: Run, tmp_path: Path, limit: str
) -> None:
    (tmp_path / "program.py").write_text(REMOVES)
    limited = f'echo 0 > /proc/sys/user/{limit} && exec "$0" "$@"'
    become_root = ("unshare", "--user", "--map-root-user", "sh", "-c", limited)
    assert run(*become_root, sys.executable, str(tmp_path / "program.py")) == "found again\n"


CALLS = """
import pickle, sys
ref = pickle.loads(bytes.fromhex(sys.argv[1]))
print("got", ref.call("get"))
"""


def test_an_actor_without_a_name_can_be_called_by_others_again(runtime_dir: Path) -> None:
    import pickle

    ref = Counter.start_link(5)
    remove(runtime_dir)
    with program(sys.executable, "-c", CALLS, pickle.dumps(ref).hex()) as caller:
        caller.expect("got 5")


def test_a_device_goes_on(runtime_dir: Path) -> None:
    with tuncer.create("d0", Flag.TUN | Flag.NO_PI) as device:
        device.up("10.9.0.1/24", link_local=False)
        with device.subscribe() as former:
            remove(runtime_dir)
            with tuncer.attach("d0").subscribe() as later:
                send_one("10.9.0.2")
                assert former.recv(timeout=PATIENCE).data == later.recv(timeout=PATIENCE).data
            assert device.statistics()["restarts"] == 0
            os.kill(device.pid, signal.SIGKILL)
            assert device.statistics()["restarts"] == 1


def test_the_first_look_after_a_removal_finds_everything(runtime_dir: Path) -> None:
    """It comes before the root has made the directory again, and waits for that."""
    Counter.start_link(5, name="named")
    with tuncer.create("d0", Flag.TUN | Flag.NO_PI) as device:
        for look in (
            lambda: whereis("named").call("get") == 5,
            lambda: Ref(name="named").call("get") == 5,
            lambda: device.subscribe().close() is None,
            lambda: tuncer.attach("d0").name == "d0",
            lambda: [found.name for found in tuncer.devices()] == ["d0"],
        ):
            remove(runtime_dir)
            assert look()
    assert whereis("nobody") is None


def test_each_removal_is_noticed_however_long_after_the_one_before(runtime_dir: Path) -> None:
    Counter.start_link(5, name="named")
    for _ in range(3):
        remove(runtime_dir)
        assert whereis("named").call("get") == 5
        time.sleep(restoration.PATIENCE)  # the time itself is what matters


def test_what_is_found_ends_an_absence(runtime_dir: Path) -> None:
    runtime.directory()
    restoration.remember()
    shutil.rmtree(runtime_dir)
    for _ in range(2):
        answers = iter([None, "found"])
        assert restoration.look_up(lambda answers=answers: next(answers)) == "found"
        time.sleep(restoration.PATIENCE)  # the time itself is what matters
    runtime_dir.mkdir()


def test_asyncio_goes_on_while_a_name_is_being_restored(runtime_dir: Path) -> None:
    async def main() -> tuple[Any, int]:
        return await turns_during(Ref(name="named").acall("get"))

    Counter.start_link(5, name="named")
    remove(runtime_dir)
    found, turns = asyncio.run(main())
    assert found == 5
    assert turns > 100


def test_one_directory_in_it_may_be_removed_alone(runtime_dir: Path) -> None:
    Counter.start_link(5, name="named")
    with tuncer.create("d0", Flag.TUN | Flag.NO_PI):
        for part in ("names", "mailboxes", "devices"):
            remove(runtime_dir / part)
            assert tuncer.attach("d0").mtu() == 1500
            assert whereis("named").call("get") == 5


def test_a_copy_in_its_place_is_restored(runtime_dir: Path) -> None:
    ref = Counter.start_link(5, name="named")
    with tuncer.create("d0", Flag.TUN | Flag.NO_PI) as device:
        copy = f"{runtime_dir}.copy"
        subprocess.run(["cp", "--archive", str(runtime_dir), copy], check=True)
        remove(runtime_dir)
        os.rename(copy, runtime_dir)
        path = runtime.mailbox(linux.process(ref.pid))
        eventually(lambda: can_connect(path))
        with program(sys.executable, "-c", CALLS, pickle.dumps(ref).hex()) as caller:
            caller.expect("got 5")
        assert eventually(lambda: [found.name for found in tuncer.devices()]) == ["d0"]
        assert device.statistics()["restarts"] == 0


def can_connect(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as caller:
        return caller.connect_ex(str(path)) == 0


@pytest.mark.parametrize("what", ["a link", "another user's"])
def test_what_is_not_this_users_gets_nothing(what: str, runtime_dir: Path, capfd: Any) -> None:
    if what == "another user's" and only_one_user():
        pytest.skip("there is only one user")
    ref = Counter.start_link(5, name="named")
    assert ref.call("get") == 5
    elsewhere = Path(f"{runtime_dir}.elsewhere")
    for path in (elsewhere, elsewhere / "names", elsewhere / "mailboxes", elsewhere / "devices"):
        path.mkdir(mode=0o700)
    if what != "a link":
        os.chown(elsewhere, 54321, 54321)
    away = f"{runtime_dir}.away"
    runtime_dir.rename(away)
    if what == "a link":
        runtime_dir.symlink_to(elsewhere)
    else:
        elsewhere.rename(runtime_dir)
    shutil.rmtree(away)
    inside = elsewhere if what == "a link" else runtime_dir
    assert whereis("named") is None
    assert not list(inside.glob("*/*"))
    assert ref.call("get") == 5  # an open connection goes on
    if what == "a link":
        runtime_dir.unlink()
        shutil.rmtree(elsewhere)
    else:
        shutil.rmtree(runtime_dir)
    assert eventually(lambda: whereis("named")).call("get") == 5
    capfd.readouterr()


def test_another_process_at_a_mailboxs_path_gets_no_message(runtime_dir: Path) -> None:
    ref = Counter.start_link(5)
    path = runtime.mailbox(linux.process(ref.pid))
    connections.close_all()
    path.unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with pytest.raises(NoProcess, match=f"but process {os.getpid()}"):
            ref.call("get")
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.recv(1) == b""
    path.unlink()
    remove(runtime_dir)
    assert eventually(lambda: path.exists() and ref).call("get") == 5


LISTENS = """
import os, socket, sys
listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
listener.bind(sys.argv[1])
os.chmod(sys.argv[1], 0o666)
os.setresuid(54321, 54321, 54321)
listener.listen()
print("listening", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(only_one_user(), reason="there is only one user")
def test_another_user_at_a_control_sockets_path_is_no_worker() -> None:
    with tuncer.create("d0", Flag.TUN | Flag.NO_PI) as device:
        path = device._path
        away = path.with_name("away")
        path.rename(away)
        with program(sys.executable, "-c", LISTENS, str(path)) as other:
            other.expect("listening")
            with pytest.raises(tuncer.DeviceError, match="user 54321 listens in place of"):
                device.getfd()
        away.rename(path)
        os.close(device.getfd())


def test_an_end_in_order_without_a_directory(runtime_dir: Path) -> None:
    ref = Supervisor.start_link([ChildSpec("c", Counter)])
    pid = ref.child("c").pid
    remove(runtime_dir)
    ref.stop()
    assert not os.path.exists(f"/proc/{pid}")
    runtime_dir.mkdir(exist_ok=True)


def test_a_mailbox_is_restored_beside_those_who_are_connected(runtime_dir: Path) -> None:
    ref = Nested.start_link()
    path = runtime.mailbox(linux.process(ref.pid))
    pending = ref.call_async("slowly")
    remove(runtime_dir)
    eventually(path.exists)
    assert pending.result(PATIENCE) == ref.pid
    eventually(lambda: path.stat().st_mode & 0o777, 0o600)  # bind(2) comes before chmod(2)


def test_a_file_in_its_place_ends_nobody(runtime_dir: Path, capfd: Any) -> None:
    specs = [ChildSpec("a", Counter, (5,), name="a"), ChildSpec("b", Counter)]
    sup = Supervisor.start_link(specs, name="sup")
    pid = sup.child("b").pid
    shutil.rmtree(runtime_dir)
    runtime_dir.touch()
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: "there is room" in capfd.readouterr().err)
    runtime_dir.unlink()
    assert eventually(lambda: whereis("a")).call("get") == 5
    assert sup.child("b").pid != pid


# -- nonsense --------------------------------------------------------------------------------------


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


# -- the lock --------------------------------------------------------------------------------------


def test_a_lock_that_is_held_is_not_waited_for_without_an_end(runtime_dir: Path) -> None:
    runtime.directory()
    fd = os.open(runtime_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        ref = Counter.start_link(name="taken")
        with pytest.raises(AlreadyRegistered):
            Counter.start_link(name="taken")
        assert whereis("taken") == ref
        ref.stop()
        assert whereis("taken") is None
        with tuncer.create("d0", Flag.TUN | Flag.NO_PI) as device:
            assert device.statistics()["restarts"] == 0
    finally:
        os.close(fd)


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


# -- other pid namespaces --------------------------------------------------------------------------

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


# -- where it is -----------------------------------------------------------------------------------


@pytest.fixture(name="short")
def make_short_directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="d"))
    yield path
    shutil.rmtree(path)


def test_a_relative_path_means_what_it_meant_at_first(short: Path) -> None:
    first, second = short / "first", short / "second"
    first.mkdir()
    second.mkdir()
    code = (
        "import os; from supervisor import Supervisor, whereis\n"
        f"sup = Supervisor.start_link([], name='x'); os.chdir({str(second)!r})\n"
        "assert whereis('x').is_alive(); print('found')"
    )
    environment = {**os.environ, "TUNCER_RUNTIME_DIR": "run"}
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=first,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert found.stdout == "found\n", found.stderr
    assert (first / "run" / "names").is_dir()
    assert not (second / "run").exists()


@pytest.mark.parametrize("mask", [0o777, 0o177, 0])
def test_whatever_the_umask_is(short: Path, mask: int) -> None:
    former = os.umask(mask)
    try:
        runtime._made(short / "run")
    finally:
        os.umask(former)
    assert {p.stat().st_mode & 0o777 for p in (short / "run").iterdir()} == {0o700}


def test_root_works_nowhere_where_another_user_can_swap_directories(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, 54321, 54321)
    with pytest.raises(PermissionError, match="where another user than root may swap"):
        runtime._trusted(theirs / "run")
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    with pytest.raises(PermissionError, match="where another user than root may swap"):
        runtime._trusted(open_to_all / "run")
    open_to_all.chmod(0o1777)
    runtime._trusted(open_to_all / "run")


SQUATTED = """
import os
from supervisor import Supervisor
from supervisor.protocol import runtime_dir as runtime
for name in ("TUNCER_RUNTIME_DIR", "XDG_RUNTIME_DIR"):
    os.environ.pop(name, None)
print(runtime.directory())
Supervisor.start_link([]).stop()
"""


def test_a_squatted_directory_is_passed_by(tmp_path: Path) -> None:
    prepare = "mount -t tmpfs none /tmp && chmod 1777 /tmp && mkdir /tmp/tuncer-54321"
    found = run_as_user(SQUATTED, tmp_path, prepare=prepare)
    assert found.stdout.endswith("/tuncer-54321.1\n"), found.stderr


def test_a_root_holds_the_locks_that_cleaning_by_age_respects(runtime_dir: Path) -> None:
    Supervisor.start_link([])
    for path in (runtime_dir, runtime_dir / "names", runtime_dir / "mailboxes"):
        fd = os.open(path, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(fd)


def test_cleaning_by_age_leaves_the_living_alone(run: Run, runtime_dir: Path) -> None:
    """By systemd-tmpfiles itself."""
    ref = Counter.start_link(5, name="aged")
    device = tuncer.create("d0", Flag.TUN | Flag.NO_PI)
    for path in (runtime_dir, *runtime_dir.rglob("*")):
        os.utime(path, (0, 0), follow_symlinks=False)
    rules = runtime_dir / "rules.conf"
    rules.write_text(f"e {runtime_dir} - - - amAM:1h\n")
    run("systemd-tmpfiles", "--clean", str(rules))
    assert whereis("aged") == ref
    assert ref.call("get") == 5
    command = [sys.executable, "-m", "tuncer", "list"]
    assert "d0" in run(*command)
    device.close()
    ref.stop()


def test_a_lock_that_is_removed_meanwhile_is_none(
    runtime_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "_PATIENCE", PATIENCE)
    monkeypatch.setattr(runtime, "_stuck_until", 0.0)  # of a test before this one
    runtime.directory()
    path = runtime_dir / "lock"
    former = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(former, fcntl.LOCK_EX)
    holds, over = threading.Event(), threading.Event()

    def hold() -> None:
        with runtime.lock():
            holds.set()
            over.wait(PATIENCE)

    thread = threading.Thread(target=hold)
    thread.start()
    eventually(lambda: descriptors_of(path) == 2)
    path.unlink()
    present = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(former, fcntl.LOCK_UN)  # it may have waited for this one
    assert holds.wait(PATIENCE)
    with pytest.raises(BlockingIOError):
        fcntl.flock(present, fcntl.LOCK_EX | fcntl.LOCK_NB)
    over.set()
    thread.join()
    os.close(former)
    os.close(present)


def descriptors_of(path: Path) -> int:
    """Return how many descriptors of this process are of a file."""
    found = 0
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found += os.readlink(f"/proc/self/fd/{fd}") == str(path)
    return found


def test_a_directory_that_is_removed_has_nothing_to_sweep(runtime_dir: Path) -> None:
    runtime.directory()
    shutil.rmtree(runtime_dir)
    runtime.sweep()
    runtime.make_again()


def test_too_long_a_path_is_told(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="sockets cannot be named below so long a path") as caught:
        runtime._made(tmp_path / ("x" * 100))
    assert caught.value.errno in {None, errno.ENAMETOOLONG}


def test_an_actor_that_has_ended_is_not_waited_for() -> None:
    ref = Counter.start_link()
    process = linux.process(ref.pid)
    ref.stop()
    with pytest.raises(NoProcess):
        type(ref)(process).call("get")
