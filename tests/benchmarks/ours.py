"""What is measured of the supervisor package. Usage: ours.py call|cast|restart|memory|start N."""

import gc
import json
import os
import signal
import statistics
import sys
import time
from typing import Any

from supervisor import (
    ActorError,
    ChildSpec,
    GenServer,
    Sender,
    Supervisor,
    SupervisorRef,
)
from tuncer import create  # workers are as large as in a program that uses devices

assert create


class Worker(GenServer):
    """Counts."""

    def init(self) -> None:
        self.n = 0

    def handle_call(self, request: Any, sender: Sender) -> Any:
        if request == "collect":
            gc.collect()
        return os.getpid() if request == "pid" else self.n

    def handle_cast(self, request: int) -> None:
        self.n += request


def start(workers: int = 1, **options: Any) -> SupervisorRef:
    specs = [ChildSpec(f"w{n}", Worker, name=f"w{n}") for n in range(workers)]
    ref: SupervisorRef = Supervisor.start_link(specs, **options)
    return ref


def call(number: int) -> dict[str, float]:
    ref = start().child("w0")
    for _ in range(number // 10):
        ref.call("get")
    began = time.perf_counter()
    for _ in range(number):
        ref.call("get")
    return {"us": (time.perf_counter() - began) / number * 1e6}


def cast(number: int) -> dict[str, float]:
    ref = start().child("w0")
    ref.call("get")
    began = time.perf_counter()
    for _ in range(number):
        ref.cast(1)
    assert ref.call("get", timeout=60) == number
    return {"per_s": number / (time.perf_counter() - began)}


def restart(number: int) -> dict[str, float]:
    sup = start(intensity=10 * number)
    ref, times = sup.child("w0"), []
    for _ in range(number):
        pid = ref.call("pid")
        os.kill(pid, signal.SIGKILL)
        began = time.perf_counter()
        while True:
            try:
                if ref.call("pid") != pid:
                    break
            except ActorError:
                continue  # nobody has the name yet, or the one who has it is the dead one
        times.append(time.perf_counter() - began)
    return {"ms": statistics.median(times) * 1e3, "worst_ms": max(times) * 1e3}


def memory(number: int) -> dict[str, float]:
    sup = start(number)
    refs = [sup.child(f"w{n}") for n in range(number)]
    for ref in refs:
        ref.call("collect")
    sizes = [rollup(ref.pid) for ref in refs]
    root = rollup(sup.pid)
    return {
        "pss_mib": statistics.mean(size["Pss"] for size in sizes) / 1024,
        "private_dirty_mib": statistics.mean(size["Private_Dirty"] for size in sizes) / 1024,
        "supervisor_pss_mib": root["Pss"] / 1024,
    }


def rollup(pid: int) -> dict[str, int]:
    """Return what the kernel says of a process's memory, in KiB. Source: proc(5), smaps_rollup."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        rows = [line.split() for line in file.read().splitlines()[1:]]
    return {row[0].rstrip(":"): int(row[1]) for row in rows}


def start_many(number: int) -> dict[str, float]:
    began = time.perf_counter()
    sup = start(number)
    took = time.perf_counter() - began
    began = time.perf_counter()
    sup.stop()
    return {"s": took, "stop_s": time.perf_counter() - began}


if __name__ == "__main__":
    measure = {
        "call": call,
        "cast": cast,
        "restart": restart,
        "memory": memory,
        "start": start_many,
    }[sys.argv[1]]
    print(json.dumps(measure(int(sys.argv[2]))))
