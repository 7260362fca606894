"""Restart latency of supervisord and circus: SIGKILL until the next one answers.

Usage: supervisors.py supervisord|circus N. Run by the Python of the environment they are in.
"""

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SERVED = Path(__file__).with_name("served.py")
BIN = Path(sys.executable).parent


def supervisord(directory: str) -> list[str]:
    path = Path(directory, "supervisord.conf")
    path.write_text(f"""[supervisord]
nodaemon=true
logfile={directory}/log
pidfile={directory}/pid
[program:served]
command={sys.executable} {SERVED} {directory}/s
startsecs=0
autorestart=true
startretries=1000000
""")
    return [str(BIN / "supervisord"), "-c", str(path)]


def circus(directory: str) -> list[str]:
    path = Path(directory, "circus.ini")
    path.write_text(f"""[circus]
endpoint = ipc://{directory}/endpoint
pubsub_endpoint = ipc://{directory}/pubsub
check_delay = 1
[watcher:served]
cmd = {sys.executable} {SERVED} {directory}/s
numprocesses = 1
""")
    return [str(BIN / "circusd"), "--log-level", "error", str(path)]


def ask(path: str) -> int:
    """Return the pid of who answers; 0 for nobody."""
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(path)
            return int(connection.recv(100) or b"0")
        except OSError:
            return 0


def restart(path: str) -> float:
    """Kill it, and return the seconds until another one answers."""
    pid = ask(path)
    os.kill(pid, signal.SIGKILL)
    began = time.perf_counter()
    while ask(path) in {0, pid}:
        if time.perf_counter() - began > 60:
            raise TimeoutError("it was not restarted within a minute")
    return time.perf_counter() - began


def main(kind: str, number: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as directory:
        command = {"supervisord": supervisord, "circus": circus}[kind](directory)
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            try:
                path = f"{directory}/s"
                while not ask(path):
                    if process.poll() is not None:
                        raise RuntimeError(f"{command[0]} has ended")
                times = [restart(path) for _ in range(number)]
            finally:
                process.terminate()
    return {"ms": statistics.median(times) * 1e3, "worst_ms": max(times) * 1e3}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]))))
