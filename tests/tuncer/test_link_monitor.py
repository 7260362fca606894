"""Events of a link: told once, in order with the packets."""

import os
import signal
import subprocess
import time
from typing import Any

import pytest
from devices import ADDRESS, OTHER, TUN, kill_worker
from processes import PATIENCE, Run, eventually, program, stop
from traffic import numbers, send_numbers, send_one, take

import tuncer
from tuncer import Device, DeviceError, DeviceEvent, Flag, Packet


def events_until(subscription: Any, last: DeviceEvent) -> list[DeviceEvent]:
    found: list[DeviceEvent] = []
    while not found or found[-1] != last:
        item = subscription.recv(PATIENCE)
        found += [item] if isinstance(item, DeviceEvent) else []
    return found


def event(kind: str, value: Any = None) -> DeviceEvent:
    return DeviceEvent(kind, "lab0", value)


@pytest.mark.parametrize("transport", ["ring", "zmq"])
def test_what_happens_to_a_link_is_told(dev: Device, run: Run, transport: str) -> None:
    with dev.subscribe(events=True, transport=transport) as subscription:
        run("ip", "link", "set", "lab0", "mtu", "1400")
        run("ip", "addr", "add", "10.9.1.1/24", "dev", "lab0")
        run("ip", "addr", "add", "fd00::1/64", "dev", "lab0", "nodad")
        # The kernel tells it from a queue of work of its own, in no order with what comes next.
        before = events_until(subscription, event("address_added", "fd00::1/64"))
        run("ip", "addr", "del", "10.9.1.1/24", "dev", "lab0")
        dev.carrier(False)
        dev.carrier(True)
        dev.rename("lab9")
        dev.down()
        dev.up()
        run("ip", "link", "del", "lab9")
        found = before + events_until(subscription, event("deleted"))
        at_once = found[7:9]  # in whatever order the kernel tells them
        assert {e.kind for e in at_once} == {"down", "address_removed"}
        # After that the kernel takes the link down, of which nobody may hear before its end.
        assert [*found[:7], found[9], found[-1]] == [
            event("mtu", 1400),
            event("address_added", "10.9.1.1/24"),
            event("address_added", "fd00::1/64"),
            event("address_removed", "10.9.1.1/24"),
            event("carrier", False),
            event("carrier", True),
            event("name", "lab9"),
            event("up"),
            event("deleted"),
        ]
        with pytest.raises(DeviceError, match="was deleted"):
            subscription.recv(PATIENCE)


def test_what_happened_while_no_worker_ran_is_told(dev: Device, run: Run) -> None:
    with dev.subscribe(events=True) as subscription:
        stop(dev.pid)
        run("ip", "link", "set", "lab0", "mtu", "1300")
        run("ip", "addr", "add", "10.9.1.1/24", "dev", "lab0")
        kill_worker(dev)
        assert events_until(subscription, event("address_added", "10.9.1.1/24")) == [
            event("mtu", 1300),
            event("address_added", "10.9.1.1/24"),
        ]


def test_a_storm_of_changes_ends_in_the_right_state(dev: Device, run: Run) -> None:
    with dev.subscribe(events=True) as subscription:
        pid = dev.pid
        stop(pid)  # so that its socket overflows
        lines = [f"link set lab0 mtu {1000 + n % 500}\n" for n in range(3000)]
        lines.append("addr add 10.9.7.7/24 dev lab0\n")
        with program("ip", "-batch", "-") as batch:
            assert batch.process.stdin is not None
            batch.process.stdin.write("".join(lines))
            batch.process.stdin.close()
            assert batch.process.wait(PATIENCE) == 0
        os.kill(pid, signal.SIGCONT)
        told = events_until(subscription, event("address_added", "10.9.7.7/24"))
        assert [e.value for e in told if e.kind == "mtu"][-1] == dev.mtu()
        assert dev.pid == pid


@pytest.mark.parametrize("batch", [False, True])
def test_an_event_stands_between_the_packets_before_and_after(dev: Device, batch: bool) -> None:
    with dev.subscribe(events=True, batch=batch) as subscription:
        send_numbers(0, 200)  # more than a subscription takes at a time
        eventually(lambda: dev.statistics()["packets_read"] >= 200)
        dev.mtu(1400)
        while event("mtu", 1400) not in [told for _, told in subscription._pending_events]:
            subscription._read_control()
        send_numbers(200, 205)
        eventually(lambda: dev.statistics()["packets_read"] >= 205)
        found = numbers(subscription, 206)
        assert found == [*range(200), event("mtu", 1400), *range(200, 205)]


def test_moving_a_device_is_told_and_its_link_is_followed_there(
    dev: Device, elsewhere: int
) -> None:
    with dev.subscribe(events=True) as subscription:
        dev.move(elsewhere)
        found = events_until(subscription, event("moved"))
        assert found[-1] == event("moved")
        dev.up("10.77.0.1/24", link_local=False)
        found += events_until(subscription, event("address_added", "10.77.0.1/24"))
        found += events_until(subscription, event("up")) if event("up") not in found else []
        assert event("down") in found
        assert event("address_removed", f"{ADDRESS}/24") in found


def test_a_port_that_leaves_its_bridge_has_not_gone(run: Run) -> None:
    run("ip", "link", "add", "br0", "type", "bridge")
    with tuncer.create("e0", Flag.TAP | Flag.NO_PI) as dev, dev.subscribe(events=True) as told:
        dev.master("br0")
        dev.master("")  # the bridge says RTM_DELLINK of its port
        dev.mtu(1400)
        kinds = [told.recv(PATIENCE)]
        while kinds[-1] != DeviceEvent("mtu", "e0", 1400):
            kinds.append(told.recv(PATIENCE))
        assert {e.kind for e in kinds if isinstance(e, DeviceEvent)} <= {"mtu", "carrier"}


class PacketsOnly:
    """A subscription without its events."""

    def __init__(self, subscription: Any) -> None:
        self.subscription = subscription

    def recv(self, timeout: float) -> Any:
        while not isinstance(item := self.subscription.recv(timeout), Packet):
            pass
        return item


def test_a_link_set_down_is_an_event_and_no_crash(dev: Device, run: Run) -> None:
    with dev.subscribe(events=True) as subscription:
        pid = dev.pid
        for state in ("down", "up"):
            run("ip", "link", "set", "lab0", state)
            eventually(
                lambda state=state: DeviceEvent(state, "lab0") == subscription.recv(PATIENCE)
            )
        send_one(OTHER)
        take(PacketsOnly(subscription))
        assert dev.pid == pid


def test_a_device_ends_with_the_container_that_it_is_in(run: Run, capfd: Any) -> None:
    box = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "echo; exec sleep 60"], stdout=subprocess.PIPE, text=True
    )
    with box:
        assert box.stdout is not None
        box.stdout.readline()
        peer = ("type", "veth", "peer", "name", "inside", "netns", str(box.pid))
        run("ip", "link", "add", "outside", *peer)
        device = tuncer.create("d0", TUN, namespace=box.pid)
        device.up("10.9.0.1/24", link_local=False)
        with device.subscribe(events=True) as subscription:
            inside = ("nsenter", "--net", "--target", str(box.pid), "ip", "link")
            run(*inside, "set", "d0", "mtu", "1400")
            kinds = [subscription.recv(timeout=PATIENCE)]
            while getattr(kinds[-1], "kind", None) != "mtu":
                kinds.append(subscription.recv(timeout=PATIENCE))
            box.kill()
            box.wait()
            with pytest.raises(DeviceError, match="deleted"):
                while True:
                    subscription.recv(timeout=PATIENCE)
    deadline = time.monotonic() + PATIENCE
    while "outside" in run("ip", "-br", "link"):
        assert time.monotonic() < deadline
