"""Whatever process starts them, actors start, live and end as ever, and import no other code."""

import importlib.util
import os
import resource
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import PATIENCE

from supervisor import ChildSpec, GenServer, StartFailed, Supervisor

LIVES = """
import os, signal, sys
from supervisor import ChildSpec, GenServer, Supervisor

class Asked(GenServer):
    def handle_call(self, request, sender):
        return os.getpid()

def main():
    sup = Supervisor.start_link([ChildSpec("a", Asked, name="a")])
    ref = sup.child("a")
    before = ref.call("pid")
    down = ref.monitor()
    os.kill(before, signal.SIGKILL)
    down.wait(20)
    after = sup.child("a").call("pid")
    direct = Asked.start_link()
    direct.call("pid")
    direct.stop()
    sup.stop(timeout=20)
    with open(sys.argv[1], "w") as file:
        file.write("as ever" if before != after else "not restarted")

if __name__ == "__main__":
    main()
"""


def not_made_yet() -> str:
    """Return the path of a runtime directory that the program makes, short enough for sockets."""
    return f"{os.environ['TUNCER_RUNTIME_DIR']}/run"


def ignore(*numbers: signal.Signals) -> Callable[[], object]:
    return lambda: [signal.signal(number, signal.SIG_IGN) for number in numbers]


def block(*numbers: signal.Signals) -> Callable[[], object]:
    return lambda: signal.pthread_sigmask(signal.SIG_BLOCK, numbers)


def in_a_directory_that_has_gone() -> None:
    os.mkdir("gone")
    os.chdir("gone")
    os.rmdir("../gone")


def with_few_descriptors() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))


SURROUNDINGS: dict[str, Callable[[], object]] = {
    "SIGCHLD ignored": ignore(signal.SIGCHLD),
    "SIGTERM, SIGINT, SIGHUP ignored": ignore(signal.SIGTERM, signal.SIGINT, signal.SIGHUP),
    "SIGXCPU ignored": ignore(signal.SIGXCPU),
    "SIGCHLD blocked": block(signal.SIGCHLD),
    "all signals blocked": block(*signal.valid_signals()),
    "umask 0777": lambda: os.umask(0o777),
    "umask 0": lambda: os.umask(0),
    "current directory deleted": in_a_directory_that_has_gone,
    "standard streams closed": lambda: os.closerange(0, 3),
    "standard input closed": lambda: os.close(0),
    "64 descriptors": with_few_descriptors,
    "lowest priority": lambda: os.nice(19),
}


@pytest.mark.parametrize("what", SURROUNDINGS)
def test_actors_live_as_ever(what: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(LIVES)
    result = tmp_path / "result"
    environment = {**os.environ, "TUNCER_RUNTIME_DIR": not_made_yet()}
    subprocess.run(
        [sys.executable, tmp_path / "program.py", result],
        preexec_fn=SURROUNDINGS[what],
        env=environment,
        cwd=tmp_path,
        check=True,
        timeout=PATIENCE,
    )
    assert result.read_text() == "as ever"


def test_without_an_environment(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(LIVES)
    result = tmp_path / "result"
    here = f"TUNCER_RUNTIME_DIR={not_made_yet()}"
    command = [sys.executable, tmp_path / "program.py", result]
    subprocess.run(["env", "-i", here, *command], check=True, timeout=PATIENCE)
    assert result.read_text() == "as ever"


# -- what an actor runs itself ---------------------------------------------------------------------


class Runner(GenServer):
    def handle_call(self, request: Any, sender: Any) -> Any:
        return subprocess.run(request, capture_output=True, text=True, check=False).stdout.strip()


STATUS = ["sh", "-c", "grep -E 'SigBlk|SigIgn' /proc/self/status"]


@pytest.mark.parametrize("supervised", [False, True])
def test_what_an_actor_runs_gets_what_the_program_would_have_given(supervised: bool) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(900, soft), hard))
    try:
        if supervised:
            sup = Supervisor.start_link([ChildSpec("r", Runner)])
            ref = sup.child("r")
        else:
            ref = Runner.start_link()
        for command in (["sh", "-c", "ulimit -Sn; umask; pwd"], STATUS):
            ours = subprocess.run(command, capture_output=True, text=True, check=True)
            assert ref.call(command) == ours.stdout.strip()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_an_actor_that_ignores_an_interrupt_runs_what_does_not(tmp_path: Path) -> None:
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    command = ["sh", "-c", "kill -INT $$; echo ignored"]
    try:
        ref = Runner.start_link()
        os.kill(ref.pid, signal.SIGINT)
        assert ref.call(command) == ""
        signal.signal(
            signal.SIGINT, signal.SIG_IGN
        )  # as of a job in the background: it is passed on
        assert Runner.start_link().call(command) == "ignored"
    finally:
        signal.signal(signal.SIGINT, former)


# -- what is imported ------------------------------------------------------------------------------

PLANTED = "import posix; posix.mkdir(posix.environ[b'PLANTED']); raise SystemExit\n"
STANDARD = ("pickle", "os", "site", "marshal", "select", "socket", "logging", "runpy", "msgpack")


def run(
    tmp_path: Path, *command: str, text: str | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a program with a runtime directory of its own."""
    environment = {
        **os.environ,
        "TUNCER_RUNTIME_DIR": not_made_yet(),
        "PLANTED": str(tmp_path / "planted code has run"),
        **options.pop("env", {}),
    }
    return subprocess.run(
        command,
        input=text,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        **options,
    )


def test_nothing_of_the_current_directory_is_imported(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    for name in STANDARD:
        (here / f"{name}.py").write_text(PLANTED)
    (there / "program.py").write_text(LIVES)
    found = run(tmp_path, sys.executable, f"{there}/program.py", f"{tmp_path}/result", cwd=here)
    assert (tmp_path / "result").read_text() == "as ever", found.stderr
    assert not (tmp_path / "planted code has run").exists()


def test_nothing_of_a_later_current_directory_is_imported(tmp_path: Path) -> None:
    """The empty entry of the path of `python -c` means where it was started."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    for name in STANDARD:
        (here / f"{name}.py").write_text(PLANTED)
    (there / "own.py").write_text(LIVES)
    program = f"import os, own; os.chdir({str(here)!r}); own.main()"
    found = run(tmp_path, sys.executable, "-c", program, f"{tmp_path}/result", cwd=there)
    assert (tmp_path / "result").read_text() == "as ever", found.stderr
    assert not (tmp_path / "planted code has run").exists()


def test_the_standard_library_comes_before_the_programs_directory(tmp_path: Path) -> None:
    """A file there may have the name of a module that the program itself does not import."""
    known = (
        "import sys; from supervisor import GenServer, Supervisor;"
        "Supervisor.start_link([]).stop(); print(*sys.modules)"
    )
    imported = run(tmp_path, sys.executable, "-c", known).stdout.split()
    for name in sys.stdlib_module_names - set(imported):
        if importlib.util.find_spec(name) is not None:  # others are tried by the program itself
            (tmp_path / f"{name}.py").write_text(PLANTED)
    (tmp_path / "program.py").write_text(LIVES)
    found = run(tmp_path, sys.executable, f"{tmp_path}/program.py", f"{tmp_path}/result")
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
    found = run(tmp_path, sys.executable, f"{tmp_path}/program.py", f"{tmp_path}/result")
    assert (tmp_path / "result").read_text() == "as ever", found.stderr


# -- the main module -------------------------------------------------------------------------------


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
    found = run(tmp_path, sys.executable, *command, f"{tmp_path}/result", cwd=tmp_path)
    assert (tmp_path / "result").exists(), found.stderr
    assert (tmp_path / "result").read_text() == "as ever"


@pytest.mark.parametrize("command", [["-"], ["-c", LIVES]])
def test_a_main_module_that_is_no_file_is_told(command: list[str], tmp_path: Path) -> None:
    text = LIVES if command == ["-"] else None
    found = run(tmp_path, sys.executable, *command, f"{tmp_path}/result", text=text)
    assert "main module, which is no file" in found.stderr


SPAWNS = """
import multiprocessing, signal
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])  # else Python's forkserver hangs
from supervisor import GenServer

class Asked(GenServer):
    def handle_call(self, request, sender):
        return "yes"

def work():
    assert Asked.start_link().call("?") == "yes"

if __name__ == "__main__":
    for method in ("fork", "spawn", "forkserver"):
        process = multiprocessing.get_context(method).Process(target=work)
        process.start()
        process.join()
        assert process.exitcode == 0, method
"""


def test_processes_of_multiprocessing_start_actors_too(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(SPAWNS)
    found = run(tmp_path, sys.executable, f"{tmp_path}/program.py")
    assert found.returncode == 0, found.stderr


def test_multiprocessings_start_method_can_still_be_chosen(tmp_path: Path) -> None:
    program = (
        "import multiprocessing, supervisor; supervisor.Supervisor.start_link([]).stop();"
        "multiprocessing.set_start_method('spawn')"
    )
    found = run(tmp_path, sys.executable, "-c", program)
    assert found.returncode == 0, found.stderr


EXECUTABLE = """
import multiprocessing, sys
from supervisor import Supervisor
sys.executable = sys.argv[1]
{heed}
Supervisor.start_link([]).stop()
"""


def test_an_interpreter_that_is_set_is_heeded(tmp_path: Path) -> None:
    program = EXECUTABLE.format(heed="multiprocessing.set_executable(sys.argv[2])")
    found = run(tmp_path, sys.executable, "-c", program, "", sys.executable)
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize("python", ["", "/no/python", "/etc/passwd"])
def test_an_interpreter_that_is_none_is_told(python: str, tmp_path: Path) -> None:
    program = EXECUTABLE.format(heed="multiprocessing.set_executable(sys.argv[1])")
    found = run(tmp_path, sys.executable, "-c", program, python)
    assert f"{python!r} is no Python that can be run" in found.stderr


def test_a_program_that_is_no_interpreter_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from multiprocessing import spawn

    monkeypatch.setattr(spawn, "get_executable", lambda: b"/bin/true")
    with pytest.raises(StartFailed, match="its process, of /bin/true, ended before it served"):
        Runner.start_link()
