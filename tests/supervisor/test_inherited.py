"""Whatever process starts them, actors start, live and end as ever."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import PATIENCE
from surroundings import LIVES, Runner, not_made_yet

from supervisor import ChildSpec, Supervisor


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
