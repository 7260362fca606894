"""Programs of which the surroundings are strange: signals, directories, streams, paths."""

import os
import subprocess
from pathlib import Path
from typing import Any

from processes import PATIENCE

from supervisor import GenServer

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


class Runner(GenServer):
    def handle_call(self, request: Any, sender: Any) -> Any:
        return subprocess.run(request, capture_output=True, text=True, check=False).stdout.strip()


def run_in(
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
