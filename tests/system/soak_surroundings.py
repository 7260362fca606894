"""The whole suite, started from surroundings in which programs really run. Run by ``make soak``."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import ROOT

pytestmark = pytest.mark.timeout(3600)

SIGNALS = (signal.SIGCHLD, signal.SIGPIPE, signal.SIGINT)

# The suite's own log lies above the descriptors that are closed, and below the limit of 64.
SUITE = """
import fcntl, os, shutil, sys
log = fcntl.fcntl(os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT, 0o600), fcntl.F_DUPFD, 50)
if "closed" in sys.argv[2]:
    os.closerange(0, 2)
os.dup2(log, 2)
sys.stdout = sys.stderr = os.fdopen(log, "w", buffering=1)
import pytest

class Deletes:
    def pytest_runtestloop(self):
        if "deleted" in sys.argv[2]:  # pytest itself does not start in a deleted one
            shutil.rmtree(os.getcwd())

sys.exit(pytest.main(sys.argv[3:], plugins=[Deletes()]))
"""


def ignore_signals() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def block_signals() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def in_an_empty_directory() -> None:
    os.chdir(tempfile.mkdtemp())


def limit(which: int, most: int) -> Callable[[], object]:
    return lambda: resource.setrlimit(which, (most, most))


SURROUNDINGS: dict[str, Callable[[], object]] = {
    "signals ignored": ignore_signals,
    "signals blocked": block_signals,
    "umask 0177": lambda: os.umask(0o177),
    "a deleted directory": in_an_empty_directory,
    "stdin and stdout closed": lambda: None,
    "64 descriptors": limit(resource.RLIMIT_NOFILE, 64),
    "64 GiB of addresses": limit(resource.RLIMIT_AS, 64 << 30),  # the largest ring has 9
}


def run_suite(
    what: str, log: Path, *prefix: str, meanwhile: Callable[[], object] = lambda: None
) -> None:
    """Run the suite; fail with its last words.

    Args:
        what: one of the surroundings, or "".
        log: where its output goes.
        *prefix: a command that runs it.
        meanwhile: is called every 5 s.
    """
    suite = [sys.executable, "-c", SUITE, str(log), what, "--rootdir", str(ROOT)]
    options = ["-c", str(ROOT / "pyproject.toml"), "-p", "no:cacheprovider", str(ROOT / "tests")]
    if "closed" not in what and "deleted" not in what:  # xdist's processes have their own
        options += ["-n", "4", "--dist", "worksteal"]
    started = subprocess.Popen(
        [*prefix, *suite, *options],
        env={"PATH": os.environ["PATH"]},
        preexec_fn=SURROUNDINGS.get(what),  # noqa: PLW1509 - no threads here
    )
    while True:
        try:
            status = started.wait(5.0)
            break
        except subprocess.TimeoutExpired:
            meanwhile()
    assert status == 0, log.read_text()[-20_000:]


@pytest.mark.parametrize("what", SURROUNDINGS)
def test_the_suite(what: str, tmp_path: Path) -> None:
    run_suite(what, tmp_path / "log")


def test_the_suite_as_the_first_process(tmp_path: Path) -> None:
    """In a pid namespace of its own, where it is the one to whom orphans come."""
    run_suite("", tmp_path / "log", "unshare", "--pid", "--fork", "--mount-proc")


def test_the_suite_as_an_ordinary_user(tmp_path: Path) -> None:
    """As ``make test`` runs it: root in a user namespace only."""
    run_suite("", tmp_path / "log", "unshare", "--user", "--map-root-user", "--net")


def test_the_suite_beside_one_who_removes_what_is_in_runtime_directories(tmp_path: Path) -> None:
    """Of every test, every 5 s, but for files of the tests themselves."""

    def remove() -> None:
        for place in Path(tempfile.gettempdir()).glob("tuncer-*"):
            for part in ("names", "mailboxes", "devices"):
                shutil.rmtree(place / part, ignore_errors=True)

    run_suite("", tmp_path / "log", meanwhile=remove)
