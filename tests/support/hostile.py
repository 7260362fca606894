"""Actors that do what no actor should, for as long as they are let."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
from typing import Any

from supervisor import ChildSpec, GenServer


class Hostile(GenServer):
    """Begins to misbehave as soon as it serves."""

    def init(self) -> None:
        self.call_later(0.0, self.misbehave)

    def misbehave(self) -> None:
        raise NotImplementedError


class IgnoresSigterm(Hostile):
    """Ignores each signal that it may, and does not end when it is told to."""

    def misbehave(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGXCPU):
            signal.signal(number, signal.SIG_IGN)

    def terminate(self, reason: Any) -> None:
        while True:
            signal.pause()


class HangsInC(Hostile):
    """Holds the interpreter's lock in a call of C that does not return."""

    def misbehave(self) -> None:
        ctypes.PyDLL(None).pause()


class Daemonises(Hostile):
    """Starts processes that leave its session, and start others."""

    def misbehave(self) -> None:
        for _ in range(3):
            command = 'trap "" TERM HUP; sleep 1000 & sleep 1000'
            subprocess.Popen(["setsid", "sh", "-c", command], start_new_session=True)
        os.kill(os.getpid(), signal.SIGKILL)


class Prints(Hostile):
    """Prints a gigabyte, which nobody reads."""

    def misbehave(self) -> None:
        for _ in range(1024):
            print("x" * (1 << 20))
        sys.stdout.flush()


class EatsMemory(Hostile):
    """Takes all the memory that it may have."""

    def misbehave(self) -> None:
        resource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20))
        eaten = []
        while True:
            eaten.append(bytearray(16 << 20))


KINDS = (IgnoresSigterm, HangsInC, Daemonises, Prints, EatsMemory)


def specifications() -> list[ChildSpec]:
    """Return a child of each kind, which is killed if it hangs, and started again a bit later."""
    hang = {HangsInC: 0.5, Prints: 0.5}  # the others end by themselves, or live on
    return [
        ChildSpec(
            kind.__name__,
            kind,
            watchdog=hang.get(kind),
            shutdown=0.2,
            intensity=1000,
            period=1.0,
        )
        for kind in KINDS
    ]
