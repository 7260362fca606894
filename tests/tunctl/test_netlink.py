"""A device is found by its descriptor, whatever its name is meanwhile."""

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from devices import TAP, TUN
from processes import PATIENCE, Run, program

from tuncer import tunctl
from tuncer.tunctl import Flag


def test_a_device_that_is_renamed_all_the_time_is_found(tun: int) -> None:
    over = threading.Event()

    def rename() -> None:
        other = os.dup(tun)
        turn = 0
        while not over.is_set():
            turn += 1
            tunctl.rename(other, f"t{turn % 2}x")
        os.close(other)

    with ThreadPoolExecutor(1) as threads:
        renaming = threads.submit(rename)
        for _ in range(300):
            assert tunctl.mtu(tun) == 1500
        over.set()
        renaming.result()


_TAKEN_AWAY = """
import os, sys
from tuncer import tunctl
from tuncer.tunctl import Flag
fd = tunctl.create("lab0", Flag.TUN | Flag.NO_PI)
print(os.getpid(), flush=True)
sys.stdin.readline()
other = tunctl.create("lab0", Flag.TUN | Flag.NO_PI)
for use in (tunctl.mtu, tunctl.delete, tunctl.up, tunctl.flags):
    try:
        use(fd)
    except PermissionError as error:
        print(error.filename, "another network namespace" in str(error), flush=True)
print(tunctl.mtu(other))
"""


def test_another_interface_of_its_name_is_never_taken_for_one_that_was_taken_away(run: Run) -> None:
    command = ("unshare", "--user", "--map-root-user", "--net", sys.executable, "-c", _TAKEN_AWAY)
    with program(*command) as inner:
        pid = inner.expect("\n").strip()
        here = f"/proc/{os.getpid()}/ns/net"
        run("nsenter", f"--net=/proc/{pid}/ns/net", "ip", "link", "set", "lab0", "netns", here)
        assert inner.process.stdin is not None
        inner.process.stdin.write("\n")
        inner.process.stdin.flush()
        for _ in range(4):
            assert inner.expect("lab0").split() == ["lab0", "True"]
        inner.expect("1500")
        inner.process.wait(PATIENCE)


@pytest.mark.slow
def test_no_descriptor_leaks_over_ten_thousand_devices() -> None:
    # Each takes the kernel 16 ms to delete, most of which it waits: many at a time.
    before = os.listdir("/proc/self/fd")

    held = tunctl.create("held", TUN)
    failing: list[tuple[str, int, Any]] = [
        ("lo", TUN, None),
        ("held", TUN, None),
        ("held", TAP, None),
        ("t", TUN, "no-such-namespace"),
        ("t" * 16, TUN, None),
        ("t", TUN | Flag.NAPI | Flag.NAPI_FRAGS, None),
    ]

    def cycle(number: int) -> None:
        if number % 4 == 3:  # failing ones too
            with pytest.raises((OSError, ValueError)):
                tunctl.create(*failing[number // 4 % len(failing)])
            return
        fd = tunctl.create(f"t{threading.get_ident() % 10**9}", TUN)
        assert not os.get_inheritable(fd)
        os.close(fd)

    with ThreadPoolExecutor(64) as threads:
        for _ in threads.map(cycle, range(10_000)):
            pass
    os.close(held)
    assert len(os.listdir("/proc/self/fd")) == len(before)
