"""`tuncer dump`: lines, captures, pipes, full disks, and devices that go."""

import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from devices import OTHER, TUN, kill_worker
from processes import TUNCER, Program, Run, eventually, heed_ctrl_c, program, state
from traffic import send_numbers, send_one

import tuncer
from tuncer import Device
from tuncer.protocol import pcapng


def texts(path: Path) -> list[int]:
    """Return the numbers in a capture of ``send_numbers``."""
    with path.open("rb") as file:
        return [int(record.data[28:]) for record in pcapng.read(file, str(path))]


def dumping(dev: Device, *arguments: str, **options: Any) -> Any:
    """Run `tuncer dump` beside the test."""
    command = [TUNCER, "dump", dev.name, *arguments]
    return program(*command, preexec_fn=heed_ctrl_c, **options)


def subscribed(dev: Device, count: int = 1) -> None:
    eventually(lambda: dev.statistics()["subscribers"], count)


def interrupt(dumped: Program, number: int = signal.SIGINT) -> str:
    """Send a signal; return what else was printed."""
    dumped.process.send_signal(number)
    rest: str = dumped.process.communicate(timeout=20)[0]
    assert dumped.process.returncode == 0, rest
    return rest


def test_lines_until_ctrl_c(dev: Device) -> None:
    with dumping(dev) as dumped:
        subscribed(dev)
        send_one(OTHER, b"hello")
        line = dumped.expect("UDP")
        assert line.endswith(f"> {OTHER}.9: UDP, length 5\n")
        assert line[2] == line[5] == ":"
        assert interrupt(dumped) == "1 packets captured, 0 lost\n"


@pytest.mark.parametrize(
    ("options", "begins"),
    [
        (["-t"], r"IP 10"),
        (["-tt"], r"\d{10}\.\d{6} IP"),
        (["-ttt"], r"0\.000000 IP"),
        (["-tttt"], r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6} IP"),
    ],
)
def test_times(dev: Device, options: list[str], begins: str) -> None:
    with dumping(dev, "-n", "-c1", *options) as dumped:
        subscribed(dev)
        send_one(OTHER)
        found = dumped.process.communicate(timeout=20)[0]
    assert re.match(begins, found), found


def test_a_filter_may_stand_behind_options(dev: Device) -> None:
    with dumping(dev, "-c", "2", "--json", "-x", "udp", "and", "greater", "34") as dumped:
        subscribed(dev)
        for payload in (b"short", b"long enough", b"long enough too"):
            send_one(OTHER, payload)
        said = dumped.process.communicate(timeout=20)[0]
    first, second, rest = said.splitlines()
    assert rest == "2 packets captured, 0 lost"
    found = [json.loads(line) for line in (first, second)]
    assert [one["seq"] for one in found] == [1, 2]
    assert bytes.fromhex(found[0]["data"])[28:] == b"long enough"
    assert {one["schema"] for one in found} == {1}
    assert found[0]["text"].endswith("UDP, length 11")


def test_a_capture_into_a_pipe(dev: Device) -> None:
    """Each packet arrives at once, and nothing else does."""
    command = [TUNCER, "dump", "lab0", "-w", "-", "-s", "20"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        records: Iterator[Any] = pcapng.read(process.stdout)  # type: ignore[arg-type]
        subscribed(dev)
        for _ in range(3):
            send_one(OTHER, b"hello")
            record = next(records)
            assert (record.interface, len(record.data)) == ("lab0", 20)
        process.send_signal(signal.SIGTERM)
        assert next(records, None) is None
        assert process.stderr.read() == b"3 packets captured, 0 lost\n"
    assert process.returncode == 0


def test_tshark_reads_a_pipe(dev: Device, run: Run) -> None:
    wanted = "frame.interface_name", "frame.len", "udp.dstport"
    fields = " ".join(f"-e {one}" for one in wanted)
    pipeline = f"{TUNCER} dump lab0 -c 3 -w - | tshark -r - -T fields {fields}"
    command = ["sh", "-c", pipeline]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        subscribed(dev)
        send_numbers(0, 3)
        assert process.communicate(timeout=50)[0].splitlines() == ["lab0\t29\t9"] * 3


def test_whoever_has_read_enough_may_go(dev: Device) -> None:
    for arguments in ([], ["-w", "-"]):
        command = [TUNCER, "dump", "lab0", *arguments]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            subscribed(dev)
            process.stdout.close()
            send_one(OTHER)
            said = process.stderr.read()
        assert process.returncode == 0
        assert said == "0 packets captured, 0 lost\n"
        subscribed(dev, 0)


def test_a_reader_that_has_stopped_does_not_hold_up_the_end(dev: Device) -> None:
    for arguments in (["-x"], ["-w", "-"]):
        command = [TUNCER, "dump", "lab0", *arguments]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            subscribed(dev)
            for _ in range(200):  # more than a pipe has room for
                send_one(OTHER, bytes(1000))
            eventually(lambda: state(process.pid), "S")
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        subscribed(dev, 0)


def test_a_closed_standard_output_is_no_socket(dev: Device) -> None:
    for arguments in (["dump", "lab0", "-c", "1"], ["dump", "lab0", "-c1", "-w", "-"], ["list"]):
        command = ["sh", "-c", 'exec "$@" >&-', "sh", TUNCER, *arguments]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            if arguments[0] == "dump":
                subscribed(dev)
                send_one(OTHER)
            assert process.stderr is not None
            assert "Traceback" not in process.stderr.read()
        assert process.returncode == 0
        assert "malformed" not in str(dev.statistics())


def test_files_by_size(dev: Device, tmp_path: Path) -> None:
    path = tmp_path / "day.pcapng"
    (tmp_path / "day-00002.pcapng").write_text("of an earlier run")
    with dumping(dev, "-w", str(path), "-C", "1", "-c1500", "--comment", "a day") as dumped:
        subscribed(dev)
        payload = bytes(1000)
        for _ in range(1500):
            send_one(OTHER, payload)
        dumped.process.wait(20)
    files = sorted(tmp_path.glob("day-*"))
    assert [file.name[4:9] for file in files] == ["00002", "00003", "00004"]
    assert files[0].read_text() == "of an earlier run"
    counts = []
    for file in files[1:]:
        assert b"a day" in file.read_bytes()[:60]
        with file.open("rb") as opened:
            counts.append(len(list(pcapng.read(opened))))
    assert sum(counts) == 1500
    assert 1_000_000 <= files[1].stat().st_size < 1_300_000


def test_a_named_pipe(dev: Device, tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    found: list[bytes] = []
    reading = threading.Thread(target=lambda: found.append(path.read_bytes()))
    reading.start()
    with dumping(dev, "-w", str(path), "-c", "1") as dumped:
        subscribed(dev)
        send_one(OTHER)
        dumped.process.wait(20)
    reading.join()
    assert found[0].startswith(b"\n\r\r\n")


def test_a_full_disk_is_an_error_and_what_was_written_stays(dev: Device, tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(tmp_path)], check=True)
    path = tmp_path / "full.pcapng"
    try:
        with dumping(dev, "-w", str(path)) as dumped:
            subscribed(dev)
            for number in range(3000):
                send_one(OTHER, b"%d" % number)
            said = dumped.process.communicate(timeout=20)[0]
        assert dumped.process.returncode == 1
        assert "No space left on device" in said
        assert texts(path) == list(range(len(texts(path))))
        assert len(texts(path)) > 100
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_over_a_kill_of_the_worker(dev: Device, tmp_path: Path) -> None:
    path = tmp_path / "kill.pcapng"
    with dumping(dev, "-w", str(path), "-c", "200") as dumped:
        subscribed(dev)
        send_numbers(0, 100)
        kill_worker(dev)
        send_numbers(100, 200)
        said = dumped.process.communicate(timeout=20)[0]
    assert said == "200 packets captured, 0 lost\n"
    assert texts(path) == list(range(200))


def test_lost_packets_are_told(dev: Device, tmp_path: Path) -> None:
    """Also those before packets that a filter leaves out."""
    path = tmp_path / "lost.pcapng"
    with tuncer.create("few0", TUN, log_packets=128) as few:
        few.up("10.7.0.1/24", link_local=False)
        with dumping(few, "-w", str(path), "less", "30") as dumped:
            subscribed(few)
            dumped.process.send_signal(signal.SIGSTOP)
            for number in range(1000):
                send_one("10.7.0.2", b"%d" % number)
            eventually(lambda: few.statistics()["packets_read"], 1000)
            dumped.process.send_signal(signal.SIGCONT)
            send_one("10.7.0.2", b"7")
            eventually(lambda: path.exists() and texts(path)[-1:] == [7])
            said = interrupt(dumped)
    captured, lost = (int(word) for word in said.split() if word.isdigit())
    assert captured >= 1
    assert lost >= 800
    assert lost.to_bytes(8, "little") in path.read_bytes()


def test_the_device_ends(run: Run) -> None:
    with tuncer.create("lab0", TUN) as dev, dumping(dev) as dumped:
        subscribed(dev)
        dev.destroy()
        said = dumped.process.communicate(timeout=20)[0]
        assert said == "tuncer: lab0 has ended\n0 packets captured, 0 lost\n"
        assert dumped.process.returncode == 0
    with tuncer.create("lab0", TUN) as dev, dumping(dev) as dumped:
        subscribed(dev)
        run("ip", "link", "delete", "lab0")
        said = dumped.process.communicate(timeout=20)[0]
        assert "deleted" in said
        assert dumped.process.returncode == 1


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["lab1"], 1, "lab1: there is no such device: did you mean lab0?"),
        (["xyz"], 1, "xyz: there is no such device: there is lab0"),
        (["lab0", "no", "filter"], 2, "'no filter' is no filter expression"),
        (["lab0", "-C", "5"], 2, "-C and -G begin files: give the first one's name by -w"),
        (["lab0", "--json", "-w", "-"], 2, "--json and -w exclude one another"),
        (["lab0", "-w", "/nowhere/x"], 1, "/nowhere/x: No such file or directory"),
        (["lab0", "-c", "0"], 2, "0 is not above 0"),
        (["lab0", "-s", "-1"], 2, "-1 is no number of bytes"),
        (["lab0", "udp", "--wat"], 2, "unrecognized arguments: --wat"),
    ],
)
def test_what_is_wrong_is_said(dev: Device, arguments: list[str], status: int, says: str) -> None:
    command = [TUNCER, "dump", *arguments]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    assert says in found.stderr
    assert found.returncode == status


def test_without_a_name_there_is_one_device() -> None:
    found = subprocess.run([TUNCER, "dump"], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (1, "tuncer: this user has no devices\n")
    with tuncer.create("lab0", TUN), tuncer.create("lab2", TUN):
        found = subprocess.run([TUNCER, "dump"], capture_output=True, text=True, check=False)
        assert found.stderr == "tuncer: which device? there are lab0, lab2\n"
