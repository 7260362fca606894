"""Events of a device's link. What changes while no worker runs is reported at the next start."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

from supervisor import GenServer
from supervisor.lowlevel import crash_safe_value
from tuncer import tunctl
from tuncer.tunctl.linux.monitor import LinkState, Monitor, difference

# How often, and after how many seconds each, it is checked whether a device has ended with its
# namespace.
_STEPS, _STEP = 200, 0.05


class LinkMonitor:
    """Follows a link, from one network namespace to another."""

    def __init__(
        self,
        worker: GenServer,
        name: str,
        tun: int,
        kept: int,
        report: Callable[..., None],
        device_failed: Callable[[OSError], None],
    ) -> None:
        """Serve a worker.

        Args:
            worker: has the loop.
            name: the device's.
            tun: the device's descriptor.
            kept: the memfd with the state that was last reported.
            report: gets each event: its kind, and what goes with it.
            device_failed: gets EBADFD when the device was deleted.
        """
        self._worker = worker
        self._name = name
        self._tun = tun
        self._kept = kept
        self._report = report
        self._device_failed = device_failed
        self._monitor: Monitor | None = None

    def begin(self) -> None:
        """Listen, and tell what has changed since a worker last did."""
        try:
            monitor = self._monitor = Monitor(self._tun)
        except OSError as error:
            if error.errno == errno.EBADFD:
                self._device_failed(error)
                return
            # It is in a namespace that this process may not enter.
            self._worker.log.warning(
                "%s: events of its link are not reported: %s", self._name, error
            )
            return
        self._worker.add_reader(monitor.fileno(), self._changed)
        told: list[Any] | None = crash_safe_value.load(self._kept)
        if told is not None:
            before = LinkState._make([*told[:-1], frozenset(told[-1])])
            for change in difference(before, monitor.state):
                self._report(*change)
        self._note(monitor.state)

    def _note(self, state: LinkState) -> None:
        *plain, addresses = state
        crash_safe_value.save(self._kept, [*plain, sorted(addresses)])

    def _changed(self) -> None:
        monitor = self._monitor
        if monitor is None:
            return
        try:
            for change in monitor.changes():
                self._report(*change)
        except OSError as error:
            if error.errno not in {errno.ENODEV, errno.ENONET, errno.EBADFD}:
                raise
            self._link_gone(monitor, with_its_namespace=error.errno == errno.ENONET)
        else:
            self._note(monitor.state)

    def _link_gone(self, monitor: Monitor, *, with_its_namespace: bool) -> None:
        """The interface has gone from where it was: with the device, or to another namespace."""
        self._worker.remove_reader(monitor.fileno())
        monitor.close()
        self._monitor = None
        if with_its_namespace:
            self._await_end(_STEPS)
        elif self._is_there():
            self._report("moved")
            self.begin()

    def _await_end(self, steps: int) -> None:
        """The kernel tells of a namespace's end before it deletes what is in it."""
        if self._is_there() and steps:
            self._worker.call_later(_STEP, lambda: self._await_end(steps - 1))

    def _is_there(self) -> bool:
        """Tell whether the interface is there still; if not, the worker fails."""
        try:
            tunctl.devname(self._tun)
        except OSError as error:
            self._device_failed(error)
            return False
        return True
