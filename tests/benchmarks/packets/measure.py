"""One measurement of the data plane, in a network namespace of its own: prints a line of JSON.

Usage: unshare --net python measure.py LOOPS WHAT ARGUMENTS. LOOPS is the compiled ``loops.c``.

- read SECONDS SIZE: a C loop that only reads.
- ring SUBSCRIBERS KIND SECONDS SIZE: our worker and subscribers of the ring, or plain ones. Of the
  ring there is one more, which is stopped during the flood.
- peer SUBSCRIBERS KIND SECONDS SIZE: ``publisher.py`` and subscribers, or ``pytun_publisher.py``
  in the environment of PEERS.
- scapy SECONDS SIZE: scapy's TunTapInterface, in one process.
- queues COUNT CPUS SECONDS SIZE: so many queues, pinned to processors ("0,1") or not ("any"), a
  subscriber and a flood of two flows for each.
- write COUNT: a C loop that only writes; send COUNT, send_many COUNT: ours.
- latency COUNT: one packet alone, from its send to its subscriber; bare_latency: the peer's.

- join KIND SECONDS: TCP by iperf3 through two TUNs that ``forwarder.py`` joins, or ``loops.c``
  (c_plain, c_offload).

Where packets are counted, this fails if one is neither delivered nor counted as lost.
"""

import json
import os
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zmq

import tuncer
from tuncer import Flag

HERE = Path(__file__).parent
NAME, ADDRESS, THERE = "bench0", "10.98.0.1/24", "10.98.0.2"
LOOPS = sys.argv[1]
FLAGS = Flag.TUN | Flag.NO_PI


def start(*command: object) -> subprocess.Popen[str]:
    """Start a program; it is ready when this returns."""
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def result(process: subprocess.Popen[str]) -> dict[str, float]:
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    found: dict[str, float] = json.loads(out.splitlines()[-1])
    return found


def flood(size: str, seconds: str) -> dict[str, float]:
    command = [LOOPS, "send", THERE, size, seconds]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def read(seconds: str, size: str) -> dict[str, float]:
    reader = start(LOOPS, "read", NAME, seconds)
    flood(size, seconds)
    return result(reader)


def cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def drained(dev: tuncer.Device) -> int:
    """Wait until the worker has read all that the kernel had queued; return how many packets."""
    number = -1
    while number < (number := dev.statistics()["packets_read"]):
        time.sleep(0.1)
    return number


def ring(subscribers: str, kind: str, seconds: str, size: str) -> dict[str, Any]:
    dev = tuncer.create(NAME, FLAGS)
    dev.up(ADDRESS, link_local=False)
    program = HERE / "subscriber.py"
    if kind == "plain":  # a subscriber of the wire format is ready when it has got a message
        dev.setopt(active=True)
    kinds = [kind] * int(subscribers)
    if kind in {"batch", "packet"}:
        kinds.append("batch")  # one more, that is stopped during the flood
    waiting = [
        subprocess.Popen(
            [sys.executable, str(program), one, NAME], stdout=subprocess.PIPE, text=True
        )
        for one in kinds
    ]
    for process in waiting:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    stopped = waiting[int(subscribers) :]
    for process in stopped:
        process.send_signal(signal.SIGSTOP)
    before = cpu(dev.pid)
    flood(size, seconds)
    used = cpu(dev.pid) - before
    number = drained(dev)
    for process in stopped:
        process.send_signal(signal.SIGCONT)
    dev.destroy()
    found = [result(process) for process in waiting]
    unaccounted = [number - one["delivered"] - one["lost"] for one in found]
    assert not any(unaccounted), f"packets that nobody accounts for: {unaccounted} of {number}"
    found = found[: int(subscribers)]
    slowest = min(one["delivered"] for one in found)
    return {
        "per_s": slowest / float(seconds),
        "share": slowest / number,
        "worker_cpu_us": used / number * 1e6,
        "subscriber_cpu_us": statistics.median(one["cpu_s"] for one in found) / number * 1e6,
    }


def queues(count: str, cpus: str, seconds: str, size: str) -> dict[str, float]:
    pinned = None if cpus == "any" else [int(cpu) for cpu in cpus.split(",")]
    dev = tuncer.create(NAME, FLAGS, queues=int(count), cpus=pinned)
    dev.up(ADDRESS, link_local=False)
    program = [sys.executable, HERE / "subscriber.py", "queue", NAME]
    waiting = [start(*program, number) for number in range(dev.queues)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: flood(size, seconds), range(2)))
    number = drained(dev)
    dev.destroy()
    found = [result(process) for process in waiting]
    total = sum(one["delivered"] + one["lost"] for one in found)
    assert total == number, f"{total} of {number} packets are accounted for"
    return {"per_s": sum(one["delivered"] for one in found) / float(seconds)}


def peer(subscribers: str, kind: str, seconds: str, size: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as directory:
        endpoint = f"ipc://{directory}/s"
        if kind == "pytun":
            program = [os.environ["PEERS"], HERE / "pytun_publisher.py", endpoint, NAME, seconds]
            kind = "messages"
        else:
            program = [sys.executable, HERE / "publisher.py", kind, NAME, endpoint, seconds]
        publisher = start(*program)
        waiting = [
            start(sys.executable, HERE / "subscriber.py", kind, endpoint)
            for _ in range(int(subscribers))
        ]
        flood(size, seconds)
        result(publisher)
        slowest = min(result(process)["delivered"] for process in waiting)
    return {"per_s": slowest / float(seconds)}


def scapy(seconds: str, size: str) -> dict[str, float]:
    reader = start(sys.executable, HERE / "scapy_reader.py", NAME, seconds)
    flood(size, seconds)
    return result(reader)


def udp(source: str, target: str) -> bytes:
    """A UDP packet of 64 bytes, without a checksum of its own."""
    header = struct.pack("!BBHHHBBH", 0x45, 0, 64, 1, 0x4000, 64, 17, 0)
    header += socket.inet_aton(source) + socket.inet_aton(target)
    total = sum(struct.unpack("!10H", header))
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    header = header[:10] + struct.pack("!H", checksum) + header[12:]
    return header + struct.pack("!HHHH", 9, 9, 44, 0) + bytes(36)


def write(count: str) -> dict[str, float]:
    done = subprocess.run([LOOPS, "write", NAME, count], check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def send(count: str, many: int = 1) -> dict[str, float]:
    with tuncer.create(NAME, FLAGS) as dev:
        dev.up(ADDRESS, link_local=False)
        packets = [udp(THERE, "10.98.0.1")] * many
        dev.send(*packets)
        before = dev.statistics()["packets_sent"]
        began = time.perf_counter()
        for _ in range(int(count) // many):
            dev.send(*packets)
        took = time.perf_counter() - began
        sent = dev.statistics()["packets_sent"] - before
        assert sent == int(count) // many * many, f"{sent} of {count} packets have arrived"
    return {"us": took / sent * 1e6}


def send_many(count: str) -> dict[str, float]:
    return send(count, 64)


def latency(count: str) -> dict[str, float]:
    with tuncer.create(NAME, FLAGS) as dev, dev.subscribe() as subscription:
        dev.up(ADDRESS, link_local=False)
        return {"p50_us": delay(count, lambda: subscription.recv(5.0))}


def bare_latency(count: str) -> dict[str, float]:
    """Read, and send by pyzmq, in one process; receive in another."""
    with tempfile.TemporaryDirectory() as directory:
        endpoint = f"ipc://{directory}/s"
        command = (sys.executable, HERE / "publisher.py", "messages", NAME, endpoint, "20")
        publisher = start(*command)
        context = zmq.Context()
        subscriber = context.socket(zmq.SUB)
        subscriber.setsockopt(zmq.SUBSCRIBE, b"")
        subscriber.connect(endpoint)
        subscriber.recv()
        time.sleep(0.1)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"first", (THERE, 9))
        while subscriber.recv() == b"":
            pass
        found = delay(count, subscriber.recv)
        publisher.kill()
        publisher.wait()
        context.destroy(0)
    return {"p50_us": found}


def delay(count: str, receive: Any) -> float:
    """Return the median time from a packet's send to its arrival, in microseconds."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect((THERE, 9))
        for _ in range(int(count)):
            time.sleep(0.001)  # alone: everybody sleeps when it comes
            began = time.perf_counter()
            sender.send(b"x" * 100)
            receive()
            found.append(time.perf_counter() - began)
    return statistics.median(found) * 1e6


@contextmanager
def namespace() -> Iterator[int]:
    """Give a process in a network namespace of its own."""
    program = ["unshare", "--net", "sh", "-c", "ip link set lo up; echo ready; exec sleep 1000"]
    process = start(*program)
    try:
        yield process.pid
    finally:
        process.kill()
        process.communicate()


def inside(pid: int, *command: str) -> list[str]:
    return ["nsenter", "--net", "--target", str(pid), *command]


def join(kind: str, seconds: str) -> dict[str, float]:
    with namespace() as one, namespace() as other:
        if kind.startswith("c_"):
            forwarder = start(LOOPS, "join", one, other, int(kind == "c_offload"))
        else:
            forwarder = start(sys.executable, HERE / "forwarder.py", kind, one, other)
        for number, pid in enumerate((one, other), 1):
            for command in (f"addr add 10.98.0.{number}/24 dev join0", "link set join0 up"):
                subprocess.run(inside(pid, "ip", *command.split()), check=True)
        server = inside(other, "iperf3", "--server", "--one-off", "--forceflush")
        with subprocess.Popen(server, stdout=subprocess.PIPE, text=True) as serving:
            assert serving.stdout is not None
            while "listening" not in serving.stdout.readline():
                pass
            client = ["iperf3", "--client", "10.98.0.2", "--time", seconds, "--json"]
            done = subprocess.run(
                inside(one, *client), check=True, capture_output=True, text=True, timeout=60
            )
        forwarder.terminate()
        forwarder.communicate()
    received = json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"]
    return {"gbit_s": received / 1e9}


def main() -> None:
    what, arguments = sys.argv[2], sys.argv[3:]
    kinds = (read, ring, peer, write, send, send_many, latency, bare_latency, join, scapy, queues)
    functions = {function.__name__: function for function in kinds}
    print(json.dumps(functions[what](*arguments)))


if __name__ == "__main__":
    main()
