"""What a new interpreter imports: what the program would, and nothing else."""

import importlib.util
import sys
from pathlib import Path

from surroundings import LIVES, run_in

PLANTED = "import posix; posix.mkdir(posix.environ[b'PLANTED']); raise SystemExit\n"


STANDARD = ("pickle", "os", "site", "marshal", "select", "socket", "logging", "runpy", "msgpack")


def planted(directory: Path) -> tuple[Path, Path]:
    """Return a directory with modules of the standard library's names, and an empty one."""
    here, there = directory / "here", directory / "there"
    here.mkdir()
    there.mkdir()
    for name in STANDARD:
        (here / f"{name}.py").write_text(PLANTED)
    return here, there


def test_nothing_of_the_current_directory_is_imported(tmp_path: Path) -> None:
    here, there = planted(tmp_path)
    (there / "program.py").write_text(LIVES)
    found = run_in(tmp_path, sys.executable, f"{there}/program.py", f"{tmp_path}/result", cwd=here)
    assert (tmp_path / "result").read_text() == "as ever", found.stderr
    assert not (tmp_path / "planted code has run").exists()


def test_nothing_of_a_later_current_directory_is_imported(tmp_path: Path) -> None:
    """The empty entry of the path of `python -c` means where it was started."""
    here, there = planted(tmp_path)
    (there / "own.py").write_text(LIVES)
    program = f"import os, own; os.chdir({str(here)!r}); own.main()"
    found = run_in(tmp_path, sys.executable, "-c", program, f"{tmp_path}/result", cwd=there)
    assert (tmp_path / "result").read_text() == "as ever", found.stderr
    assert not (tmp_path / "planted code has run").exists()


def test_the_standard_library_comes_before_the_programs_directory(tmp_path: Path) -> None:
    """A file there may have the name of a module that the program itself does not import."""
    known = (
        "import sys; from supervisor import GenServer, Supervisor;"
        "Supervisor.start_link([]).stop(); print(*sys.modules)"
    )
    imported = run_in(tmp_path, sys.executable, "-c", known).stdout.split()
    for name in sys.stdlib_module_names - set(imported):
        if importlib.util.find_spec(name) is not None:  # others are tried by the program itself
            (tmp_path / f"{name}.py").write_text(PLANTED)
    (tmp_path / "program.py").write_text(LIVES)
    found = run_in(tmp_path, sys.executable, f"{tmp_path}/program.py", f"{tmp_path}/result")
    assert not (tmp_path / "planted code has run").exists(), found.stderr
    assert (tmp_path / "result").read_text() == "as ever", found.stderr


def test_what_the_program_puts_on_its_path_is_found(tmp_path: Path) -> None:
    (tmp_path / "late").mkdir()
    (tmp_path / "late" / "mine.py").write_text(LIVES)
    (tmp_path / "program.py").write_text(
        "import os, sys\n"
        "sys.path.append(os.path.join(os.path.dirname(__file__), 'late'))\n"
        "import mine\n"
        "mine.main()\n"
    )
    found = run_in(tmp_path, sys.executable, f"{tmp_path}/program.py", f"{tmp_path}/result")
    assert (tmp_path / "result").read_text() == "as ever", found.stderr
