"""What `tuncer list` shows."""

import json
import os
import signal
import subprocess
import sys

import pytest
from devices import TUN
from processes import (
    EXAMPLES,
    PATIENCE,
    TUNCER,
    Run,
    heed_ctrl_c,
    program,
    stop,
)

import tuncer


def test_list_shows_what_there_is(run: Run) -> None:
    assert run(TUNCER, "list") == "no devices\n"
    assert json.loads(run(TUNCER, "list", "--json")) == []
    command = [sys.executable, str(EXAMPLES / "ping_responder.py")]
    with program(*command, preexec_fn=heed_ctrl_c) as example:
        example.expect("ping 10.9.0.2")
        (row,) = json.loads(run(TUNCER, "list", "--json"))
        assert (row["name"], row["flags"], row["restarts"]) == ("lab0", "TUN|NO_PI", 0)
        assert "lab0" in run(TUNCER, "list")
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
        rows = {row["name"]: row for row in json.loads(as_json.stdout)}
        assert rows["hung0"]["pid"] == pid
        assert rows["hung0"]["read"] is None
        assert rows["well0"]["read"] == 0
        assert subprocess.run(command, capture_output=True, check=False).returncode == 0
