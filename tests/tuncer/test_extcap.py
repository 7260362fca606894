"""`tuncer-extcap`: Wireshark's own tshark lists devices by it, and captures."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from devices import OTHER, TAP, TUN
from processes import Run, eventually
from traffic import send_one

import tuncer
from tuncer import Device, doctor, extcap
from tuncer.protocol import pcapng

EXTCAP = str(Path(sys.executable).with_name("tuncer-extcap"))


def said(*arguments: str, status: int = 0, **environment: str) -> str:
    found = subprocess.run(
        [EXTCAP, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
        timeout=50,
    )
    assert found.returncode == status, found
    return found.stdout + found.stderr


def test_devices_are_listed() -> None:
    assert "interface" not in said("--extcap-interfaces", "--extcap-version=4.0")
    with tuncer.create("lab0", TUN), tuncer.create("tap0", TAP, queues=2):
        listed = said("--extcap-interfaces", "--extcap-version=4.0")
        assert re.findall(r"interface \{value=tuncer:(\w+)\}", listed) == ["lab0", "tap0"]
        assert "{number=101}" in said("--extcap-interface", "tuncer:lab0", "--extcap-dlts")
        assert "{number=1}" in said("--extcap-interface", "tuncer:tap0", "--extcap-dlts")
        assert said("--extcap-interface", "tuncer:tap0", "--extcap-config") == ""
    assert "interface" not in said("--extcap-interfaces")


def test_a_device_in_another_namespace_is_listed(run: object) -> None:
    with tuncer.create("lab0", TUN):
        found = subprocess.run(
            ["unshare", "--net", EXTCAP, "--extcap-interfaces"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert re.search(r"tuncer:[0-9a-f]+-\d+\}", found)


@pytest.mark.parametrize("which", ["explicit", "session", "neither"])
def test_the_directory_is_the_one_that_actors_use(which: str) -> None:
    environment = dict(os.environ)
    for name in ("TUNCER_RUNTIME_DIR", "XDG_RUNTIME_DIR"):
        environment.pop(name, None)
    program = (
        "import json, os\n"
        "from supervisor.lowlevel import runtime_dir\n"
        "from tuncer import extcap\n"
        "made = str(runtime_dir.directory())\n"
        "there = [path for path in extcap._runtime_directories() if os.path.isdir(path)]\n"
        "print(json.dumps([made, there[0]]))\n"
    )
    command = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /run && exec "$0" "$@"']
    with tempfile.TemporaryDirectory() as directory:  # pytest's is too long for sockets
        if which == "explicit":
            environment["TUNCER_RUNTIME_DIR"] = f"{directory}/own"
        if which == "session":
            environment["XDG_RUNTIME_DIR"] = directory
        found = subprocess.run(
            [*command, sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
        )
    made, looked = json.loads(found.stdout)
    assert made == looked


def test_it_lists_by_the_standard_library_alone() -> None:
    """To import what devices need takes longer than Wireshark should wait."""
    program = "import sys; import tuncer.extcap; print([m for m in sys.modules if '.' not in m])"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    found = set(re.findall(r"'(\w+)'", loaded.stdout))
    assert not found & {"zmq", "msgpack", "rich", "supervisor", "asyncio", "multiprocessing"}
    assert "tuncer" in found


def test_a_directory_of_somebody_else_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "devices").mkdir()
    os.chown(tmp_path, 12345, 12345)
    assert "interface" not in said("--extcap-interfaces", TUNCER_RUNTIME_DIR=str(tmp_path))


def test_a_capture_into_the_pipe(dev: Device, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    found = bytearray()

    def read() -> None:
        with fifo.open("rb", buffering=0) as pipe:
            while some := pipe.read(4096):
                found.extend(some)

    reading = threading.Thread(target=read)
    reading.start()
    command = ["--capture", "--extcap-interface", "tuncer:lab0", "--fifo", str(fifo)]
    with subprocess.Popen([EXTCAP, *command, "--extcap-capture-filter", "udp and less 40"]) as it:
        eventually(lambda: dev.statistics()["subscribers"])
        send_one(OTHER, bytes(100))
        send_one(OTHER, b"hello")
        eventually(lambda: b"hello" in found)
        it.send_signal(signal.SIGTERM)
    reading.join()
    assert it.returncode == 0
    assert [len(record.data) for record in pcapng.read(io.BytesIO(found))] == [33]


def in_wiresharks_place(directory: Path, *command: str) -> list[str]:
    """Return a command that sees a directory where Wireshark looks for such programs."""
    place = extcap.place()
    assert place is not None, "tshark is not there"
    script = 'mkdir -p "$2" && mount --bind "$1" "$2" && shift 2 && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", script, "sh", str(directory), str(place), *command]


def test_a_filter_is_no_option(dev: Device, tmp_path: Path) -> None:
    for wanted in ("-w other", "--json", "-c1"):
        command = ["--capture", "--extcap-interface", "tuncer:lab0", "--fifo", "/dev/null"]
        found = said(*command, f"--extcap-capture-filter={wanted}", status=2)
        assert "is no filter expression" in found
    found = said("--capture", "--extcap-interface", "tuncer:-w", "--fifo", "/dev/null", status=1)
    assert "-w: there is no such device" in found


def test_tshark_captures_live(dev: Device, tmp_path: Path, run: Run) -> None:
    assert "Wireshark lists the devices" in run(*in_wiresharks_place(tmp_path, EXTCAP, "--install"))
    assert "tuncer:lab0 (tuncer device lab0)" in run(*in_wiresharks_place(tmp_path, "tshark", "-D"))
    arguments = ["-i", "tuncer:lab0", "-c", "2", "-T", "fields", "-e", "udp.length"]
    command = in_wiresharks_place(tmp_path, "tshark", *arguments)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as tshark:
        eventually(lambda: dev.statistics()["subscribers"])
        send_one(OTHER, b"one")
        send_one(OTHER, b"three")
        assert tshark.communicate(timeout=50)[0].split() == ["11", "13"]
    assert tshark.returncode == 0


def test_filters_are_checked_for_wireshark(dev: Device) -> None:
    def checked(expression: str) -> str:
        return said("--extcap-interface", "tuncer:lab0", "--extcap-capture-filter", expression)

    assert checked("udp port 53") == ""
    assert "is no filter expression" in checked("udp porst 53")


def test_what_is_wrong_is_said(dev: Device) -> None:
    assert "see --help" in said(status=2)
    assert "needs --fifo" in said("--extcap-interface", "tuncer:lab0", "--capture", status=2)
    capture = ["--capture", "--fifo", "/dev/null", "--extcap-interface"]
    assert "there is no such device" in said(*capture, "tuncer:lab1", status=1)


def test_doctor_knows_whether_it_is_installed(tmp_path: Path, run: Run) -> None:
    program = "from tuncer import doctor; print(*doctor._wireshark(), sep='\\n')"

    def found() -> list[str]:
        command = in_wiresharks_place(tmp_path, sys.executable, "-c", program)
        return run(*command).splitlines()

    level, _, text, mend = found()
    assert (level, mend[:29]) == ("warn", "type 'tuncer-extcap --install")
    assert text.startswith("it does not list devices")
    link = tmp_path / "tuncer-extcap"
    link.symlink_to(EXTCAP)
    assert found()[0] == "ok"
    link.unlink()
    link.symlink_to("/bin/true")
    assert found()[2].startswith("it runs another one")


def test_doctor_where_there_is_no_wireshark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert doctor._wireshark().level == "ok"
