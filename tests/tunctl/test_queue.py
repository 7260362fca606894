"""Queues of a device, attached and detached."""

import pytest
from devices import TUN
from ip_links import device, shown
from processes import Run

from tuncer import tunctl
from tuncer.tunctl import Flag


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        (Flag.TUN | Flag.MULTI_QUEUE, "with NO_PI"),
        (TUN | Flag.MULTI_QUEUE | Flag.VNET_HDR, "without VNET_HDR"),
    ],
)
def test_a_further_queue_of_another_framing_is_refused(asked: Flag, named: str) -> None:
    multi = TUN | Flag.MULTI_QUEUE
    with device("q0", multi) as fd, device("q0", multi):
        with pytest.raises(OSError, match=named):
            tunctl.create("q0", asked)
        assert tunctl.flags(fd) == multi


def test_queues_are_detached_and_attached(run: Run) -> None:
    def queues() -> tuple[int, int]:
        data = shown(run)["linkinfo"]["info_data"]
        return data["numqueues"], data["numdisabled"]

    multi = TUN | Flag.MULTI_QUEUE
    with device("t0", multi) as first, device("t0", multi) as second:
        assert queues() == (2, 0)
        tunctl.detach_queue(second)
        assert queues() == tunctl.queues("t0") == (1, 1)
        assert (tunctl.is_attached(first), tunctl.is_attached(second)) == (True, False)
        with pytest.raises(OSError, match="detached already"):
            tunctl.detach_queue(second)
        assert tunctl.devname(second) == "t0"
        tunctl.attach_queue(second)
        assert queues() == (2, 0)
        with pytest.raises(OSError, match="attached already"):
            tunctl.attach_queue(first)
