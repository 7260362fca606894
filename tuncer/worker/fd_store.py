"""What outlives a worker: its descriptors, of which its supervisor's fd store has duplicates."""

from __future__ import annotations

from collections.abc import Callable

from supervisor import GenServer, lowlevel
from tuncer.protocol.fd_store_keys import TUN, StoreKey


class FdStore:
    """The descriptors that a worker has in the fd store of its supervisor."""

    def __init__(self, worker: GenServer) -> None:
        self._worker = worker
        self.inherited = {StoreKey.parse(name): fd for name, fd in worker.stored_fds().items()}
        """What the workers before this one have stored: this worker's own descriptors of it."""
        self._keys = set(self.inherited)

    def get_or_make(self, key: StoreKey, make: Callable[[], int]) -> int:
        """Return an inherited descriptor; if there is none, make one and store it."""
        fd = self.inherited.get(key)
        if fd is None:
            fd = make()
            self.put(key, fd)
        return fd

    def put(self, key: StoreKey, fd: int) -> None:
        """Store a descriptor, in place of the one that has this key.

        Raises:
            OSError: there is no supervisor, or its store is full.
        """
        self._worker.store_fd(str(key), fd)
        self._keys.add(key)

    def put_later(self, key: StoreKey, fd: int, done: Callable[[str | None], None]) -> None:
        """Store a descriptor without waiting for the supervisor.

        Args:
            key: the descriptor's.
            fd: the descriptor.
            done: called with None when it is stored, or with the reason why it is not.

        Raises:
            OSError: there is no supervisor.
        """
        lowlevel.store_fd_later(self._worker, str(key), fd, done)
        self._keys.add(key)

    def drop(self, key: StoreKey) -> None:
        """Take a descriptor out of the store."""
        self._worker.drop_fd(str(key))
        self._keys.discard(key)

    def drop_all(self) -> None:
        """Take everything out of the store: the next worker begins with a new device.

        The device goes last. The successor of a worker that is killed before that finds a device
        that was deleted, and drops the rest.
        """
        for key in sorted(self._keys, key=lambda key: key == TUN):
            self.drop(key)
