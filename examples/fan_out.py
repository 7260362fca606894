"""One device, three subscriber processes: each gets every packet.

Run:    sudo .venv/bin/python examples/fan_out.py
See:    1,000 datagrams are sent to the other side of a TUN, the worker is killed in the middle,
        and each of the three processes says that it has received all of them, in order.
"""

import multiprocessing
import multiprocessing.queues
import os
import signal
import socket

import tuncer

DATAGRAMS = 1000
UDP = 17


def count(number: int, dev: tuncer.Device, ready: "multiprocessing.queues.Queue[int]") -> None:
    """Follow the device, in a process of its own, until the last datagram."""
    expected = 0
    with dev.subscribe() as packets:
        ready.put(number)
        for packet in packets:
            if packet.data[0] == 0x45 and packet.data[9] == UDP:  # IPv4
                assert int(packet.data[28:]) == expected
                expected += 1
            if expected == DATAGRAMS:
                break
        print(f"subscriber {number}: {expected} datagrams in order, {packets.stats()}", flush=True)


def main() -> None:
    """Start the subscribers, send, crash, and wait."""
    spawn = multiprocessing.get_context("spawn")
    with tuncer.create("lab0", tuncer.Flag.TUN | tuncer.Flag.NO_PI) as dev:
        dev.up("10.9.0.1/24")
        ready = spawn.Queue()
        processes = [spawn.Process(target=count, args=(n, dev, ready)) for n in (1, 2, 3)]
        for process in processes:
            process.start()
        for _ in processes:
            ready.get()  # its subscription is in force
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.connect(("10.9.0.2", 9))
            for number in range(DATAGRAMS):
                if number == DATAGRAMS // 2:
                    os.kill(dev.pid, signal.SIGKILL)  # nobody will notice
                sender.send(b"%d" % number)
        for process in processes:
            process.join()
        print(f"restarts of the worker: {dev.statistics()['restarts']}")


if __name__ == "__main__":
    main()
