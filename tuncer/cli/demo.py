"""``tuncer demo``: the main job, on real devices, before your eyes.

In a network namespace of its own: a TUN and a TAP, two subscriber processes, pings through
both; the workers are killed in the middle of it.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

import tuncer
from supervisor import linux, lowlevel
from tuncer import Flag
from tuncer.tunctl.linux import netns

PINGS = 200
INTERVAL = 0.02  # seconds between pings
_LONG = 30  # characters of the directory for temporary files from which on another one is taken
PATIENCE = 20.0  # seconds that any step may take

_KINDS = {
    "demo-tun": (Flag.TUN, "10.9.0.1", "10.9.0.2"),
    "demo-tap": (Flag.TAP, "10.8.0.1", "10.8.0.2"),
}
_SUBSCRIBERS = ("ring", "plain pyzmq")


@dataclass
class Lab:
    """A device, and what happens to it."""

    device: tuncer.Device
    other: str
    before: Any = None
    ping: subprocess.Popen[str] | None = None
    answered: int = 0
    recovery: float | None = None
    stayed: bool = False


@dataclass
class Subscriber:
    """A subscriber process, and what it says it has received of each device."""

    name: str
    process: subprocess.Popen[bytes]
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    _rest: bytes = b""

    def read(self) -> None:
        """Take in what it has printed."""
        assert self.process.stdout is not None
        data = os.read(self.process.stdout.fileno(), 65536)
        if not data:
            raise ChildProcessError(f"the subscriber {self.name!r} has ended by itself")
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            said = json.loads(line)
            self.counts[said.pop("device")] = said


@dataclass
class Story:
    """What has happened so far, and how it is shown."""

    console: Console
    began: float = field(default_factory=time.monotonic)
    labs: list[Lab] = field(default_factory=list)
    subscribers: list[Subscriber] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    live: Live | None = None
    words: int = -1
    """Where the supervisor's log comes out, on a terminal, which it would otherwise disturb."""

    def tell(self, text: str) -> None:
        """Add a line."""
        line = f"{time.monotonic() - self.began:6.2f} s  {text}"
        self.lines.append(line)
        if self.live is None:
            self.console.print(line, highlight=False, soft_wrap=True)
        else:
            self.show()

    def show(self) -> None:
        """Draw the present state, on a terminal."""
        if self.live is not None:
            self.live.update(Group(*self.lines, "", self.table()), refresh=True)

    def table(self) -> Table:
        """Return what each subscriber has received of each device."""
        columns = ("device", "worker", "kernel sent", *_SUBSCRIBERS, "lost", "restarts", "recovery")
        table = Table(*columns)
        for lab in self.labs:
            numbers = lab.device.statistics()
            name = lab.device.name
            counts = [subscriber.counts.get(name, {}) for subscriber in self.subscribers]
            received = [str(count.get("received", 0)) for count in counts]
            lost = str(sum(count.get("lost", 0) for count in counts))
            sent, restarts = str(numbers["kernel_packets"]), str(numbers["restarts"])
            took = "" if lab.recovery is None else f"{lab.recovery:.1f} ms"
            table.add_row(name, str(lab.device.pid), sent, *received, lost, restarts, took)
        return table


def add_command(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("demo", help="see the main job, on real devices")
    parser.set_defaults(run=run)


def _short_place() -> str | None:
    """Return where the demo's runtime directory is made: sockets have short paths only."""
    usual = tempfile.gettempdir()  # which batch systems set to long paths
    places = (usual, "/run", "/tmp")  # noqa: S108 - what is made there is made by mkdtemp
    writable = [place for place in places if os.access(place, os.W_OK)]
    return min(writable, key=len) if len(usual) > _LONG else None


def run(_: argparse.Namespace) -> int:
    """Run the demo; return 0 only if all that was promised came true."""
    for program in ("ip", "ping"):
        if shutil.which(program) is None:
            package = {"ip": "iproute2", "ping": "iputils-ping"}[program]
            text = f"the demo needs the program {program!r}: 'sudo apt-get install {package}'"
            raise OSError(errno.ENOENT, text)
    console = Console()
    how = netns.enter_new()
    console.print(f"tuncer demo, in {how}: nothing on this host changes", soft_wrap=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with tempfile.TemporaryDirectory(prefix="tuncer-demo-", dir=_short_place()) as runtime:
        os.environ["TUNCER_RUNTIME_DIR"] = runtime
        story = Story(console)
        with contextlib.ExitStack() as stack:
            # Before the runtime directory is removed: a root supervisor would make it again.
            stack.callback(lowlevel.stop_linked)
            if console.is_terminal:
                story.live = stack.enter_context(Live(console=console, auto_refresh=False))
                story.words = stack.enter_context(_captured_stderr())
            _prepare(story, stack)
            _ping_and_kill(story)
            _catch_up(story)
            story.show()
            promises = _promises(story)
            if story.live is None:
                console.print(story.table())
    return _sum_up(story, promises)


def _prepare(story: Story, stack: contextlib.ExitStack) -> None:
    for name, (kind, _, other) in _KINDS.items():
        device = stack.enter_context(tuncer.create(name, kind | Flag.NO_PI))
        story.labs.append(Lab(device, other))
        story.tell(f"{kind.name} {name} is there; its worker is process {device.pid}")
    others = [f"{lab.device.name}={lab.other}" for lab in story.labs]
    ring = [sys.executable, "-m", "tuncer.cli.ring_subscriber", *others]
    plain_path = Path(__file__).with_name("plain_subscriber.py")
    plain = [sys.executable, str(plain_path), *(lab.device.endpoint for lab in story.labs)]
    for name, command in zip(_SUBSCRIBERS, (ring, plain), strict=True):
        process = stack.enter_context(_ended_at_last(command))
        story.subscribers.append(Subscriber(name, process))
        story.tell(f"subscriber {name!r} is process {process.pid}")
    _wait_for_subscribers(story)
    for lab, (_, address, _) in zip(story.labs, _KINDS.values(), strict=True):
        lab.device.up(f"{address}/24")
        lab.before = _state(lab.device)
        story.tell(f"{lab.device.name} is up with {address}/24")


@contextlib.contextmanager
def _captured_stderr() -> Iterator[int]:
    """Give what this process, and those it starts, write to standard error."""
    reader, writer = os.pipe()
    before = os.dup(2)
    os.dup2(writer, 2)
    os.close(writer)
    try:
        yield reader
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(reader)


@contextlib.contextmanager
def _ended_at_last(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def _wait_for_subscribers(story: Story) -> None:
    deadline = time.monotonic() + PATIENCE
    while any(lab.device.statistics()["subscribers"] < len(_SUBSCRIBERS) for lab in story.labs):
        if time.monotonic() > deadline:
            raise TimeoutError("not all subscriber processes have subscribed in time")
        _listen(story, 0.02)


def _listen(story: Story, timeout: float) -> None:
    """Read what the subscribers say, for so many seconds or until one has said something."""
    poller = select.poll()
    by_fd = {}
    for subscriber in story.subscribers:
        assert subscriber.process.stdout is not None
        by_fd[subscriber.process.stdout.fileno()] = subscriber
        poller.register(subscriber.process.stdout, select.POLLIN)
    if story.words >= 0:
        poller.register(story.words, select.POLLIN)
    for fd, _ in poller.poll(timeout * 1000):
        if fd == story.words:
            story.tell(os.read(fd, 4096).decode(errors="replace").strip())
        else:
            by_fd[fd].read()


def _ping_and_kill(story: Story) -> None:
    command = ["ping", "-q", "-c", str(PINGS), "-i", str(INTERVAL), "-W", "5"]
    for lab in story.labs:
        lab.ping = subprocess.Popen([*command, lab.other], stdout=subprocess.PIPE, text=True)
    story.tell(f"{PINGS} pings go through each device; the 'ring' subscriber answers them")
    deadline = time.monotonic() + PINGS * INTERVAL + PATIENCE
    drawn = 0.0
    while any(lab.ping is not None and lab.ping.poll() is None for lab in story.labs):
        if time.monotonic() > deadline:
            raise TimeoutError("the ping processes have not ended in time")
        _listen(story, 0.1)
        for lab in story.labs:
            if lab.recovery is None and _received(story, lab) > PINGS // 3:
                _kill(story, lab)
        if time.monotonic() - drawn > 0.1:  # seconds between two pictures
            drawn = time.monotonic()
            story.show()
    for lab in story.labs:
        assert lab.ping is not None
        found = re.search(r"(\d+) received", lab.ping.communicate()[0])
        lab.answered = int(found[1]) if found else 0


def _received(story: Story, lab: Lab) -> int:
    return min(f.counts.get(lab.device.name, {}).get("received", 0) for f in story.subscribers)


def _kill(story: Story, lab: Lab) -> None:
    """Kill the worker, and see that another one has taken up its work."""
    pid = lab.device.pid
    began = time.perf_counter()
    pidfd = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    linux.ended(pidfd, PATIENCE)
    os.close(pidfd)
    successor = lab.device.pid
    lab.recovery = (time.perf_counter() - began) * 1000
    lab.stayed = _state(lab.device) == lab.before
    story.tell(
        f"{lab.device.name}: worker {pid} was killed by SIGKILL; worker {successor} serves after"
        f" {lab.recovery:.1f} ms; the interface {'stayed as it was' if lab.stayed else 'CHANGED'}"
    )


def _state(device: tuncer.Device) -> Any:
    """Return what must not change: the interface's number, flags and addresses."""
    show = ["ip", "-j", "-4", "addr", "show", "dev", device.name]
    found = json.loads(subprocess.run(show, capture_output=True, check=True).stdout)[0]
    return [found[key] for key in ("ifindex", "flags", "mtu", "txqlen", "addr_info")]


def _catch_up(story: Story) -> None:
    """Wait until every subscriber has come to the end of the log."""
    deadline = time.monotonic() + PATIENCE
    for lab in story.labs:
        lab.device.down()  # the kernel sends nothing more
    while not all(_complete(story, lab) for lab in story.labs) and time.monotonic() < deadline:
        _listen(story, 0.1)
    story.tell("the devices are down, and every subscriber has come to the end")


def _complete(story: Story, lab: Lab) -> bool:
    head = lab.device.statistics()["packets_read"]
    return all(f.counts.get(lab.device.name, {}).get("next") == head for f in story.subscribers)


def _promises(story: Story) -> dict[str, bool]:
    """Return what was promised, and whether it came true."""
    kept: dict[str, bool] = {}
    for lab in story.labs:
        name, numbers = lab.device.name, lab.device.statistics()
        kept[f"{name}: all {PINGS} pings were answered"] = lab.answered == PINGS
        kept[f"{name}: one worker was killed, and replaced"] = numbers["restarts"] == 1
        kept[f"{name}: interface, flags and addresses stayed"] = lab.stayed
        read_all = numbers["packets_read"] == numbers["kernel_packets"] and not numbers["dropped"]
        kept[f"{name}: each packet of the kernel's was read once, none dropped"] = read_all
        for subscriber in story.subscribers:
            count = subscriber.counts.get(name, {})
            kept[f"{name}: {subscriber.name!r} received everything, nothing twice"] = (
                count.get("lost") == 0
                and count["first"] == 0
                and count["received"] == count["next"] == numbers["packets_read"]
            )
    return kept


def _sum_up(story: Story, promises: dict[str, bool]) -> int:
    for promise, kept in promises.items():
        story.console.print(f"{'ok    ' if kept else 'FAILED'}  {promise}", highlight=False)
    return 0 if all(promises.values()) else 1
