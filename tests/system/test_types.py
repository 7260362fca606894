"""What mypy says: nothing about programs as the documents show them, and much about mistakes."""

import json
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from processes import EXAMPLES, ROOT

BLOCK = re.compile(r"^```(python|pycon)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def mypy(directory: Path, *files: Path) -> str:
    """Return what mypy says of files, without its summary."""
    cache = str(ROOT / ".mypy_cache")
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", cache, "--no-error-summary"]
    done = subprocess.run(
        [*command, "--allow-redefinition", "--config-file", "", *map(str, files)],
        cwd=directory,
        env={"MYPYPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    return done.stdout + done.stderr


def session(block: str) -> str:
    """Return what is typed in, as a program."""
    typed = [line[4:] for line in block.splitlines() if line[:3] in {">>>", "..."}]
    return "\n".join(typed) + "\n"


README = """\
import asyncio
import tuncer
from supervisor import handler
from tuncer import Flag
flags = tuncer.Flag.TUN | tuncer.Flag.NO_PI
packet = b""
another = b""
pid = fd = 0
async def shown() -> None:
"""


@pytest.mark.timeout(120)
def test_the_documents_and_examples_are_typed(tmp_path: Path) -> None:
    files = list(EXAMPLES.glob("*.py"))
    assert mypy(tmp_path, *files) == ""
    for name in ("devices.md", "supervisor.md", "programs.md", "pipelines.md"):
        directory = tmp_path / name.removesuffix(".md")
        directory.mkdir()
        parts: dict[str, str] = {}
        for kind, block in BLOCK.findall((ROOT / "docs" / name).read_text()):
            file = "session.py" if kind == "pycon" else block.split()[1]
            parts[file] = parts.get(file, "") + (session(block) if kind == "pycon" else block)
        for file, content in parts.items():
            (directory / file).write_text(content)
        assert mypy(directory, *directory.glob("*.py")) == "", name


@pytest.mark.timeout(120)
def test_the_readmes_loops_are_typed(tmp_path: Path) -> None:
    blocks = BLOCK.findall((ROOT / "README.md").read_text())
    for number, (_, block) in enumerate(blocks):
        path = tmp_path / f"block{number}.py"
        if "(GenServer)" in block or "(Stage)" in block:
            path.write_text(block)
        else:
            path.write_text(README + textwrap.indent(block, "    "))
    assert mypy(tmp_path, *tmp_path.glob("block*.py")) == ""


MISTAKES = """\
import tuncer
from supervisor import ChildSpec, GenServer, Pool, Ref, Stop, Supervisor, handler, named, whereis

class Counter(GenServer):
    @handler
    def add(self, n: int, *, note: str = "") -> int:
        return n

    @handler
    def maybe(self) -> str | Stop:
        return Stop()

    def hidden(self) -> None: ...

class Other(GenServer):
    @handler
    def add(self, n: int) -> bytes:
        return b""

counter = Counter.start_link()
sup = Supervisor.start_link([ChildSpec("c", Counter)])
pool = Pool.start_link(ChildSpec("c", Counter), size=2)

async def right(ref: Ref) -> None:
    reveal_type(counter)  # supervisor.client.ref.Ref[block.Counter]
    reveal_type(counter.call(Counter.add, 5))  # int
    reveal_type(counter.call(Counter.maybe))  # str
    reveal_type(counter.within(1.0, retry=2.0).call(Counter.add, n=5, note="x"))  # int
    reveal_type(await counter.acall(Counter.add, 5))  # int
    reveal_type(await counter.call_async(Counter.add, 5))  # int
    reveal_type(counter.call_async(Counter.add, 5).result())  # int
    reveal_type(counter.call("get", timeout=1.0))  # Any
    reveal_type(sup.child("c", Counter).call(Counter.add, 5))  # int
    reveal_type(sup.start_child(ChildSpec("d", Other)).call(Other.add, 5))  # bytes
    reveal_type(named("c", Counter).call(Counter.add, 5))  # int
    reveal_type(pool.call(Counter.add, 5))  # int
    reveal_type(sup.which_children()[0].ref)  # supervisor.client.ref.Ref[Any] | None
    reveal_type(ref.call(Counter.add, 5))  # int
    found = whereis("c", Counter)
    if found is not None:
        counter.cast(Counter.add, found.call(Counter.add, 5))

async def wrong() -> None:
    counter.call(Counter.add, "5")  # error
    counter.call(Counter.add)  # error
    counter.call(Counter.add, 5, 6)  # error
    counter.call(Counter.add, m=5)  # error
    counter.call(Other.add, 5)  # error
    counter.cast(Counter.add, "5")  # error
    await counter.acall(Counter.add, "5")  # error
    counter.call_async(Counter.add, "5")  # error
    pool.call(Other.add, 5)  # error
    sup.child("c", Counter).call(Counter.add, "5")  # error
    text: str = counter.call(Counter.add, 5)  # error
    counter.call(Counter.add, 5, timeout=1.0)  # error

def devices(dev: tuncer.Device) -> None:
    for packet in dev.subscribe():
        reveal_type(packet.data)  # bytes
    for batch in dev.subscribe(batch=True):
        reveal_type(batch)  # tuncer.protocol.batch.Batch
    for either in dev.subscribe(events=True):
        if isinstance(either, tuncer.DeviceEvent):
            reveal_type(either.kind)  # str
"""


@pytest.mark.timeout(120)
def test_mistakes_are_found_and_types_are_known(tmp_path: Path) -> None:
    path = tmp_path / "block.py"
    path.write_text(MISTAKES)
    lines = MISTAKES.splitlines()
    pattern = r"^block\.py:(\d+): (error|note: Revealed type is \"(.*?)\")"
    said = re.findall(pattern, mypy(tmp_path, path), re.MULTILINE)
    errors = [int(line) for line, what, _ in said if what == "error"]
    assert errors == [n for n, line in enumerate(lines, 1) if line.endswith("# error")]
    types = {int(line): kind for line, what, kind in said if what != "error"}
    expected = {
        n: line.partition("  # ")[2] for n, line in enumerate(lines, 1) if "reveal_type" in line
    }
    assert types == expected


NODE = ROOT / ".node" / "node_modules"


@pytest.mark.timeout(120)
def test_pyright_finds_the_same_mistakes(tmp_path: Path) -> None:
    if not (NODE / "pyright").exists() or shutil.which("node") is None:
        pytest.skip("node, and its package pyright, are not there")
    (tmp_path / "block.py").write_text(MISTAKES)
    options = {"extraPaths": [str(ROOT)], "typeCheckingMode": "strict", "pythonVersion": "3.11"}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(options))
    done = subprocess.run(
        [str(NODE / ".bin" / "pyright"), "--pythonpath", sys.executable, "--outputjson"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    found = json.loads(done.stdout)["generalDiagnostics"]
    errors = {one["range"]["start"]["line"] for one in found if one["severity"] == "error"}
    lines = enumerate(MISTAKES.splitlines())
    assert errors == {number for number, line in lines if line.endswith("# error")}
