"""Shortage is no crash: restarts wait until there is room, are not counted, and are told once."""

import errno
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from actors import Counter
from processes import PATIENCE, Run, eventually

import tuncer
from supervisor import ChildSpec, GenServer, StartFailed, Supervisor
from tuncer import Flag


class Short(GenServer):
    """Cannot start again as long as a file is there."""

    def init(self, flag: str, number: int) -> None:
        if os.path.exists(flag):
            raise OSError(number, os.strerror(number), "what it needs")

    def handle_call(self, request: Any, sender: Any) -> int:
        return os.getpid()


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENOSPC])
def test_a_start_that_is_short_of_something_is_tried_until_there_is_room(
    number: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    flag = tmp_path / "short"
    sup = Supervisor.start_link([ChildSpec("s", Short, (str(flag), number))], intensity=1)
    events = sup.events()
    flag.touch()
    os.kill(sup.child("s").pid, signal.SIGKILL)
    kinds = [events.next(PATIENCE).kind for _ in range(6)]
    assert kinds == ["exited", *["failed"] * 5]  # one more than would be borne
    flag.unlink()
    assert sup.child("s").call("pid") > 0
    said = capfd.readouterr().err
    assert said.count("tries again until there is room") == 1
    assert re.search(r"'s' has started again, after \d+ attempts", said)


def test_the_first_start_tells_at_once(tmp_path: Path) -> None:
    (tmp_path / "short").touch()
    with pytest.raises(StartFailed, match="Cannot allocate"):
        Supervisor.start_link([ChildSpec("s", Short, (str(tmp_path / "short"), errno.ENOMEM))])


def test_a_device_outlives_a_runtime_directory_that_is_full(
    run: Run, runtime_dir: Path, capfd: Any
) -> None:
    """The device keeps its index and address, and its worker comes back."""
    run("mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=40,mode=700", "tmpfs", str(runtime_dir))
    try:
        with tuncer.create("n0", Flag.TUN | Flag.NO_PI) as device:
            device.up("10.9.0.1/24", link_local=False)
            before, junk = run("ip", "addr", "show", "n0"), []
            try:
                while True:
                    (path := runtime_dir / f"junk{len(junk)}").touch()
                    junk.append(path)
            except OSError:
                pass
            os.kill(device.pid, signal.SIGKILL)
            eventually(lambda: "until there is room" in capfd.readouterr().err)
            assert run("ip", "addr", "show", "n0") == before
            for path in junk:
                path.unlink()
            assert device.statistics()["restarts"] == 1
            assert run("ip", "addr", "show", "n0") == before
    finally:
        run("umount", "-l", str(runtime_dir))


EXIT = """
import os, resource
from supervisor import ChildSpec, GenServer, Supervisor

class Last(GenServer):
    def terminate(self, reason):
        open(os.environ["TERMINATED"], "w").close()

if __name__ == "__main__":
    sup = Supervisor.start_link([ChildSpec("last", Last)])
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    held = []
    try:
        while True:
            held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
"""


def test_a_program_without_a_free_descriptor_ends_its_actors_in_order(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(EXIT)
    environment = {**os.environ, "TERMINATED": str(tmp_path / "terminated")}
    command = [sys.executable, tmp_path / "program.py"]
    found = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (found.returncode, found.stderr) == (0, "")
    assert (tmp_path / "terminated").exists()


def test_the_limit_of_descriptors_is_as_before() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    Supervisor.start_link([ChildSpec("c", Counter)])
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft, hard)
