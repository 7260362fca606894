"""A subscription by the ring: descriptors, and events that found no room."""

import errno
import subprocess
import sys

import pytest
from processes import PATIENCE, eventually, kill

from tuncer import Device, DeviceEvent


def test_a_process_without_room_for_descriptors_is_told(dev: Device) -> None:
    program_ = (
        "import resource, tuncer\n"
        "dev = tuncer.attach('lab0'); dev.statistics(); kept = []\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))\n"
        "try:\n"
        "    while True: kept.append(dev.subscribe())\n"
        "except OSError as error: print(error.errno, len(kept) > 2)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program_],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.stdout == f"{errno.EMFILE} True\n", done.stderr
    assert dev.statistics()["restarts"] == 0


@pytest.mark.slow
def test_events_that_were_missed_are_counted_and_the_end_is_known(dev: Device) -> None:
    count = 1500
    subscription = dev.subscribe(events=True)
    begun = subscription._counted_events()
    for number in range(count):
        dev.mtu(1300 + number % 100)
    told = [subscription.recv(PATIENCE) for _ in range(10)]
    assert all(isinstance(e, DeviceEvent) and e.kind == "mtu" for e in told)
    found = len(told)
    while found < count:
        item = subscription.recv(PATIENCE)
        assert isinstance(item, DeviceEvent)
        found += item.value if item.kind == "missed" else 1  # type: ignore[operator]
    assert found == count
    for number in range(count):
        dev.mtu(1300 + number % 100)
    # Otherwise they happen while no worker runs, and only what differs in the end is told.
    eventually(lambda: subscription._counted_events() >= begun + 2 * count)
    kill(dev.pid)  # whoever knows what was missed goes
    dev.destroy()
    found = 0
    with pytest.raises(EOFError):  # in order, though there was no room to tell it
        while True:
            item = subscription.recv(PATIENCE)
            assert isinstance(item, DeviceEvent)
            found += item.value if item.kind == "missed" else 1  # type: ignore[operator]
    assert found in {count, count + 1}  # one may be told twice, of a worker that is killed
    subscription.close()
