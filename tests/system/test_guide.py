"""The guides do what they say: their classes are written down, their sessions typed in."""

import doctest
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"  # this file is run as a program, too
BLOCK = re.compile(r"^```(python|pycon)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("guide", ["supervisor.md", "programs.md", "devices.md", "pipelines.md"])
def test_the_guide(runtime_dir: Path, guide: str) -> None:
    blocks = BLOCK.findall((DOCS / guide).read_text())
    assert len(blocks) > 7
    # Each part of a file is there from its place on: as somebody who follows would have it.
    (runtime_dir / "session.md").write_text(session(blocks))
    done = subprocess.run(
        [sys.executable, "-P", __file__, str(runtime_dir)],
        cwd=runtime_dir,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_readmes_actor(runtime_dir: Path) -> None:
    text = (DOCS.parent / "README.md").read_text()
    (program,) = [code for _, code in BLOCK.findall(text) if "GenServer" in code]
    (runtime_dir / "program.py").write_text(program)
    command = [sys.executable, str(runtime_dir / "program.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    assert (done.returncode, done.stdout) == (0, "5\n"), done.stderr


def session(blocks: list[tuple[str, str]]) -> str:
    """Return all that is typed in, with the growth of the files between."""
    parts = []
    for kind, block in blocks:
        if kind == "python":
            assert re.match(r"# \w+\.py\n", block)
            parts.append(f">>> _grow({block!r})\n")
        else:
            parts.append(block + "\n")
    return "\n".join(parts)


def follow(directory: str) -> int:
    """Type it in."""
    sys.path.insert(0, directory)

    def grow(code: str) -> None:
        name = code.split()[1]
        with Path(directory, name).open("a") as file:
            file.write(code)
        sys.modules.pop(name.removesuffix(".py"), None)

    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    text = Path(directory, "session.md").read_text()
    test = doctest.DocTestParser().get_doctest(text, {"_grow": grow}, "guide", "guide", 0)
    return doctest.DocTestRunner(optionflags=flags).run(test)[0]


if __name__ == "__main__":
    raise SystemExit(follow(sys.argv[1]))
