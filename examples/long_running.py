"""An actor of one's own under a supervisor; its state is kept over crashes by the fd store.

Run:    .venv/bin/python examples/long_running.py     (no privileges needed)
See:    a counter counts to 30, and is killed by SIGKILL at 10 and at 20. Each time the
        supervisor starts it again, in a new process, and it goes on where it was.
"""

import mmap
import os
import signal

from supervisor import ChildSpec, GenServer, ProcessDown, Sender, Supervisor, SupervisorRef, whereis


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

    def handle_call(self, request: str, sender: Sender) -> int:  # noqa: ARG002 - the contract's
        """Count on; and crash when told to."""
        if request == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        self.state[0] += 1
        return self.state[0]


def main() -> None:
    """Start the tree, count, crash."""
    specification = ChildSpec("counter", Counter, name="counter")
    supervisor: SupervisorRef = Supervisor.start_link([specification], intensity=5, period=60)
    counter = whereis("counter")
    assert counter is not None
    for _ in range(30):
        number = counter.call("count")
        print(f"process {counter.pid} counts {number}", flush=True)
        if number in {10, 20}:
            try:
                counter.call("crash")
            except ProcessDown as down:
                print(f"it crashed: {down.reason}", flush=True)
            supervisor.child("counter")  # returns when it serves again
    supervisor.stop()


if __name__ == "__main__":
    main()
