"""What is measured of the supervisor package. Usage: ours.py MEASUREMENT N.

Measurements: call, cast, restart, memory (of actors in a program that uses no devices), devices
(memory of devices' workers), start, fan_in, burst, costs, hostile.
"""

import asyncio
import contextlib
import functools
import gc
import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from supervisor import (
    ActorError,
    ChildSpec,
    GenServer,
    MailboxFull,
    Pool,
    Ref,
    Sender,
    Supervisor,
    SupervisorRef,
    handler,
)


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

    @handler
    def get(self) -> int:
        return self.n

    @handler
    def add(self, n: int) -> None:
        self.n += n


class Keeps(GenServer):
    """Keeps a dict over crashes, and changes it with each call."""

    kept = ("data",)

    def init(self, entries: int) -> None:
        if not self.restored:
            self.data = {str(n): n for n in range(entries)}

    @handler
    def touch(self) -> None:
        self.data["0"] += 1


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


def devices(number: int) -> dict[str, float]:
    """Measure workers of devices to which nobody has subscribed by ZeroMQ."""
    import tuncer  # noqa: PLC0415 - an actor without devices does not import it

    made = [tuncer.create(f"bench{n}", tuncer.Flag.TUN | tuncer.Flag.NO_PI) for n in range(number)]
    sizes = [rollup(device.pid) for device in made if device.statistics()]
    return {"pss_mib": statistics.mean(size["Pss"] for size in sizes) / 1024}


def fan_in(number: int) -> dict[str, float]:
    """Measure the calls of many callers at a time, alone and with one more that floods.

    Returns:
        ``alone_us`` and ``flooded_us``, the median of the callers' means, and their ``ratio``;
        the same of one caller, ``one_alone_us``, ``one_flooded_us`` and ``one_ratio``.
    """
    ref = start().child("w0")
    ref.call("get")
    found = {}
    for name, callers, calls in (("one_", 1, 2000), ("", number - 1, 20)):
        alone = together(ref, callers, calls)
        flooder = forked(flood, ref)
        flooded = together(ref, callers, calls)
        os.kill(flooder, signal.SIGKILL)
        os.waitpid(flooder, 0)
        found |= {f"{name}alone_us": alone, f"{name}flooded_us": flooded}
        found[f"{name}ratio"] = flooded / alone
    return found


def together(ref: Ref, callers: int, calls: int) -> float:
    """Let so many processes call at a time; return the median of their means, in us.

    Not of their medians: one that has the actor's attention makes many short calls in a row, and
    waits for its next turn in a single long one.
    """
    go, gate = os.pipe()
    reader, writer = os.pipe()

    def run() -> None:
        ref.call("get", timeout=None)
        os.close(gate)
        os.read(go, 1)  # until the parent has closed it too
        took = []
        for _ in range(calls):
            began = time.perf_counter()
            ref.call("get", timeout=None)
            took.append(time.perf_counter() - began)
        os.write(writer, f"{statistics.mean(took) * 1e6}\n".encode())

    pids = [forked(run) for _ in range(callers)]
    time.sleep(0.01 * callers + 0.5)  # they have connected
    os.close(gate)
    for pid in pids:
        os.waitpid(pid, 0)
    os.close(writer)
    with open(reader) as pipe:
        means = [float(line) for line in pipe]
    os.close(go)
    return statistics.median(means)


def flood(ref: Ref) -> None:
    while True:
        ref.cast(0, timeout=None)


def forked(run: Callable[..., None], *arguments: Any) -> int:
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            run(*arguments)
        os._exit(0)
    return pid


def burst(number: int) -> dict[str, float]:
    """Count the casts that a mailbox takes while its actor is stopped, at most so many."""
    ref = start().child("w0")
    ref.call("get")
    os.kill(ref.pid, signal.SIGSTOP)
    taken = 0
    with contextlib.suppress(MailboxFull):
        for _ in range(number):
            ref.cast(0, timeout=0)
            taken += 1
    os.kill(ref.pid, signal.SIGCONT)
    return {"messages": taken}


def costs(number: int) -> dict[str, float]:
    """Measure what can be had of an actor, in us each: the parts take turns in one run."""
    kept = [ChildSpec(f"k{n}", Keeps, args=(n,)) for n in (10, 1000, 10_000)]
    sup = start(intensity=1000)
    worker = sup.child("w0", Worker)
    keepers = {spec.id: sup.start_child(spec) for spec in kept}
    pool = Pool.start_link(ChildSpec("p", Worker), size=2)
    probes: dict[str, Callable[[int], float]] = {
        "term_us": lambda n: took(lambda: worker.call("get"), n),
        "method_us": lambda n: took(lambda: worker.call(Worker.get), n),
        "cast_us": lambda n: took(lambda: worker.cast(1), n),
        "cast_method_us": lambda n: took(lambda: worker.cast(Worker.add, 1), n),
        "acall_us": lambda n: asked(worker, n),
        "pool_us": lambda n: took(lambda: pool.call(Worker.get), n),
        **{
            f"{name}_us": functools.partial(took, functools.partial(ref.call, Keeps.touch))
            for name, ref in keepers.items()
        },
    }
    # Those that are compared first, and by themselves: a long call spoils the next busy waits. They
    # take short turns, as a machine's speed changes within a second by more than they differ.
    times: dict[str, list[float]] = {name: [] for name in probes}
    for names, turns in ((["term_us", "method_us"], 100), (list(probes)[2:], 5)):
        for _ in range(turns):
            for name in names:
                times[name].append(probes[name](number * 5 // turns))
                worker.call("get", timeout=60)  # all casts have been served
    found = {name: statistics.median(values) for name, values in times.items()}
    pairs = zip(times["method_us"], times["term_us"], strict=True)
    typed = statistics.median(method / term for method, term in pairs)
    return found | {"typed": typed, "start_ms": started(sup)}


def took(probe: Callable[[], Any], number: int) -> float:
    for _ in range(number // 10):  # who waits busily has to learn first that it pays
        probe()
    began = time.perf_counter()
    for _ in range(number):
        probe()
    return (time.perf_counter() - began) / number * 1e6


def asked(worker: Ref[Worker], number: int) -> float:
    """Measure calls from asyncio, one after the other."""

    async def ask() -> None:
        for _ in range(number):
            await worker.acall(Worker.get)

    began = time.perf_counter()
    asyncio.run(ask())
    return (time.perf_counter() - began) / number * 1e6


def started(sup: SupervisorRef) -> float:
    """Measure the start of a child, until it has answered, in ms."""
    times = []
    for n in range(20):
        began = time.perf_counter()
        sup.start_child(ChildSpec(f"c{n}", Worker)).call(Worker.get)
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e3


def hostile(number: int) -> dict[str, float]:
    """Measure how long a supervisor takes to answer beside workers that misbehave in every way.

    Nobody reads what they print, and what is logged of them is dropped.
    """
    sys.path.append(os.path.join(os.path.dirname(__file__), "..", "support"))
    from hostile import specifications  # noqa: PLC0415 - beside the tests

    reader, writer = os.pipe()
    kept = os.dup(1)
    os.dup2(writer, 1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    sup = Supervisor.start_link(specifications(), intensity=100_000, period=1.0)
    times = []
    for _ in range(number):
        began = time.perf_counter()
        sup.count_children()
        times.append(time.perf_counter() - began)
        time.sleep(0.005)
    sup.stop()
    os.dup2(kept, 1)
    os.close(reader)
    return {"median_ms": statistics.median(times) * 1e3, "worst_ms": max(times) * 1e3}


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
        "devices": devices,
        "start": start_many,
        "fan_in": fan_in,
        "burst": burst,
        "costs": costs,
        "hostile": hostile,
    }[sys.argv[1]]
    print(json.dumps(measure(int(sys.argv[2]))))
