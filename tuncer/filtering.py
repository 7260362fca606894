"""A device's filter: in the kernel where it takes it, otherwise in the worker."""

from __future__ import annotations

from collections.abc import Callable

from tuncer import record, tunctl
from tuncer.tunctl import Program

KERNEL, WORKER = "kernel", "worker"


class Filter:
    """What decides which packets of a device are wanted."""

    def __init__(
        self,
        tun: int,
        kept: int,
        address: Callable[[int], int],
        prefix: Callable[[], int],
    ) -> None:
        """Take up the filter of a worker before this one, if there was any.

        Args:
            tun: the device's descriptor.
            kept: the descriptor of the record where the filter is kept.
            address: returns where a slot of the ring lies in memory.
            prefix: returns how many bytes before each packet a filter does not see.
        """
        self._tun = tun
        self._kept = kept
        self._address = address
        self._prefix = prefix
        self._program: Program | None = None
        self.place: str | None = None
        """"kernel" or "worker", where it runs; None without any."""
        self.runs_here = False
        """Whether packets that are read now must be looked at."""
        found = record.load(kept)
        if found is not None:  # otherwise the kernel may have one that is not ours to remove
            self._install(Program(*found) if found else None)

    @property
    def expression(self) -> str | None:
        """What it was compiled of."""
        return None if self._program is None else self._program.expression

    def set(self, expression: str | None, instructions: bytes = b"") -> str | None:
        """Replace the filter; return where the new one runs.

        Args:
            expression: for people; None: everything is wanted.
            instructions: what it was compiled to.
        """
        program = None if expression is None else Program(expression, instructions)
        # First the record: whoever takes up a worker that is killed here installs what it says.
        record.save(self._kept, [expression, instructions] if program else [])
        self._install(program)
        return self.place

    def _install(self, program: Program | None) -> None:
        tunctl.detach_filter(self._tun)
        self._program = program
        if program is None:
            self.place = None
        else:
            self.place = KERNEL if tunctl.attach_filter(self._tun, program) else WORKER
        # What was queued before the kernel had it is still to come.
        self.runs_here = program is not None

    def is_dry(self) -> None:
        """Everything that was queued has been read: from now on, the kernel's filter is enough."""
        if self.place == KERNEL:
            self.runs_here = False

    def accepts(self, slot: int, length: int) -> bool:
        """Tell whether the packet in a slot of the ring is wanted."""
        if self._program is None or not self.runs_here:
            return True
        prefix = self._prefix()
        start = self._address(slot) + prefix
        return self._program.accepts_at(start, max(0, length - prefix))
