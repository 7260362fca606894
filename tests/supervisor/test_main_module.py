"""Classes of a program's main module are found in an actor's interpreter."""

import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import SUPPORT
from surroundings import LIVES, run_in

from supervisor import (
    GenServer,
)


def test_a_class_within_a_function_is_told() -> None:
    class Local(GenServer):
        pass

    with pytest.raises(ValueError, match="Local must stand at the top level of a module"):
        Local.start_link()


def packed(directory: Path) -> list[str]:
    with zipfile.ZipFile(directory / "program.pyz", "w") as archive:
        archive.writestr("__main__.py", LIVES)
    return [f"{directory}/program.pyz"]


def in_a_directory(directory: Path) -> list[str]:
    (directory / "program").mkdir()
    (directory / "program" / "__main__.py").write_text(LIVES)
    return [f"{directory}/program"]


def in_a_package(directory: Path) -> list[str]:
    (directory / "program").mkdir()
    (directory / "program" / "__init__.py").touch()
    (directory / "program" / "__main__.py").write_text(LIVES)
    return ["-m", "program"]


def as_a_module(directory: Path) -> list[str]:
    (directory / "program.py").write_text(LIVES)
    return ["-m", "program"]


def by_a_relative_path(directory: Path) -> list[str]:
    (directory / "program.py").write_text(LIVES)
    return ["program.py"]


@pytest.mark.parametrize(
    "kind", [packed, in_a_directory, in_a_package, as_a_module, by_a_relative_path]
)
def test_classes_of_a_main_module_are_found(
    kind: Callable[[Path], list[str]], tmp_path: Path
) -> None:
    command = kind(tmp_path)
    found = run_in(tmp_path, sys.executable, *command, f"{tmp_path}/result", cwd=tmp_path)
    assert (tmp_path / "result").exists(), found.stderr
    assert (tmp_path / "result").read_text() == "as ever"


@pytest.mark.parametrize("command", [["-"], ["-c", LIVES]])
def test_a_main_module_that_is_no_file_is_told(command: list[str], tmp_path: Path) -> None:
    text = LIVES if command == ["-"] else None
    found = run_in(tmp_path, sys.executable, *command, f"{tmp_path}/result", text=text)
    assert "stands in a main module that is no file (a prompt, python -c," in found.stderr
    assert "Remote" not in found.stderr  # nothing was started


def test_a_specification_of_a_class_that_cannot_be_imported_is_refused(tmp_path: Path) -> None:
    code = (
        "from supervisor import ChildSpec, GenServer\n"
        "class C(GenServer): pass\n"
        "try: ChildSpec('c', C)\n"
        "except ValueError as error: print(error)\n"
    )
    found = run_in(tmp_path, sys.executable, "-c", code)
    assert found.stdout.startswith("C stands in a main module that is no file")


def test_an_argument_of_such_a_module_is_told(tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {SUPPORT!r})\n"
        "from actors import Counter\n"
        "class Mine: pass\n"
        "Counter.start_link(Mine())\n"
    )
    found = run_in(tmp_path, sys.executable, "-c", code)
    assert "the program's main module is no file" in found.stderr
