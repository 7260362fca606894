"""TCP through a tunnel between two network namespaces, by iperf3, for two seconds.

Usage: python tunnels.py KIND. It prints {"mbit": ...} as JSON. KIND is "plain" (a loop that reads
and writes, over UDP, without tuncer), "udp" or "curve" (examples/tunnel.py). As root, in a network
namespace of its own.
"""

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tuncer import Flag, tunctl

SECONDS = 2
PORT = 1194
EXAMPLE = str(Path(__file__).parents[2] / "examples" / "tunnel.py")


def plain(inside: str, here: str, other: str) -> None:
    """Pass packets on, one by one: what a tunnel is at the least."""
    fd = tunctl.create("tunnel0", Flag.TUN | Flag.NO_PI)
    tunctl.mtu("tunnel0", 1472)
    tunctl.up("tunnel0", inside)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind((here, PORT))
        peer.connect((other, PORT))
        os.set_blocking(fd, False)
        peer.setblocking(False)
        print("ready", flush=True)
        while True:
            ready, _, _ = select.select([fd, peer], [], [])
            with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
                while fd in ready:
                    peer.send(os.read(fd, 2048))
            with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
                while peer in ready:
                    os.write(fd, peer.recv(2048))


@contextlib.contextmanager
def namespace() -> Iterator[str]:
    """Yield the pid of a process in a network namespace of its own."""
    with subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "ip link set lo up; echo; exec sleep 120"],
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield str(process.pid)
        finally:
            process.kill()


@contextlib.contextmanager
def running(*command: str, cwd: str) -> Iterator[subprocess.Popen[str]]:
    """Run a program until the end; it has begun when it prints a line."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=cwd) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process
        finally:
            process.terminate()


def measure(kind: str, directory: str) -> float:
    script = [__file__, "end"] if kind == "plain" else [EXAMPLE]
    keys: list[list[str]] = [[], []]
    if kind == "curve":
        for name in ("left", "right"):
            subprocess.run([sys.executable, EXAMPLE, "keys", name], cwd=directory, check=True)
        keys = [["left.key_secret", "right.key"], ["right.key_secret", "left.key"]]
    with contextlib.ExitStack() as stack:
        pids = [stack.enter_context(namespace()) for _ in range(2)]
        pair = ["ip", "link", "add", "left", "type", "veth", "peer", "name", "right"]
        subprocess.run(pair, check=True)
        enter = [["nsenter", "--net", "-t", pid] for pid in pids]
        for where, name in enumerate(("left", "right")):
            subprocess.run(["ip", "link", "set", name, "netns", pids[where]], check=True)
            address = ["ip", "address", "add", f"192.0.2.{where + 1}/24", "dev", name]
            for command in (address, ["ip", "link", "set", name, "up"]):
                subprocess.run([*enter[where], *command], check=True)
            ends = (f"10.5.0.{where + 1}/24", f"192.0.2.{where + 1}", f"192.0.2.{2 - where}")
            command = [*enter[where], sys.executable, *script, *ends, *keys[where]]
            stack.enter_context(running(*command, cwd=directory))
        there = [*enter[0], "ping", "-c1", "-w10", "10.5.0.2"]
        subprocess.run(there, check=True, stdout=sys.stderr)
        server = [*enter[0], "iperf3", "-s", "-1", "--forceflush"]
        stack.enter_context(running(*server, cwd=directory))
        client = [*enter[1], "iperf3", "-c", "10.5.0.1", "-t", str(SECONDS), "-J"]
        said = json.loads(subprocess.check_output(client, timeout=60))
        return float(said["end"]["sum_received"]["bits_per_second"]) / 1e6


if __name__ == "__main__":
    if sys.argv[1] == "end":
        plain(*sys.argv[2:])
    else:
        with tempfile.TemporaryDirectory() as place:
            print(json.dumps({"mbit": measure(sys.argv[1], place)}))
