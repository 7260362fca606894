"""Joins two TUN devices, each in the network namespace of a process, until it is terminated.

Usage: python forwarder.py KIND PID PID. It prints "ready" when both are there.

- raw: one process reads and writes the descriptors.
- plain: through our workers, subscriptions and ``send``, without offload.
- large: the same, with offload and large packets.
- cut: the same, with offload; but subscriptions yield ordinary packets.
"""

import contextlib
import os
import select
import sys

import tuncer
from tuncer import Flag, Offload, tunctl

FLAGS = Flag.TUN | Flag.NO_PI
TCP = Offload.CSUM | Offload.TSO4 | Offload.TSO6 | Offload.TSO_ECN


def raw(pids: list[int]) -> None:
    fds = [tunctl.create("join0", FLAGS | Flag.VNET_HDR, namespace=pid) for pid in pids]
    for fd in fds:
        tunctl.offload(fd, TCP)
    poller = select.poll()
    for fd in fds:
        poller.register(fd, select.POLLIN)
    other = {fds[0]: fds[1], fds[1]: fds[0]}
    print("ready", flush=True)
    read, write = os.read, os.write
    while True:
        for fd, _ in poller.poll():
            out = other[fd]
            try:
                for _ in range(64):
                    write(out, read(fd, 70000))
            except OSError:  # no more packets; or one of them is not up yet
                pass


def ours(kind: str, pids: list[int]) -> None:
    large, offload = kind == "large", kind != "plain"
    devices = [tuncer.create("join0", FLAGS, namespace=pid, offload=offload) for pid in pids]
    poller = select.poll()
    ends = {}
    for source, target in (devices, devices[::-1]):
        subscription = source.subscribe(batch=True, large=large)
        poller.register(subscription.fileno(), select.POLLIN)
        ends[subscription.fileno()] = subscription, target
    print("ready", flush=True)
    while True:
        for fd, _ in poller.poll():
            subscription, target = ends[fd]
            with contextlib.suppress(OSError):  # nothing there; or one of them is not up yet
                target.send(*subscription.recv(timeout=0).views(), large=large)


def main() -> None:
    kind, *pids = sys.argv[1:]
    numbers = [int(pid) for pid in pids]
    if kind == "raw":
        raw(numbers)
    else:
        ours(kind, numbers)


if __name__ == "__main__":
    main()
