"""Filters that are attached, and who they are left by."""

import os

from processes import Run

from tuncer import tunctl


def test_the_receive_filter_of_a_tap(tap: int, run: Run) -> None:
    tunctl.mac(tap, "02:00:00:00:00:01")
    tunctl.up(tap, "10.0.0.1/24", link_local=False)
    for host in (2, 3):
        mac = f"02:00:00:00:00:0{host}"
        run("ip", "neigh", "add", f"10.0.0.{host}", "lladdr", mac, "dev", "e0")

    def seen() -> set[str]:
        for host in (2, 3):
            run("sh", "-c", f"ping -c 1 -W 0.01 10.0.0.{host} || true")
        found = set()
        while True:
            try:
                found.add(os.read(tap, 65535)[:6].hex(":"))
            except BlockingIOError:
                return found

    assert seen() == {"02:00:00:00:00:02", "02:00:00:00:00:03"}
    tunctl.receive_filter(tap, ["02:00:00:00:00:03"])
    assert seen() == {"02:00:00:00:00:03"}
    multicast = "01:00:5e:00:00:09"
    tunctl.receive_filter(tap, all_multicast=True)
    run("sh", "-c", "ping -c 1 -W 0.01 -I e0 224.0.0.9 || true")
    assert multicast in seen()
    tunctl.receive_filter(tap, ["02:00:00:00:00:03"])
    run("sh", "-c", "ping -c 1 -W 0.01 -I e0 224.0.0.9 || true")
    assert multicast not in seen()
    many = [f"02:00:00:00:01:{n:02x}" for n in range(7)]  # with the next one, 8: compared exactly
    tunctl.receive_filter(tap, [*many, "02:00:00:00:00:02", multicast])
    run("sh", "-c", "ping -c 1 -W 0.01 -I e0 224.0.0.9 || true")
    assert seen() == {"02:00:00:00:00:02", multicast}
    tunctl.receive_filter(tap)
    assert seen() == {"02:00:00:00:00:02", "02:00:00:00:00:03"}
