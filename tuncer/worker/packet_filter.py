"""A device's filter: in the kernel where it takes it, otherwise in the worker."""

from __future__ import annotations

from collections.abc import Callable

from supervisor.lowlevel import crash_safe_value
from tuncer import tunctl
from tuncer.tunctl import Program

KERNEL, WORKER = "kernel", "worker"


class Filter:
    """What decides which packets of a device are wanted."""

    def __init__(
        self,
        tun: int,
        kept: int,
        prefix: Callable[[], int],
        *,
        leads: bool,
    ) -> None:
        """Go on with the filter of a worker before this one, if there was any.

        Args:
            tun: the device's descriptor.
            kept: the descriptor of the crash-safe value where the filter is kept.
            prefix: returns how many bytes before each packet a filter does not see.
            leads: whether the kernel's filter, which is the device's, is this worker's to set.
        """
        self._tun = tun
        self._kept = kept
        self._prefix = prefix
        self._leads = leads
        self._program: Program | None = None
        self.runs_in: str | None = None
        """"kernel" or "worker", where it runs; None without any."""
        self.runs_here = False
        """Whether packets that are read now must be looked at."""
        self._version = 0
        found = crash_safe_value.load(kept)
        if found is not None:  # otherwise the kernel may have one that is not ours to remove
            expression, instructions, runs_in, self._version = found
            self._install(None if runs_in is None else Program(expression, instructions), runs_in)

    @property
    def expression(self) -> str | None:
        """What it was compiled of."""
        return None if self._program is None else self._program.expression

    def set(
        self, expression: str | None, instructions: bytes, told: tuple[str | None, int] | None
    ) -> tuple[str | None, int]:
        """Replace the filter.

        Args:
            expression: for people; None: everything is wanted.
            instructions: what it was compiled to.
            told: what the worker that leads has returned, for the others; None for that one.

        Returns:
            Where it runs, and its version. If two programs set filters of all queues at the same
            time, every queue ends with the one that the first queue got last.

        Raises:
            OSError: the filter before stays.
        """
        runs_in, version = told or (None if expression is None else WORKER, self._version + 1)
        if version < self._version:
            return self.runs_in, self._version
        before = crash_safe_value.load(self._kept)
        program = None if expression is None else Program(expression, instructions)
        # Save first: the successor of a worker that is killed here installs what it says.
        crash_safe_value.save(self._kept, [expression, instructions, runs_in, version])
        try:
            self._install(program, runs_in)
        except OSError:
            crash_safe_value.save(self._kept, before)
            raise
        self._version = version
        return self.runs_in, version

    def _install(self, program: Program | None, runs_in: str | None) -> None:
        if self._leads:
            # One that is there is replaced in one step: other queues rely on it.
            taken = program is not None and tunctl.attach_filter(self._tun, program)
            if not taken:
                tunctl.detach_filter(self._tun)
            runs_in = None if program is None else KERNEL if taken else WORKER
        self._program, self.runs_in = program, runs_in
        # What the kernel queued before it had the filter was not filtered: it is checked here.
        self.runs_here = program is not None

    def is_dry(self) -> None:
        """Everything that was queued has been read: from now on, the kernel's filter is enough."""
        if self.runs_in == KERNEL:
            self.runs_here = False

    def accepts(self, address: int, length: int) -> bool:
        """Tell whether a packet is wanted, which lies at an address of this process's memory."""
        if self._program is None or not self.runs_here:
            return True
        prefix = self._prefix()
        return self._program.accepts_at(address + prefix, max(0, length - prefix))
