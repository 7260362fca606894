"""Lossless subscriptions: they lose nothing that was read, and hold the device back instead."""

import contextlib
import errno
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from devices import OTHER, kill_at_once, kill_worker, make
from processes import PATIENCE, eventually, stop
from traffic import send_numbered, send_one

import tuncer
from tuncer import Device, DeviceError

SMALL: dict[str, int] = {"log_packets": 512, "log_bytes": 2 << 20}
SLOW = """
import sys, time, tuncer
dev = tuncer.attach("lab0")
hold = None if sys.argv[1] == "None" else float(sys.argv[1])
with dev.subscribe(batch=64, policy="lossless", hold_timeout=hold) as subscription:
    print("ready", flush=True)
    expected = None
    try:
        for batch in subscription:
            assert batch.lost == 0 and expected in (None, batch.seq), (batch, expected)
            expected = batch.seq + len(batch)
    except tuncer.DeviceError as error:
        print(error.errno, flush=True)
    print(*subscription.stats().values(), flush=True)
"""


@contextlib.contextmanager
def stopped_reader(hold: float | None) -> Iterator[subprocess.Popen[str]]:
    """Start a process that subscribes, and checks that there is no gap; and stop it."""
    command = [sys.executable, "-c", SLOW, str(hold)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        stop(process.pid)
        try:
            yield process
        finally:
            process.kill()


def flood(count: int) -> None:
    sender = send_numbered(OTHER, 1e6, count)
    sender.communicate(timeout=60)
    assert sender.returncode == 0


def is_idle(dev: Device) -> bool:
    """Tell whether the worker has read all that the kernel had queued."""
    before = dev.statistics()["packets_read"]
    time.sleep(0.05)
    return bool(before == dev.statistics()["packets_read"])


def test_a_slow_one_gets_all_that_was_read_over_kills() -> None:
    """The kernel counts what did not come; each packet is read once, and delivered."""
    chance = random.Random(5)
    with make(**SMALL) as dev, dev.subscribe(batch=True, policy="lossless") as slow:
        feeder = threading.Thread(target=flood, args=(100_000,))
        feeder.start()
        found, kills = 0, 0
        while feeder.is_alive() or found < dev.statistics()["packets_read"]:
            for _ in range(20):
                batch = next_batch(slow)
                if batch is None:
                    break
                assert (batch.seq, batch.lost) == (found, 0)
                found += len(batch)
            if found > 3_000 * (kills + 1) and kills < 4:
                kill_at_once(dev)
                kills += 1
            time.sleep(0.005 * chance.random())
        counts = dev.statistics()
        assert counts["restarts"] == kills == 4
        assert counts["lost"]["kernel"] == counts["dropped"]
        assert found == counts["packets_read"] == counts["kernel_packets"]
        assert found + counts["dropped"] == 100_000
        assert slow.stats() == {"delivered": found, "lost": 0}


def next_batch(subscription: Any) -> Any:
    try:
        return subscription.recv(0.2)
    except TimeoutError:
        return None


def test_one_that_is_stopped_for_too_long_is_ended_and_counts_what_it_missed(caplog: Any) -> None:
    with (
        make(**SMALL) as dev,
        dev.subscribe(batch=True) as other,
        stopped_reader(0.5) as stopped,
    ):
        flood(20_000)
        eventually(lambda: dev.statistics()["subscribers"], 1)
        at_the_end = dev.statistics()["packets_read"]
        eventually(lambda: is_idle(dev))
        assert not dev.statistics()["held_back"]
        stopped.send_signal(signal.SIGCONT)
        told, _ = stopped.communicate(timeout=PATIENCE)
        number, counts = told.splitlines()
        assert int(number) == errno.ETIMEDOUT
        delivered, lost = map(int, counts.split())
        assert lost > 0
        # It counts up to its end, which came before anything that it needed was overwritten.
        assert 0 < delivered + lost <= at_the_end
        while next_batch(other) is not None:
            pass
        read = dev.statistics()["packets_read"]
        assert sum(other.stats().values()) == read


def test_one_may_hold_the_device_back_for_as_long_as_it_lives() -> None:
    with make(**SMALL) as dev, stopped_reader(None) as stopped:
        flood(20_000)
        eventually(lambda: dev.statistics()["held_back"])
        held = dev.statistics()["packets_read"]
        assert held <= 512
        kill_worker(dev)  # its successor knows
        assert dev.statistics()["held_back"]
        flood(100)
        assert dev.statistics()["packets_read"] == held
        stopped.send_signal(signal.SIGCONT)
        eventually(lambda: dev.statistics()["packets_read"] > held and is_idle(dev))
        read = dev.statistics()["packets_read"]
        dev.destroy()
        told, _ = stopped.communicate(timeout=PATIENCE)
        assert told.split() == [str(read), "0"]


def test_the_device_goes_on_when_who_held_it_back_is_killed() -> None:
    with (
        make(**SMALL) as dev,
        dev.subscribe(batch=True) as other,
        stopped_reader(None) as stopped,
    ):
        flood(5_000)
        eventually(lambda: dev.statistics()["held_back"])
        stopped.kill()
        stopped.communicate()
        eventually(lambda: not dev.statistics()["held_back"] and is_idle(dev))
        while next_batch(other) is not None:
            pass
        assert sum(other.stats().values()) == dev.statistics()["packets_read"] > 512


def test_one_that_waits_is_asked_after_a_kill() -> None:
    """What it had acknowledged, the killed worker knew alone."""
    with make(**SMALL) as dev, dev.subscribe(batch=True, policy="lossless") as idle:
        for turn in range(1, 4):
            flood(300)
            while idle.stats()["delivered"] < 300 * turn:
                idle.recv(PATIENCE)
            kill_worker(dev)
            assert next_batch(idle) is None  # it waits, and reads what it is asked
        flood(300)
        while idle.stats()["delivered"] < 1200:
            idle.recv(PATIENCE)
        assert idle.stats() == {"delivered": 1200, "lost": 0}


def test_of_several_queues_each_is_held_back_by_itself() -> None:
    with make(queues=2, **SMALL) as dev, dev.subscribe(batch=True, policy="lossless") as slow:
        flood(3000)  # a flow: the kernel keeps it in a queue
        counts = dev.statistics()
        assert counts["held_back"]
        assert sum(queue["held_back"] for queue in counts["queues"]) == 1
        found = 0
        while (batch := next_batch(slow)) is not None:
            found += len(batch)
        counts = dev.statistics()
        assert not counts["held_back"]
        assert found == counts["packets_read"]
        assert slow.stats() == {"delivered": found, "lost": 0}


def test_nothing_of_a_lossless_subscriber_is_left(dev: Device) -> None:
    before = len(os.listdir(f"/proc/{dev.pid}/fd"))
    for _ in range(20):
        with dev.subscribe(policy="lossless") as subscription:
            send_one(OTHER)
            subscription.recv(PATIENCE)
    eventually(lambda: not dev.statistics()["subscribers"])
    assert len(os.listdir(f"/proc/{dev.pid}/fd")) <= before + 1


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"policy": "loss"}, ValueError),
        ({"policy": None}, ValueError),
        ({"policy": "lossless", "transport": "zmq"}, ValueError),
        ({"policy": "lossless", "hold_timeout": -1}, ValueError),
        ({"policy": "lossless", "hold_timeout": "1"}, TypeError),
    ],
)
def test_what_is_no_policy(dev: Device, options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        dev.subscribe(**options)
    assert dev.statistics()["subscribers"] == 0


def test_a_subscription_ends_in_its_own_words() -> None:
    with make(**SMALL) as dev, dev.subscribe(policy="lossless", hold_timeout=0.1) as slow:
        flood(3000)
        eventually(lambda: dev.statistics()["subscribers"], 0)
        with pytest.raises(DeviceError, match="hold_timeout") as caught:
            while True:
                assert slow.recv(PATIENCE).lost == 0
        assert caught.value.errno == errno.ETIMEDOUT
        assert tuncer.attach("lab0") == dev


def held_back(dev: Device) -> int:
    """Send packets until the worker is held back; return how many it has read."""
    while not (counts := dev.statistics())["held_back"]:
        flood(100)
    return int(counts["packets_read"])


@pytest.mark.parametrize("batch", [False, 8])
def test_one_that_reads_slowly_is_not_ended(batch: bool | int) -> None:
    """It takes longer than its hold_timeout for what it acknowledges at a time otherwise."""
    options: Any = {"policy": "lossless", "hold_timeout": 1.5, "batch": batch}
    with make(**SMALL) as dev, dev.subscribe(**options) as slow:
        held_back(dev)
        flood(5000)
        began, each = time.monotonic(), batch or 1
        for number in range(1000):
            assert slow.recv(PATIENCE).seq == number * each
            if time.monotonic() - began > 4:
                break
            time.sleep(0.08 * each)  # 32 packets, a sixteenth of the ring, in 2.5 s
        assert dev.statistics()["held_back"]
        assert dev.statistics()["subscribers"] == 1


def test_the_end_of_one_queues_subscription_is_told() -> None:
    with (
        make(queues=2, **SMALL) as dev,
        dev.subscribe(policy="lossless", hold_timeout=0.2) as slow,
    ):
        held_back(dev)
        eventually(lambda: 0 in [queue["subscribers"] for queue in dev.statistics()["queues"]])
        for _ in range(2):
            with pytest.raises(DeviceError, match="hold_timeout"):
                while True:
                    slow.recv(PATIENCE)


def test_a_passive_device_is_held_back_by_nobody() -> None:
    with make(**SMALL) as dev, dev.subscribe(policy="lossless", hold_timeout=1.5) as slow:
        held_back(dev)
        dev.setopt(active=False)
        assert not dev.statistics()["held_back"]
        time.sleep(2)  # nobody wants packets
        dev.setopt(active=True)
        assert dev.statistics()["held_back"]
        time.sleep(0.2)
        assert slow.recv(PATIENCE).seq == 0
        assert dev.statistics()["subscribers"] == 1


def test_time_in_which_the_worker_stood_still_is_not_the_subscribers() -> None:
    with make(**SMALL) as dev, dev.subscribe(policy="lossless", hold_timeout=1.0) as slow:
        held_back(dev)
        stop(dev.pid)
        time.sleep(3)
        os.kill(dev.pid, signal.SIGCONT)
        time.sleep(0.2)
        assert dev.statistics()["subscribers"] == 1
        assert slow.recv(PATIENCE).seq == 0


def test_what_one_that_was_ended_has_read_meanwhile_is_not_lost() -> None:
    with (
        make(**SMALL) as dev,
        dev.subscribe(batch=True),
        dev.subscribe(policy="lossless", hold_timeout=0.2, batch=16) as slow,
    ):
        ended_at = held_back(dev)
        eventually(lambda: dev.statistics()["subscribers"], 1)
        found = 0
        with pytest.raises(DeviceError, match="hold_timeout"):
            while True:
                batch = slow.recv(PATIENCE)
                assert (batch.seq, batch.lost) == (found, 0)
                found += len(batch)
                flood(16)  # it never sees an empty ring
                if found > 600:
                    flood(2000)
        counts = slow.stats()
        assert counts["delivered"] == found
        assert counts["lost"] >= 0
        assert found + counts["lost"] >= ended_at


def test_one_without_room_for_the_message_sees_its_end_in_the_ring() -> None:
    with make(**SMALL) as dev, dev.subscribe(batch=True) as other:
        options: Any = {"policy": "lossless", "hold_timeout": 0.2, "events": True}
        with dev.subscribe(batch=16, **options) as slow:
            for turn in range(800):
                dev.mtu(1300 + turn % 100)
            held_back(dev)
            eventually(lambda: not dev.statistics()["held_back"])
            flood(2000)
            while next_batch(other) is not None:
                pass
            with pytest.raises(DeviceError, match="hold_timeout"):
                while True:
                    slow.recv(PATIENCE)
