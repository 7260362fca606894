"""The data plane against its peers: pairs of ``packets/measure.py``, one after the other.

The C loops are ``packets/loops.c``: a loop that only reads, or only writes.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent / "packets"
SECONDS = 2

Run = Callable[[list[str]], dict[str, float]]


@dataclass(frozen=True)
class Pair:
    """Two measurements, and the ratio of ours to the peer's that is wanted."""

    title: str
    peer: str
    ours: str
    theirs: str
    key: str
    unit: str
    target: str = ""
    more: str = ""
    """What else is told of ours."""


def pairs() -> list[Pair]:
    read, size = f"read {SECONDS} 1400", f"{SECONDS} 1400"
    c = "C loop that only reads"
    found = [
        Pair(f"Delivered to {n}, {what}", c, f"ring {n} {kind} {size}", read, "per_s", "/s", target)
        for n, kind, what, target in (
            (1, "batch", "batches", ">= 0.9"),
            (1, "lossless", "lossless, batches", ""),
            (4, "batch", "batches", ">= 0.9"),
            (4, "packet", "each Packet made", ">= 0.65"),
            (8, "batch", "batches", ""),
        )
    ]
    found += [
        Pair(
            "Delivered to 4, batches, 64 bytes",
            c,
            f"ring 4 batch {SECONDS} 64",
            f"read {SECONDS} 64",
            "per_s",
            "/s",
        ),
        Pair(
            "Delivered to 4, batches",
            "a ZeroMQ message a packet",
            f"ring 4 batch {size}",
            f"peer 4 messages {size}",
            "per_s",
            "/s",
            ">= 4",
        ),
        Pair(
            "Delivered to 1, each Packet made",
            "scapy's TunTapInterface",
            f"ring 1 packet {size}",
            "scapy 1 1400",
            "per_s",
            "/s",
        ),
        Pair(
            "Delivered to 4 by ZeroMQ",
            "msgpack batches of 256, pyzmq",
            f"ring 4 plain {size}",
            f"peer 4 bare {size}",
            "per_s",
            "/s",
            ">= 0.9",
        ),
        Pair(
            "One packet alone, to one",
            "read, and a pyzmq send",
            "latency 300",
            "bare_latency 300",
            "p50_us",
            "us",
            "<= 1",
        ),
        Pair(
            "`send` of a packet",
            "C loop that only writes",
            "send 200000",
            "write 200000",
            "us",
            "us",
            "<= 2",
        ),
        Pair(
            "`send` of 64 packets, each",
            "C loop that only writes",
            "send_many 200000",
            "write 200000",
            "us",
            "us",
            "<= 1.7",
        ),
    ]
    found += [
        Pair(
            f"Two flows, of {title}",
            "of one queue",
            f"queues 2 {cpus} 1 1400",
            "queues 1 any 1 1400",
            "per_s",
            "/s",
        )
        for title, cpus in (("two queues", "any"), ("two queues, pinned to a core each", "0,1"))
    ]
    if "PEERS" in os.environ:
        found.append(
            Pair(
                "Delivered to 4, batches",
                "python-pytun and pyzmq, a message a packet",
                f"ring 4 batch {size}",
                f"peer 4 pytun {size}",
                "per_s",
                "/s",
            )
        )
    for title, kind, peer, target in (
        ("one process, descriptors", "raw", "offload", ">= 0.9"),
        ("worker, subscriber, `send`, large packets", "large", "offload", ">= 0.6"),
        ("worker, subscriber, `send`, large packets", "large", "plain", ">= 3"),
        ("the same, ordinary packets", "cut", "plain", ""),
    ):
        loop = "C loop with offload" if peer == "offload" else "C loop without offload"
        ours, theirs = f"join {kind} {SECONDS}", f"join c_{peer} {SECONDS}"
        told = f"TCP through two TUNs: {title}"
        found.append(Pair(told, loop, ours, theirs, "gbit_s", "Gbit/s", target))
    return found


def compile_loops(directory: str) -> None:
    """Compile the C loops into a directory."""
    subprocess.run(["gcc", "-O2", "-o", f"{directory}/loops", str(HERE / "loops.c")], check=True)


def script(directory: str, program: str) -> list[str]:
    """Return a command that runs a program in a network namespace of its own."""
    name_space = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "-"]
    return [*name_space, sys.executable, str(HERE / program), f"{directory}/loops"]


def parts(run: Run, rounds: int, directory: str) -> dict[str, float]:
    """Return what the parts of the hot path cost: microseconds a packet, medians."""
    found = [run([*script(directory, "parts.py"), "150000"]) for _ in range(rounds)]
    return {name: median(one[name] for one in found) for name in found[0]}


def measure(run: Run, rounds: int, directory: str) -> list[dict[str, Any]]:
    """Return a row for each pair."""
    compile_loops(directory)
    start = script(directory, "measure.py")
    rows, measured = [], []
    for _ in range(rounds):
        found: dict[str, dict[str, float]] = {}  # what several pairs have in common is run once
        for pair in pairs():
            for command in (pair.ours, pair.theirs):
                if command not in found:
                    found[command] = run([*start, *command.split()])
        measured.append(found)
    for pair in pairs():
        ours = [found[pair.ours][pair.key] for found in measured]
        theirs = [found[pair.theirs][pair.key] for found in measured]
        workers = [found[pair.ours].get("worker_cpu_us") for found in measured]
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        print(f"{pair.title}, {pair.peer}: {median(ratios):.3g}", flush=True)
        rows.append(
            {
                "title": pair.title,
                "peer": pair.peer,
                "unit": pair.unit,
                "target": pair.target,
                "ours": ours,
                "theirs": theirs,
                "ratios": ratios,
                "worker_cpu_us": [used for used in workers if used is not None],
                "share": [f[pair.ours]["share"] for f in measured if "share" in f[pair.ours]],
            }
        )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as Markdown."""
    lines = [
        "| measured | ours | peer | its | ratio | range | target | delivered | worker, us |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        digits = 0 if row["unit"] == "/s" else 2
        ours, theirs = (f"{median(row[key]):,.{digits}f}" for key in ("ours", "theirs"))
        ratios, used, share = row["ratios"], row["worker_cpu_us"], row["share"]
        lines.append(
            f"| {row['title']} | {ours} {row['unit']} | {row['peer']} | {theirs} {row['unit']} |"
            f" {median(ratios):.2f} | {min(ratios):.2f} to {max(ratios):.2f} | {row['target']} |"
            f" {f'{median(share):.3f}' if share else ''} |"
            f" {f'{median(used):.2f}' if used else ''} |"
        )
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]]) -> str:
    """Return the rates as an SVG: ours and the peer's, a pair of bars each."""
    shown = [row for row in rows if row["unit"] == "/s"]
    most = max(median(row[key]) for row in shown for key in ("ours", "theirs"))
    parts = []
    for number, row in enumerate(shown):
        top = 10 + number * 46
        parts.append(f'<text x="10" y="{top + 12}">{row["title"]}; peer: {row["peer"]}</text>')
        for offset, key, colour in ((16, "ours", "#2a78d6"), (28, "theirs", "#9aa5b1")):
            value = median(row[key])
            width = 560 * value / most
            parts.append(
                f'<rect x="10" y="{top + offset}" width="{width:.0f}" height="10" fill="{colour}"/>'
                f'<text x="{width + 16:.0f}" y="{top + offset + 9}">{value:,.0f}/s</text>'
            )
    height = 20 + len(shown) * 46
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="680" height="{height}"'
        f' font-family="sans-serif" font-size="11">\n'
        '<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )
