"""An actor of one's own under a supervisor; its state is kept over crashes by the fd store.

Run:    .venv/bin/python examples/long_running.py     (no privileges needed)
See:    a counter counts to 30, and is killed by SIGKILL at 10 and at 20. Each time the
        supervisor starts it again, in a new process, and it goes on where it was.
"""

import mmap
import os
import signal

from supervisor import ChildSpec, GenServer, ProcessDown, Supervisor, handler


class Counter(GenServer):
    """Counts in shared memory, whose descriptor its supervisor keeps."""

    def init(self) -> None:
        """Take up the memory of the last incarnation, or begin with new."""
        fd = self.stored_fds().get("state")
        if fd is None:
            fd = os.memfd_create("counter")
            os.ftruncate(fd, mmap.PAGESIZE)
            self.store_fd("state", fd)
        self.state = memoryview(mmap.mmap(fd, mmap.PAGESIZE)).cast("Q")

    @handler
    def count(self) -> int:
        """Count on."""
        self.state[0] += 1
        return self.state[0]

    @handler
    def crash(self) -> None:
        """End as kill -9 would have it."""
        os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Start the tree, count, crash."""
    specification = ChildSpec("counter", Counter, name="counter")
    supervisor = Supervisor.start_link([specification], intensity=5, period=60)
    counter = supervisor.child("counter", Counter)
    for _ in range(30):
        number = counter.call(Counter.count)
        print(f"process {counter.pid} counts {number}", flush=True)
        if number in {10, 20}:
            try:
                counter.call(Counter.crash)
            except ProcessDown as down:
                print(f"it crashed: {down.reason}", flush=True)
            supervisor.child("counter")  # returns when it serves again
    supervisor.stop()


if __name__ == "__main__":
    main()
