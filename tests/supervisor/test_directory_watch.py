"""The root notices that the runtime directory was removed, and has everybody restore it."""

import os
import pickle
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from actors import Counter
from directories import remove
from processes import PATIENCE, Run, eventually, program
from users import only_one_user

import tuncer
from supervisor import (
    ChildSpec,
    GenServer,
    NoProcess,
    Sender,
    Supervisor,
    linux,
    whereis,
)
from supervisor.client import connections
from supervisor.protocol import restoration
from supervisor.protocol import runtime_dir as runtime
from tuncer import Flag


class Nested(GenServer):
    def handle_call(self, request: Any, sender: Sender) -> int:
        if request == "slowly":
            time.sleep(0.5)
        return os.getpid()


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
    path = os.environ["TUNCER_RUNTIME_DIR"]
    os.rename(path, path + ".away")  # what lives would restore it while it is being removed
    shutil.rmtree(path + ".away")
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
    ref = Counter.start_link(5)
    remove(runtime_dir)
    with program(sys.executable, "-c", CALLS, pickle.dumps(ref).hex()) as caller:
        caller.expect("got 5")


def test_each_removal_is_noticed_however_long_after_the_one_before(runtime_dir: Path) -> None:
    Counter.start_link(5, name="named")
    for _ in range(3):
        remove(runtime_dir)
        assert whereis("named").call("get") == 5
        time.sleep(restoration.PATIENCE)  # the time itself is what matters


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
    away = runtime_dir.rename(f"{runtime_dir}.away")
    runtime_dir.touch()
    shutil.rmtree(away)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: "there is room" in capfd.readouterr().err)
    runtime_dir.unlink()
    assert eventually(lambda: whereis("a")).call("get") == 5
    assert sup.child("b").pid != pid


def test_a_directory_that_is_removed_has_nothing_to_sweep(runtime_dir: Path) -> None:
    runtime.directory()
    shutil.rmtree(runtime_dir)
    runtime.sweep()
    runtime.make_again()
