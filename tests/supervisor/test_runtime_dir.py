"""The runtime directory: where it is, who may use it, its lock, cleaning by age."""

import contextlib
import errno
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from actors import Counter
from processes import PATIENCE, Run, eventually
from users import run_as_user

import tuncer
from supervisor import (
    AlreadyRegistered,
    Supervisor,
    whereis,
)
from supervisor.protocol import runtime_dir as runtime
from tuncer import Flag

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


def test_too_long_a_path_is_told(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="sockets cannot be named below so long a path") as caught:
        runtime._made(tmp_path / ("x" * 100))
    assert caught.value.errno in {None, errno.ENAMETOOLONG}
