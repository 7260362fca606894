"""Actors that follow devices: packets and messages are served in turns."""

from typing import Any

import pytest
from devices import OTHER, kill_at_once, make
from processes import PATIENCE, Run, eventually
from traffic import number_in, send_numbered, send_one

import tuncer
from supervisor import Monitor, Sender
from tuncer import Batch, Device, DeviceEvent, Follower, Packet
from tuncer.client.subscription import Subscription


class Counts(Follower):
    """Counts packets and calls."""

    def init(self, devices: list[str], **options: Any) -> None:
        self.packets, self.batches, self.others = 0, 0, list[Any]()
        self.largest = 0
        self.followed = [self.follow(tuncer.attach(name), **options) for name in devices]

    def handle_packets(self, batch: Batch) -> None:
        self.packets += len(batch)
        self.batches += 1
        self.largest = max(self.largest, len(batch))
        if b"raise" in batch.data:
            raise LookupError("on request")

    def handle_event(self, event: DeviceEvent) -> None:
        self.others.append([event.kind, self.packets])

    def handle_call(self, request: str, sender: Sender) -> Any:
        match request:
            case "unfollow":
                for subscription in self.followed:
                    self.unfollow(subscription)
                    self.unfollow(subscription)
                return None
            case "stats":
                found = [subscription.stats() for subscription in self.followed]
                return {key: sum(one[key] for one in found) for key in found[0]}
        return getattr(self, request)


class GoesOn(Counts):
    """Does not end with a device."""

    def handle_end(self, subscription: Subscription[Any], end: Exception) -> None:
        self.others.append([type(end).__name__, subscription.closed])


class Bare(Follower):
    """Has no callbacks."""

    def init(self, name: str) -> None:
        self.follow(tuncer.attach(name), events=True)


@pytest.mark.parametrize("transport", ["ring", "zmq"])
def test_calls_are_answered_while_packets_come_and_none_is_unaccounted_for(
    dev: Device, transport: str
) -> None:
    ref = Counts.start_link([dev.name], transport=transport)
    with send_numbered(OTHER, 1e6, 100_000) as sender:
        calls = 0
        while sender.poll() is None:
            ref.call("packets", timeout=PATIENCE)
            calls += 1
    assert calls > 100  # a call took as long as some batches, not as long as the flood

    def all_of_them() -> bool:
        stats = ref.call("stats")
        return bool(stats["delivered"] + stats["lost"] == dev.statistics()["packets_read"])

    eventually(all_of_them)
    assert ref.call("stats")["delivered"] == ref.call("packets") > 0
    ref.stop()


@pytest.mark.parametrize("queues", [1, 2])
def test_a_batch_has_no_more_packets_than_wanted(queues: int) -> None:
    with make(queues=queues) as dev:
        ref = Counts.start_link([dev.name], batch=1)
        for _ in range(300):
            send_one(OTHER)
        eventually(lambda: ref.call("packets"), 300)
        assert (ref.call("batches"), ref.call("largest")) == (300, 1)
        ref.stop()


def test_several_devices_and_their_events() -> None:
    with make() as one, make("lab1") as other:
        ref = Counts.start_link(["lab0", "lab1"], events=True)
        send_one(OTHER)
        eventually(lambda: ref.call("packets"), 1)
        one.mtu(1400)
        other.mtu(1300)
        eventually(lambda: ref.call("others"), [["mtu", 1], ["mtu", 1]])
        ref.call("unfollow")
        send_one(OTHER)
        one.mtu(1300)
        eventually(lambda: one.statistics()["subscribers"], 0)
        assert (ref.call("packets"), len(ref.call("others"))) == (1, 2)
        ref.stop()


def end_of(monitor: Monitor) -> Any:
    return monitor.wait(PATIENCE).reason


def test_it_ends_with_the_device_unless_it_says_otherwise(run: Run, capfd: Any) -> None:
    dev = make()
    ends, goes_on = Counts.start_link(["lab0"]), GoesOn.start_link(["lab0"])
    monitor = ends.monitor()
    ends.call("packets")
    dev.destroy()
    assert "lab0 was destroyed" in str(end_of(monitor))
    eventually(lambda: goes_on.call("others"), [["EOFError", True]])
    goes_on.stop()
    dev = make()
    goes_on = GoesOn.start_link(["lab0"])
    run("ip", "link", "del", "lab0")
    eventually(lambda: goes_on.call("others"), [["DeviceError", True]])
    goes_on.stop()


def test_kills_of_the_worker_are_not_noticed(dev: Device) -> None:
    ref = Counts.start_link([dev.name])
    for number in range(5):
        send_one(OTHER)
        kill_at_once(dev)
        eventually(lambda: ref.call("packets"), number + 1)
    assert ref.call("stats") == {"delivered": 5, "lost": 0}
    ref.stop()


def test_an_exception_ends_the_actor(dev: Device, capfd: Any) -> None:
    ref = Counts.start_link([dev.name])
    monitor = ref.monitor()
    ref.call("packets")
    send_one(OTHER, b"raise")
    assert "on request" in str(end_of(monitor))


def test_callbacks_that_are_not_there_are_told(dev: Device, capfd: Any) -> None:
    for act, text in (
        (lambda: send_one(OTHER), "Bare handles no packets"),
        (lambda: dev.mtu(1400), "Bare handles no events"),
    ):
        ref = Bare.start_link("lab0")
        monitor = ref.monitor()
        ref.statistics()
        act()
        assert text in str(end_of(monitor))


@pytest.mark.parametrize(
    ("batch", "error"), [(0, ValueError), (-1, ValueError), ("x", TypeError), (None, TypeError)]
)
def test_a_batch_is_a_number_of_packets(dev: Device, batch: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="batch"):
        dev.subscribe(batch=batch)


def test_a_subscription_has_batches_of_a_size(dev: Device) -> None:
    with dev.subscribe(batch=3) as subscription:
        for number in range(10):
            send_one(OTHER, b"%d" % number)
        eventually(lambda: dev.statistics()["packets_read"], 10)
        batches = [subscription.recv(PATIENCE) for _ in range(4)]
        assert [len(batch) for batch in batches] == [3, 3, 3, 1]
        packets = [packet for batch in batches for packet in batch]
        assert all(isinstance(packet, Packet) for packet in packets)
        assert [number_in(packet) for packet in packets] == list(range(10))
