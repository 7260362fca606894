"""docs/operations.md does what it says, and the units of systemd are right."""

import doctest
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from processes import ROOT

BLOCK = re.compile(r"^```(toml|console)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_END = "end of a command"


def commands(block: str) -> list[tuple[str, str]]:
    """Return what is typed in, and what is printed."""
    found: list[tuple[str, str]] = []
    for line in block.splitlines(keepends=True):
        if line.startswith("$ "):
            found.append((line[2:], ""))
        else:
            found[-1] = found[-1][0], found[-1][1] + line
    return found


def test_the_guide(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with subprocess.Popen(
        ["bash"],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    ) as shell:
        assert shell.stdin is not None
        assert shell.stdout is not None
        checked = 0
        for kind, block in BLOCK.findall(text):
            if kind == "toml":
                (tmp_path / block.split()[1]).write_text(block)
                continue
            for command, wanted in commands(block):
                print(command, file=shell.stdin, end="")
                print(f"echo {_END!r}", file=shell.stdin, flush=True)
                printed = ""
                while (line := shell.stdout.readline()).strip() != _END:
                    assert line, f"{command}: {printed}"
                    printed += line
                flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
                right = doctest.OutputChecker().check_output(wanted, printed, flags)
                assert right, f"{command}printed\n{printed}instead of\n{wanted}"
                checked += 1
        shell.stdin.close()
        shell.wait(20)
    assert checked > 20


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not there")
def test_the_units_of_systemd_are_right(tmp_path: Path) -> None:
    unit = (ROOT / "contrib" / "systemd" / "tuncer@.service").read_text()
    version = subprocess.run(
        ["systemd-analyze", "--version"], capture_output=True, text=True, check=True
    ).stdout.split()[1]
    if int(version.partition(".")[0]) < 253:  # as the unit itself says
        unit = unit.replace("Type=notify-reload", "Type=notify").replace("# With Type=notify: ", "")
    path = tmp_path / "tuncer@.service"
    path.write_text(unit.replace("User=tuncer", "User=root").replace("Group=tuncer", "Group=root"))
    command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(path)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "tuncer" not in found.stderr, found.stderr
