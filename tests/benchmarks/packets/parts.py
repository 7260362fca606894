"""What a packet costs, part by part: processor time of this process, in a flood of 1,400 bytes.

Usage: unshare --net python parts.py LOOPS COUNT. It prints a line of JSON: microseconds a packet.
"""

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable

from tuncer import Flag, tunctl
from tuncer.protocol import ring
from tuncer.protocol.ring_reader import RingReader
from tuncer.worker.ring_writer import RingWriter

NAME, THERE, BATCH = "bench0", "10.98.0.2", ring.BATCH
LOOPS, COUNT = sys.argv[1], int(sys.argv[2])


class Parts:
    """A device, and a ring that it is read into."""

    def __init__(self) -> None:
        self.fd = tunctl.create(NAME, Flag.TUN | Flag.NO_PI)
        tunctl.txqueuelen(self.fd, 10_000)
        tunctl.up(self.fd, "10.98.0.1/24", link_local=False)
        memory = ring.create()
        self.writer, self.reader = RingWriter(memory), RingReader(memory)
        self.place = memoryview(bytearray(ring.LONGEST))
        self.large = memoryview(bytearray(ring.DEFAULT_BYTES + ring.LONGEST))
        self.offset = 0
        self.take_s = self.packets_s = 0.0
        self.taken = 0

    def into_one_place(self) -> int:
        found, fd, place, flags = 0, self.fd, self.place, os.RWF_NOWAIT
        try:
            for _ in range(BATCH):
                os.preadv(fd, (place,), -1, flags)
                found += 1
        except BlockingIOError:
            pass
        return found

    def one_behind_the_other(self) -> int:
        found, fd, large, flags = 0, self.fd, self.large, os.RWF_NOWAIT
        begin = self.offset
        try:
            for _ in range(BATCH):
                begin += os.preadv(fd, (large[begin : begin + ring.LONGEST],), -1, flags)
                found += 1
        except BlockingIOError:
            pass
        self.offset = begin if begin < ring.DEFAULT_BYTES else 0
        return found

    def fill(self) -> int:
        return self.writer.fill(self.fd)

    def fill_and_take(self) -> int:
        """Fill the ring, and take the packets as a subscriber does, which is counted apart."""
        before = self.writer.head
        found = self.writer.fill(self.fd)
        began = time.thread_time()
        batch = self.reader.take(before, NAME).batch
        copied = time.thread_time()
        if batch is not None:
            list(batch)
            self.take_s += copied - began
            self.packets_s += time.thread_time() - copied
            self.taken += len(batch)
        return found

    def cost(self, read: Callable[[], int]) -> float:
        """Return what a packet costs: microseconds."""
        poller = select.poll()
        poller.register(self.fd, select.POLLIN)
        command = [LOOPS, "send", THERE, "1400", "60"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as sender:
            poller.poll()
            began, found = time.thread_time(), 0
            while found < COUNT:
                new = read()
                found += new
                if new < BATCH:
                    poller.poll()
            used = time.thread_time() - began
            sender.kill()
        while read():  # what is left
            pass
        return used / found * 1e6


def main() -> None:
    parts = Parts()
    rows = {
        "read_us": parts.cost(parts.into_one_place),
        "place_us": parts.cost(parts.one_behind_the_other),
        "fill_us": parts.cost(parts.fill),
    }
    parts.cost(parts.fill_and_take)
    rows["take_us"] = parts.take_s / parts.taken * 1e6
    rows["packets_us"] = parts.packets_s / parts.taken * 1e6
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
