"""SIGUSR1: stacks of an actor, whatever it does, and without an end of it."""

import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
from actors import Counter
from processes import PATHS, PATIENCE, eventually, python

from supervisor import ChildSpec, GenServer, Sender, Supervisor


class Hangs(GenServer):
    def handle_call(self, request: Any, sender: Sender) -> Any:
        time.sleep(request)
        return "woken"


@pytest.mark.parametrize("supervised", [True, False])
def test_an_actor_writes_its_stacks_and_goes_on(
    capfd: pytest.CaptureFixture[str], *, supervised: bool
) -> None:
    if supervised:
        ref = Supervisor.start_link([ChildSpec("h", Hangs)]).child("h")
    else:
        ref = Hangs.start_link()
    future = ref.call_async(0.3)
    ref.pid  # noqa: B018 - it is connected, and so has begun
    said = ""

    def told() -> bool:
        nonlocal said
        os.kill(ref.pid, signal.SIGUSR1)
        said += capfd.readouterr().err
        return "in handle_call" in said

    eventually(told)
    assert future.result(PATIENCE) == "woken"


def test_a_supervisor_writes_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    sup = Supervisor.start_link([ChildSpec("c", Counter)])
    os.kill(sup.pid, signal.SIGUSR1)
    eventually(lambda: "supervisor/actor/loop.py" in capfd.readouterr().err)
    assert sup.child("c").call("get") == 0


def test_nobody_reads_standard_error() -> None:
    code = (
        "import fcntl, os, signal\n"
        "from actors import Counter\n"
        "reader, writer = os.pipe()\n"
        "fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)\n"
        "os.write(writer, b'x' * 4096)\n"
        "kept = os.dup(2)\n"
        "os.dup2(writer, 2)\n"
        "ref = Counter.start_link(7)\n"
        "os.kill(ref.pid, signal.SIGUSR1)\n"
        "assert ref.call('get') == 7\n"
        "ref.stop()\n"
    )
    assert python(code) == ""


@pytest.mark.parametrize("how", ["2>&-", "2>/dev/null", "2>/dev/full"])
def test_without_a_usable_standard_error_it_lives_on(how: str) -> None:
    code = (
        f"{PATHS}"
        "import os, signal\n"
        "from actors import Counter\n"
        "from supervisor import ChildSpec, Supervisor\n"
        "ref = Supervisor.start_link([ChildSpec('c', Counter)]).child('c')\n"
        "os.kill(ref.pid, signal.SIGUSR1)\n"
        "print(ref.call('get'))\n"
    )
    command = ["sh", "-c", f'"$0" -c "$1" {how}', sys.executable, code]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, timeout=50)
    assert done.stdout == "0\n"
