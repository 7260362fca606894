"""What `tuncer list` shows."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from devices import TUN
from processes import (
    EXAMPLES,
    PATIENCE,
    TUNCER,
    Run,
    eventually,
    heed_ctrl_c,
    program,
    stop,
)
from traffic import send_numbered

import tuncer
from tuncer.cli.output import fitting, rate
from tuncer.node.device_rows import DeviceRow, device_rows


def test_list_shows_what_there_is(run: Run) -> None:
    assert run(TUNCER, "list") == "no devices\n"
    assert json.loads(run(TUNCER, "list", "--json")) == {"schema": 1, "devices": []}
    assert run(TUNCER) == "no devices\n"
    command = [sys.executable, str(EXAMPLES / "ping_responder.py")]
    with program(*command, preexec_fn=heed_ctrl_c) as example:
        example.expect("ping 10.9.0.2")
        (row,) = json.loads(run(TUNCER, "list", "--json"))["devices"]
        assert (row["name"], row["flags"], row["restarts"]) == ("lab0", "TUN|NO_PI", 0)
        assert (row["kind"], row["state"], row["mtu"]) == ("tun", "up", 1500)
        assert row["owner"].endswith(f" {example.process.pid}")
        head, line = run(TUNCER, "list").splitlines()
        cells = dict(zip(head.split("\t"), line.split("\t"), strict=True))
        assert cells["NAME"] == "lab0"
        assert cells["ADDRESSES"].startswith("10.9.0.1/24")
        assert cells["WORKER"] == str(row["workers"][0])
        example.process.send_signal(signal.SIGINT)
        example.process.wait(PATIENCE)


@pytest.mark.slow
def test_list_shows_what_does_not_answer(run: Run) -> None:
    command = [sys.executable, "-m", "tuncer", "list"]
    with tuncer.create("well0", TUN), tuncer.create("hung0", TUN) as hung:
        pid = hung.pid
        stop(pid)
        try:
            found = subprocess.run(command, capture_output=True, text=True, check=False)
            as_json = subprocess.run(
                [*command, "--json"], capture_output=True, text=True, check=False
            )
        finally:
            os.kill(pid, signal.SIGCONT)
        assert found.returncode == as_json.returncode == 1
        assert "well0" in found.stdout
        assert "hung0" in found.stdout
        assert f"hung0: its worker, process {pid}, does not answer" in found.stderr
        rows = {row["name"]: row for row in json.loads(as_json.stdout)["devices"]}
        assert rows["hung0"]["workers"] == [pid]
        assert (rows["hung0"]["state"], rows["hung0"]["read"]) == ("silent", None)
        assert rows["well0"]["read"] == 0
        assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_rates_and_the_last_exit() -> None:
    with tuncer.create("lab0", TUN, queues=2) as dev:
        dev.up("10.9.0.1/24", link_local=False)
        os.kill(dev.pids[1], signal.SIGKILL)
        with dev.subscribe(batch=True), sending("10.9.0.2"):
            row = eventually(lambda: (row := only_row()).rates and row.rates.tx > 0 and row)
        assert row.workers == tuple(dev.pids)
        assert row.last_exit is not None
        assert row.last_exit.reason == "killed"
        assert row.restarts == 1
        dev.down()
        assert only_row().state == "down"


def only_row() -> DeviceRow:
    (row,) = device_rows()
    return row


@contextlib.contextmanager
def sending(address: str) -> Iterator[None]:
    with send_numbered(address, 1000, 100_000) as process:
        try:
            yield
        finally:
            process.kill()


COLUMNS = ("NAME", "STATE", "ADDRESSES")
ROWS = [("lab0", "up", "10.9.0.1/24\nfd00::1/64"), ("a-longer-one", "down", "")]


@pytest.mark.parametrize(
    ("width", "kept"), [(80, [0, 1, 2]), (34, [0, 1, 2]), (33, [0, 2]), (20, [0]), (3, [0])]
)
def test_a_narrow_terminal_does_without_columns(width: int, kept: list[int]) -> None:
    assert fitting(COLUMNS, ROWS, ("STATE", "ADDRESSES"), width) == kept


def test_rates_are_short() -> None:
    assert [rate(n) for n in (None, 0, 999.4, 1000, 12_345, 1.5e6)] == [
        *("", "0", "999", "1.0k", "12.3k", "1.5M"),
    ]


def test_on_a_terminal(run: Run) -> None:
    with tuncer.create("lab0", TUN):
        command = f"COLUMNS=80 {TUNCER} list"
        shown = run("script", "-qec", command, "/dev/null")
        assert "\x1b[31mdown" in shown
        assert max(map(len, re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines())) <= 80
        assert "\x1b[31m" not in run("script", "-qec", f"NO_COLOR=1 {command}", "/dev/null")
