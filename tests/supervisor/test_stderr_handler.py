"""Actors' log records: they go where the program's do, whatever it has configured."""

import subprocess
import sys
from pathlib import Path

import pytest
from processes import PATIENCE

LOGS = """
import logging, os, sys
from supervisor import ChildSpec, GenServer, Supervisor

class Talks(GenServer):
    def handle_call(self, request, sender):
        logging.getLogger("mine").info("from an actor")
        logging.getLogger("quiet").info("not wanted")

    def handle_cast(self, request):
        raise ValueError("a crash")

if __name__ == "__main__":
    options = {} if sys.argv[1] == "stdout" else {"filename": sys.argv[1]}
    if sys.argv[1] == "stdout":
        options["stream"] = sys.stdout
    logging.basicConfig(level=logging.INFO, format="MINE %(name)s %(message)s", **options)
    logging.getLogger("quiet").setLevel(logging.ERROR)
    Talks.start_link().call("x")
    sup = Supervisor.start_link([ChildSpec("t", Talks)])
    sup.child("t").call("x")
    down = sup.child("t").monitor()
    sup.child("t").cast("crash")
    down.wait(20)
    sup.child("t")
"""


@pytest.mark.parametrize("where", ["stdout", "log"])
def test_actors_log_as_the_program_does(where: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(LOGS)
    target = where if where == "stdout" else str(tmp_path / "log")
    found = subprocess.run(
        [sys.executable, tmp_path / "program.py", target],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    said = found.stdout if where == "stdout" else (tmp_path / "log").read_text()
    assert said.count("MINE mine from an actor\n") == 2
    assert "not wanted" not in said
    assert "MINE supervisor child 't' ended: ValueError: a crash; restarting it" in said
    assert found.stderr == ""


CONFIGURED = """
import logging, sys
from supervisor import GenServer

class Plain(logging.Formatter):
    def __init__(self):
        pass

    def format(self, record):
        return record.getMessage()

class Adds(logging.Filter):
    def filter(self, record):
        record.added = "added"
        return True

class Crashes(GenServer):
    def handle_cast(self, request):
        raise ValueError("a crash of its own")

if __name__ == "__main__":
    {configure}
    ref = Crashes.start_link()
    down = ref.monitor()
    ref.cast("crash")
    down.wait(20)
"""


@pytest.mark.parametrize(
    "configure",
    [
        "logging.basicConfig(style='{', format='{levelname}:{message}')",
        "logging.basicConfig(style='$', format='$levelname:$message')",
        "h = logging.StreamHandler(); h.setFormatter(Plain()); logging.getLogger().addHandler(h)",
        "h = logging.StreamHandler(); h.setFormatter(logging.Formatter('%(added)s'));"  # noqa: ISC004 - a line of a program
        " h.addFilter(Adds()); logging.getLogger().addHandler(h)",
        "logging.basicConfig(filename=sys.argv[1], filemode='w')",
    ],
)
def test_however_logging_is_configured_a_crash_is_told(configure: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(CONFIGURED.replace("{configure}", configure))
    found = subprocess.run(
        [sys.executable, tmp_path / "program.py", tmp_path / "log"],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    assert "ValueError: a crash of its own" in found.stderr


def test_levels_hold_without_any_handler(tmp_path: Path) -> None:
    program = CONFIGURED.replace("{configure}", "logging.getLogger('supervisor').setLevel(60)")
    (tmp_path / "program.py").write_text(program)
    found = subprocess.run(
        [sys.executable, tmp_path / "program.py"],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    assert found.stderr == ""
