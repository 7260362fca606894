"""The subscribers of a worker: they come, leave, and outlive the worker."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from devices import OTHER, kill_worker, make, root_of
from processes import PATIENCE, Run, eventually
from traffic import send_one, take

import tuncer
from tuncer import Device


def test_a_subscriber_that_does_not_read_holds_up_nobody(dev: Device, run: Run) -> None:
    with dev.subscribe(events=True) as sleeper, dev.subscribe(), dev.subscribe(transport="zmq"):
        for _ in range(300):
            run("ip", "link", "set", "lab0", "down")
            run("ip", "link", "set", "lab0", "up")
        assert dev.mtu() == 1500
        assert isinstance(sleeper.recv(PATIENCE), tuncer.DeviceEvent)
        assert dev.statistics()["restarts"] == 0


def test_subscribers_come_and_go_while_workers_are_killed(dev: Device, capfd: Any) -> None:
    stop = threading.Event()

    def come_and_go() -> int:
        rounds = 0
        while not stop.is_set():
            with dev.subscribe(), dev.subscribe(transport="zmq"):
                rounds += 1
        return rounds

    root = root_of(dev)
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(come_and_go) for _ in range(2)]
        for _ in range(60):
            kill_worker(dev)
            dev.statistics()
        stop.set()
        assert all(future.result(PATIENCE) > 0 for future in futures)
    assert root_of(dev) == root
    eventually(lambda: not (dev.statistics()["subscribers"]))
    capfd.readouterr()


def test_subscribers_that_end_without_a_word_are_forgotten(dev: Device) -> None:
    program = "import tuncer, os; s = tuncer.attach('lab0').subscribe(); os._exit(0)"
    before = len(os.listdir(f"/proc/{dev.pid}/fd"))
    for _ in range(5):
        subprocess.run([sys.executable, "-c", program], check=True, timeout=PATIENCE)
    eventually(lambda: not (dev.statistics()["subscribers"]))
    kept = dev.subscribe()
    kill_worker(dev)
    assert dev.statistics()["subscribers"] == 1
    kept.close()
    eventually(lambda: not (dev.statistics()["subscribers"]))
    assert len(os.listdir(f"/proc/{dev.pid}/fd")) <= before + 2


def test_hundreds_of_subscribers() -> None:
    with make(log_packets=128, log_bytes=2 << 20) as dev:  # each subscriber maps the ring
        subscriptions = [dev.subscribe() for _ in range(300)]
        assert dev.statistics()["subscribers"] == 300
        kill_worker(dev)
        send_one(OTHER, b"to all")
        for subscription in subscriptions:
            eventually(lambda subscription=subscription: take(subscription)[0].data[28:], b"to all")
            subscription.close()
        eventually(lambda: not (dev.statistics()["subscribers"]))
        assert dev.statistics()["restarts"] == 1
