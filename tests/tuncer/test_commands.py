"""`tuncer up`, `down`, `set`, `route`, `destroy`, `restart` and `wait`."""

import json
import os
import signal
import subprocess
import threading
import time

import pytest
from devices import OTHER, TAP, TUN, kill_worker
from processes import TUNCER, Run, eventually, gone, stop
from traffic import numbers, send_numbers

import tuncer
from tuncer import Device


def fails(*arguments: str, status: int) -> str:
    """Run a command that fails; return what it says."""
    command = [TUNCER, *arguments]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    assert found.returncode == status, found
    assert "Traceback" not in found.stderr
    return found.stderr


def test_up_down_and_addresses(run: Run) -> None:
    with tuncer.create("lab0", TUN) as dev:
        run(TUNCER, "up", "lab0")
        assert dev.is_up()
        run(TUNCER, "up", "lab0", "10.9.0.1/24", "fd09::1/64")
        changed = ["--add-address", "10.9.1.1/24", "--remove-address", "10.9.0.1/24"]
        run(TUNCER, "set", "lab0", *changed)
        found = {str(address.interface) for address in dev.list_addresses()}
        assert {"10.9.1.1/24", "fd09::1/64"} <= found
        assert "10.9.0.1/24" not in found
        run(TUNCER, "down", "lab0")
        assert not dev.is_up()


def test_set(run: Run) -> None:
    with tuncer.create("tap0", TAP) as dev:
        told = ["--mtu", "1400", "--mac", "02:00:00:00:00:07", "--txqueuelen", "50"]
        run(TUNCER, "set", "tap0", *told, "--alias", "a note", "--carrier", "off", "--name", "new0")
        assert (dev.mtu(), dev.mac(), dev.txqueuelen()) == (1400, "02:00:00:00:00:07", 50)
        assert (dev.alias(), dev.devname()) == ("a note", "new0")
        run(TUNCER, "set", "new0", "--filter", "udp port 53", "--carrier", "on")
        assert dev.statistics()["filter"] is not None
        run(TUNCER, "set", "new0", "--filter", "")
        assert dev.statistics()["filter"] is None


def test_routes(dev: Device, run: Run) -> None:
    run(TUNCER, "route", "lab0", "add", "10.20.0.0/16", "--via", OTHER, "--metric", "7")
    run(TUNCER, "route", "lab0", "add", "10.30.0.0/16")
    rows = json.loads(run(TUNCER, "route", "lab0", "--json"))["routes"]
    via = {row["destination"]: (row["via"], row["metric"]) for row in rows}
    assert via["10.20.0.0/16"] == (OTHER, 7)
    assert "10.30.0.0/16\t\t" in run(TUNCER, "route", "lab0")
    run(TUNCER, "route", "lab0", "remove", "10.30.0.0/16")
    assert "10.30" not in run("ip", "route")


def test_a_device_in_another_namespace(run: Run) -> None:
    with tuncer.create("lab0", TUN):
        enter = ["unshare", "--net", TUNCER]
        run(*enter, "up", "lab0", "10.9.0.1/24")
        (row,) = json.loads(run(*enter, "list", "--json"))["devices"]
        assert (row["name"], row["state"], row["addresses"][0]) == ("lab0", "up", "10.9.0.1/24")


def test_show(run: Run) -> None:
    with tuncer.create("lab0", TUN, queues=2) as dev:
        dev.up("10.9.0.1/24", link_local=False)
        with dev.subscribe(policy="lossless", queue=1), dev.subscribe(transport="zmq", queue=0):
            told = json.loads(run(TUNCER, "show", "lab0", "--json"))["device"]
            by_queue = {row["queue"]: row for row in told["list_subscribers"]}
            lossless, by_zmq = by_queue[1], by_queue[0]
            assert (lossless["transport"], lossless["policy"]) == ("ring", "lossless")
            assert (lossless["behind"], lossless["pid"]) == (0, os.getpid())
            assert (by_zmq["transport"], by_zmq["behind"]) == ("zmq", None)
            shown = run(TUNCER, "show")
        os.kill(dev.pids[0], signal.SIGKILL)
        assert "addresses   10.9.0.1/24" in shown
        assert "lost        kernel 0, filter 0, publisher 0, write 0" in shown
        assert f"{os.getpid()}\t1\tring\tlossless\tno\t0" in shown
        assert len(dev.list_subscribers()) == 0


def test_a_subscriber_that_is_behind_is_shown(dev: Device, run: Run) -> None:
    with dev.subscribe(policy="lossless") as subscription:
        send_numbers(0, 100)
        eventually(lambda: dev.list_subscribers()[0].behind, 100)
        kill_worker(dev)  # what it is behind is known to the successor as well
        eventually(lambda: dev.list_subscribers()[0].pid, os.getpid())
        assert set(numbers(subscription, 100)) == set(range(100))


def test_destroy(run: Run) -> None:
    with tuncer.create("lab0", TUN) as dev:
        pid = dev.pid
        run(TUNCER, "destroy", "lab0")
        assert gone(pid)
        assert "this user has no devices" in fails("destroy", "lab0", status=1)


def test_restart_loses_nothing(run: Run) -> None:
    with tuncer.create("lab0", TUN, queues=2) as dev:
        dev.up("10.9.0.1/24", link_local=False)
        before = dev.pids
        with dev.subscribe() as subscription:
            send_numbers(0, 10)
            said = run(TUNCER, "restart", "lab0").splitlines()
            send_numbers(10, 20)
            assert set(numbers(subscription, 20)) == set(range(20))
        assert [line.split()[2] for line in said] == list(map(str, before))
        assert not set(before) & set(dev.pids)


def test_wait(run: Run) -> None:
    assert "lab0 is not ready within 0.1 s" in fails("wait", "lab0", "--timeout", "0.1", status=1)
    run(TUNCER, "wait", "lab0", "--for", "gone")
    with subprocess.Popen([TUNCER, "wait", "lab0", "--for", "up"]) as waiting:
        with tuncer.create("lab0", TUN) as dev:
            run(TUNCER, "wait", "lab0")
            assert waiting.poll() is None
            dev.up()
            assert waiting.wait(20) == 0
            there = ["wait", "lab0", "--for", "gone", "--timeout", "0.1"]
            assert "lab0 is not gone" in fails(*there, status=1)
            going = subprocess.Popen([TUNCER, "wait", "lab0", "--for", "gone"])
        assert going.wait(20) == 0


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["up", "lab0", "10.9.0.300"], 2, "10.9.0.300"),
        (["set", "lab0"], 2, "set what?"),
        (["set", "lab0", "--mtu", "1"], 1, "lab0"),
        (["set", "lab0", "--filter", "porst"], 2, "is no filter expression"),
        (["set", "lab0", "--name", "x" * 50], 1, "x" * 15),
        (["route", "lab0", "add"], 2, "add which route?"),
        (["route", "lab0", "add", "nowhere"], 2, "nowhere"),
        (["route", "lab0", "remove", "10.99.0.0/16"], 1, "lab0"),
        (["restart", "lab7"], 1, "did you mean lab0?"),
    ],
)
def test_what_is_wrong_is_said(dev: Device, arguments: list[str], status: int, says: str) -> None:
    assert says in fails(*arguments, status=status)


def test_a_worker_that_hangs_is_told(dev: Device) -> None:
    pid = dev.pid
    stop(pid)
    timer = threading.Timer(25, os.kill, (pid, signal.SIGCONT))
    timer.start()
    try:
        began = time.monotonic()
        assert "lab0" in fails("down", "lab0", status=1)
        assert time.monotonic() - began < 24
    finally:
        os.kill(pid, signal.SIGCONT)
        timer.cancel()
        timer.join()
