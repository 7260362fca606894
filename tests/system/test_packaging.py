"""What is published: a wheel and a source distribution, from which everything works."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from processes import ROOT


@pytest.fixture(name="built", scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory with both."""
    place = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(place), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, timeout=55)
    return place


def test_the_wheel_is_installed_and_works(built: Path, tmp_path: Path) -> None:
    """Beside the dependencies that are installed already."""
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {"supervisor/py.typed", "tuncer/py.typed", "tuncer/worker/server.py"} <= set(names)
    assert not [name for name in names if name.startswith(("tests/", "docs/", "examples/"))]
    target = tmp_path / "site"
    install = ["pip", "install", "--quiet", "--no-deps", "--target", str(target), str(wheel)]
    subprocess.run([sys.executable, "-m", *install], check=True, capture_output=True, timeout=55)
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(target)!r})\n"
        "import tuncer, supervisor\n"
        "if __name__ == '__main__':\n"
        "    assert supervisor.__file__.startswith(sys.path[0])\n"
        "    with tuncer.create('lab0', tuncer.Flag.TUN) as dev:\n"
        "        print(dev.mtu())\n"
    )
    command = [sys.executable, str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=55)
    assert done.stdout == "1500\n", done.stderr


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this tree is no repository")
def test_the_source_distribution_has_what_make_needs(built: Path) -> None:
    """Every file that is kept, but those of the repository itself."""
    (source,) = built.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        found = {name.partition("/")[2] for name in archive.getnames()}
    kept = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=True
    ).stdout.split()
    assert {"Makefile", ".ci/packages", ".ci/venv", ".ci/run", "tests/conftest.py"} <= found
    assert set(kept) - found <= {".gitignore"}
