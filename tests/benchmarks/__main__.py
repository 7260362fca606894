"""Measures both packages against their peers, and writes docs/benchmarks.md, .json and .svg.

Usage: python tests/benchmarks PEERS [ROUNDS]. PEERS is the Python of an environment with pykka,
supervisord and circus, which cannot be installed beside this package. Without ROUNDS and PEERS each
pair of the data plane is measured once, and nothing is written.

It fails if a packet is neither delivered nor counted as lost, never because of a time.

Each ratio is of two measurements of one round; the median of the rounds is what is told, as the
machine is not the same from one minute to the next.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import data_plane

HERE = Path(__file__).parent
PLACE = HERE.parent.parent / "docs" / "benchmarks.md"

REPORT = """# Benchmarks

Written by `make bench`. Ratios are of pairs that were measured in one round, ours to the peer's:
the median of {rounds} rounds, and their range. Below 1 is less time, or fewer messages.

{system}, {cores} cores, Python {python}, OTP {otp}.

## The data plane

{packets}

![Packets a second](benchmarks.svg)

Rates are of packets of 1,400 bytes that the slowest of the subscribers has got, of a sender that
floods the device: sender, worker and subscribers share the cores. In every run each packet that was
read is delivered to each subscriber, or counted as lost: also by one more subscriber of the ring,
which is stopped during the flood. "Delivered" is the share of what was read. What a packet costs a
worker is its processor time, with the threads of ZeroMQ if there are any. TCP is iperf3's, between
two network namespaces whose TUNs are joined.

### What a packet costs

Processor time of one process, of packets of 1,400 bytes, part by part.

| part | us a packet |
| --- | --- |
| `preadv` in a loop of Python, always into the same memory | {read_us:.2f} |
| the same, each packet behind the one before: another slice of the ring for each | {place_us:.2f} |
| the ring's writer: besides, three stores a packet, and a commit for 256 at most | {fill_us:.2f} |
| a subscriber's batch: one copy of its bytes, and of three tables | {take_us:.2f} |
| besides, each `Packet` made | {packets_us:.2f} |

The three dearest things, and what was done about them:

1. The system call, a packet each: the kernel hands out no more by one. It reads straight into the
   memory of the subscribers, does not wait (RWF_NOWAIT), and is made up to 256 times a wake-up.
2. A `Packet` for each packet: it is made when it is asked for, and then by the interpreter's own
   functions, without a line of Python for each.
3. The stores that a kill cannot tear (where it begins, the mark behind it, its length). What can
   wait for the end of a batch does: times, the tally of bytes, `HEAD`, the wake-ups.

## Pipelines

| measured | ours | peer | its | ratio | range | target |
| --- | --- | --- | --- | --- | --- | --- |
{pipelines}

Three stages: parse, count per flow, forward; packets of 1,400 bytes, of 50 flows. In "four
processes" the source and parse are one, count runs in two, forward in one. By hand, the same
processes hand on a packet at a time by `multiprocessing.Queue`; scapy's run in threads of one
process. A process boundary is what a stage that does nothing costs more in a process of its own
than in the source's, on {cores} cores.

## Tunnels

| TCP through a tunnel over a veth | Mbit/s | of the plain loop |
| --- | --- | --- |
{tunnels}

The plain loop reads a packet, sends it as a datagram, and the other way round: one process of
Python, and nothing else. [tunnel.py](../examples/tunnel.py) has its device in a process of its
own. Each end is two processes then, on {cores} cores for both ends, iperf3 and all. MTU 1472 over
UDP, 1500 over TCP. Encrypted packets go many to a message.

## Actors and supervisors

| measured | ours | peer | its | ratio | range |
| --- | --- | --- | --- | --- | --- |
{rows}

Targets: a call within 1.2 times that over a bare Unix socket with msgpack, 0.85 times that over
ROUTER and DEALER, and OTP's; 500,000 casts/s.

What is compared is not the same thing. Bare sockets and pipes carry bytes and know nothing of who
is there; pykka's actors share one interpreter and its lock; OTP's share a virtual machine, and
restart without the operating system. supervisord and circus start a new interpreter, and look for
the dead about once a second; here a supervisor is told by the kernel, and forks.

{own}
Memory is measured after `gc.collect()` in each worker. A fork shares its supervisor's pages until
one of both writes to them: PSS divides a page by the number of those who share it.
"""

COSTS = """### What things cost

Each is waited for before the next; the parts take turns in one run.

| | time | |
| --- | --- | --- |
| `ref.call("get")` | {term_us:.1f} us | |
| `ref.call(Counter.get)` | {method_us:.1f} us | {typed:.2f} of the former (target: 1.1) |
| `await ref.acall(Counter.get)` | {acall_us:.0f} us | |
| `ref.cast(1)`, until it is sent | {cast_us:.1f} us | |
| `ref.cast(Counter.add, 1)`, until it is sent | {cast_method_us:.1f} us | |
| `pool.call(Worker.get)` | {pool_us:.0f} us | three processes, two cores |
| a call that changes a `kept` dict of 10 entries | {k10_us:.1f} us | |
| of 1,000 entries | {k1000_us:.0f} us | |
| of 10,000 entries | {k10000_us:.0f} us | |
| `start_child`, until the child has answered | {start_ms:.1f} ms | |
| SIGKILL of a child, until the next one has answered | {restart:.1f} ms | |
"""

OWN = """| measured | median | target |
| --- | --- | --- |
| PSS of an actor, one of 10, in a program without devices | {pss:.1f} MiB | 5.5 MiB |
| of it private and dirty | {dirty:.1f} MiB | |
| PSS of their supervisor | {supervisor:.1f} MiB | |
| PSS of a device's worker, one of 10, without subscribers by ZeroMQ | {device:.1f} MiB | 5.5 MiB |
| start of a supervisor with 200 workers | {start:.2f} s | 1.0 s |
| its stop, one worker after the other | {stop:.2f} s | |
| SIGKILL until the next one has answered | {restart:.1f} ms | 5 ms |
| the slowest of 50 such | {worst:.1f} ms | |
| calls of 499 callers at a time, beside one that floods the actor, to alone | {ratio:.2f} | 3 |
| calls of one caller, beside one that floods the actor, to alone | {one:.2f} | 3 |
| a supervisor's slowest answer of 500, beside workers that misbehave | {slow:.0f} ms | 50 ms |
| casts that a stopped actor's mailbox takes, of root | {burst:,.0f} | 10,000 |
"""

Command = list[str]


@dataclass(frozen=True)
class Pair:
    """Two commands that measure the same thing, and what they call it."""

    title: str
    peer: str
    key: str
    unit: str
    ours: Command
    theirs: Command


def pairs(python: str, peers: str, directory: str) -> list[Pair]:
    def script(interpreter: str, name: str, *arguments: object) -> Command:
        return [interpreter, str(HERE / f"{name}.py"), *map(str, arguments)]

    def erlang(*arguments: object) -> Command:
        words = ["erl", "-noshell", "-pa", directory, "-s", "otp_bench", "main"]
        return [*words, *map(str, arguments), directory]

    found = []
    for kind, key, unit, number in (("call", "us", "us", 10_000), ("cast", "per_s", "/s", 200_000)):
        ours = script(python, "ours", kind, number)
        title = {"call": "A call and its reply", "cast": "Casts, until all are served"}[kind]
        for peer, theirs in (
            ("bare Unix socket, msgpack", script(python, "bare_unix", kind, number)),
            ("bare pyzmq, ROUTER and DEALER", script(python, "bare", kind, number)),
            ("multiprocessing.Pipe", script(python, "pipe", kind, number)),
            ("OTP gen_server, two local nodes", erlang(kind, number)),
            ("pykka, threads of one process", script(peers, "pykka_actors", kind, number)),
        ):
            found.append(Pair(title, peer, key, unit, ours, theirs))
    ours = script(python, "ours", "restart", 50)
    title = "From SIGKILL until the next one has answered"
    for peer, theirs in (
        ("supervisord", script(peers, "supervisors", "supervisord", 3)),
        ("circus", script(peers, "supervisors", "circus", 3)),
        ("OTP supervisor, processes of one node", erlang("restart", 50)),
    ):
        found.append(Pair(title, peer, "ms", "ms", ours, theirs))
    return found


def run(command: Command) -> dict[str, float]:
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=120)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


@contextmanager
def erlang_ready(directory: str) -> Iterator[None]:
    """Compile what runs on Erlang's nodes, and let them find one another."""
    subprocess.run(["erlc", "-o", directory, str(HERE / "otp_bench.erl")], check=True)
    with subprocess.Popen(["epmd"], stderr=subprocess.DEVNULL) as names:
        try:
            yield
        finally:
            names.terminate()


def compare(pair: Pair, rounds: int) -> str:
    ours, theirs, ratios = [], [], []
    for _ in range(rounds):
        ours.append(run(pair.ours)[pair.key])
        theirs.append(run(pair.theirs)[pair.key])
        ratios.append(ours[-1] / theirs[-1])
    print(f"{pair.title}, {pair.peer}: {median(ratios):.3g}", flush=True)
    numbers = [
        f"{median(values):,.{0 if pair.key == 'per_s' else 1}f}" for values in (ours, theirs)
    ]
    return (
        f"| {pair.title} | {numbers[0]} {pair.unit} | {pair.peer} | {numbers[1]} {pair.unit} |"
        f" {median(ratios):.3g} | {min(ratios):.3g} to {max(ratios):.3g} |"
    )


def alone(python: str, rounds: int) -> str:
    def of(*arguments: object) -> list[dict[str, float]]:
        # In a network namespace: one of these makes devices.
        command = ["unshare", "--net", python, str(HERE / "ours.py"), *map(str, arguments)]
        return [run(command) for _ in range(rounds)]

    memory, many, restarts = of("memory", 10), of("start", 200), of("restart", 50)
    devices, fan_in, burst = of("devices", 10), of("fan_in", 500), of("burst", 20_000)
    costs = of("costs", 1000)

    def middle(rows: list[dict[str, float]], key: str) -> float:
        return median(row[key] for row in rows)

    spent = {key: middle(costs, key) for key in costs[0]}
    return (
        COSTS.format(**spent, restart=middle(restarts, "ms"))
        + "\n"
        + OWN.format(
            pss=middle(memory, "pss_mib"),
            dirty=middle(memory, "private_dirty_mib"),
            supervisor=middle(memory, "supervisor_pss_mib"),
            start=middle(many, "s"),
            stop=middle(many, "stop_s"),
            restart=middle(restarts, "ms"),
            worst=middle(restarts, "worst_ms"),
            device=middle(devices, "pss_mib"),
            ratio=middle(fan_in, "ratio"),
            one=middle(fan_in, "one_ratio"),
            burst=middle(burst, "messages"),
            slow=middle(of("hostile", 500), "worst_ms"),
        )
    )


def of_pipelines(python: str, rounds: int) -> str:
    """Return the rows of the pipelines' table."""

    def measured(kind: str) -> float:
        return run([python, str(HERE / "pipelines.py"), kind])["us"]

    rows = []
    for title, ours, peer, theirs, target in (
        ("four processes", "pipeline", "multiprocessing.Queue", "queues", ">= 5"),
        ("four processes", "pipeline", "scapy's pipetools", "pipetools", ""),
        ("one process", "fused", "the functions, called in a loop", "loop", ">= 0.77"),
        ("a process boundary", "two", "none", "one", ""),
    ):
        found = [(measured(ours), measured(theirs)) for _ in range(rounds)]
        one, other = (median(times) for times in zip(*found, strict=True))
        ratios = [its / own for own, its in found]
        print(f"pipelines, {title}, {peer}: {median(ratios):.3g}", flush=True)
        rows.append(
            f"| {title} | {1e6 / one:,.0f}/s, {one:.2f} us | {peer} | {1e6 / other:,.0f}/s,"
            f" {other:.2f} us | {median(ratios):.3g} | {min(ratios):.3g} to {max(ratios):.3g}"
            f" | {target} |"
        )
    return "\n".join(rows)


def of_tunnels(python: str, rounds: int) -> str:
    """Return the rows of the tunnels' table."""
    kinds = {"plain": "a plain loop, UDP", "udp": "tunnel.py, UDP"}
    kinds["curve"] = "tunnel.py, ZeroMQ over TCP, CURVE"
    command = ["unshare", "--net", python, str(HERE / "tunnels.py")]
    found = [{kind: run([*command, kind])["mbit"] for kind in kinds} for _ in range(rounds)]
    rows = []
    for kind, title in kinds.items():
        ratio = median(one[kind] / one["plain"] for one in found)
        print(f"{title}: {ratio:.3g}", flush=True)
        rows.append(f"| {title} | {median(one[kind] for one in found):,.0f} | {ratio:.2f} |")
    return "\n".join(rows)


def report(
    rows: list[str],
    own: str,
    rounds: int,
    packets: str,
    parts: dict[str, float],
    pipelines: str,
    tunnels: str,
) -> str:
    ask = 'io:format("~s", [erlang:system_info(otp_release)]), halt().'
    otp = subprocess.check_output(["erl", "-noshell", "-eval", ask], text=True)
    return REPORT.format(
        **parts,
        rounds=rounds,
        system=f"{platform.system()} {platform.release()}",
        cores=os.cpu_count(),
        python=platform.python_version(),
        otp=otp,
        rows="\n".join(rows),
        packets=packets,
        pipelines=pipelines,
        tunnels=tunnels,
        own=own,
    )


def main() -> None:
    if len(sys.argv) == 1:
        with tempfile.TemporaryDirectory() as directory:
            print(data_plane.table(data_plane.measure(run, 1, directory)))
        return
    python = sys.executable
    peers = os.environ["PEERS"] = os.path.abspath(sys.argv[1])
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    with tempfile.TemporaryDirectory() as directory, erlang_ready(directory):
        packets = data_plane.measure(run, rounds, directory)
        parts = data_plane.parts(run, rounds, directory)
        rows = [compare(pair, rounds) for pair in pairs(python, peers, directory)]
        own = alone(python, rounds)
    pipelines = of_pipelines(python, rounds)
    tunnels = of_tunnels(python, rounds)
    table = data_plane.table(packets)
    PLACE.write_text(report(rows, own, rounds, table, parts, pipelines, tunnels))
    PLACE.with_suffix(".json").write_text(json.dumps(packets, indent=1) + "\n")
    PLACE.with_suffix(".svg").write_text(data_plane.plot(packets))
    print(f"written to {PLACE}")


if __name__ == "__main__":
    main()
