"""Devices that are created: their names, who owns them, and how they are handed on."""

import asyncio
import errno
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from devices import ADDRESS, OTHER, TUN, make, root_of
from processes import PATIENCE, Run, gone, program, stop, turns_during, wait_for_end
from traffic import send_one

import tuncer
from supervisor import Supervisor, SupervisorRef
from tuncer import Device, DeviceError, Flag


def test_handed_on_it_outlives_an_owner_that_exits_normally(run: Run) -> None:
    guest = subprocess.Popen(["sleep", "1000"])
    command = (
        "import tuncer\n"
        "keep = tuncer.create('keep0', tuncer.Flag.TUN)\n"
        "gone = tuncer.create('gone0', tuncer.Flag.TUN)\n"
        f"keep.controlling_process({guest.pid}); print(keep.pid, flush=True)\n"
    )
    with program(sys.executable, "-W", "error", "-c", command) as owner:
        worker = int(owner.expect("\n"))
        assert owner.process.wait(PATIENCE) == 0
    links = run("ip", "-br", "link")
    assert "keep0" in links
    assert "gone0" not in links  # it went before its owner did
    assert tuncer.attach("keep0").pid == worker
    guest.kill()
    guest.wait()
    assert wait_for_end(worker)


GUARDLESS = """
from supervisor import GenServer
class Mine(GenServer):
    def handle_call(self, request, sender):
        return request
ref = Mine.start_link()
print("echo", ref.call(5))
"""


GUARDED = """
from supervisor import ChildSpec, GenServer, Supervisor
class Mine(GenServer):
    def handle_call(self, request, sender):
        return request
if __name__ == "__main__":
    ref = Mine.start_link()
    sup = Supervisor.start_link([])
    child = sup.start_child(ChildSpec("mine", Mine))
    print("echo", ref.call(5), child.call(6))
"""


def test_a_missing_guard_is_named(runtime_dir: Path) -> None:
    script = runtime_dir / "script.py"
    script.write_text(GUARDLESS)
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert done.returncode == 1
    assert "put the start below" in done.stderr
    assert '__name__ == "__main__"' in done.stderr


def test_classes_of_the_main_module(runtime_dir: Path) -> None:
    script = runtime_dir / "script.py"
    script.write_text(GUARDED)
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert (done.stdout, done.stderr) == ("echo 5 6\n", "")


def test_an_owner_without_standard_input_output_and_error(run: Run) -> None:
    command = (
        "import os; os.closerange(0, 3)\n"
        "import tuncer\n"
        "with tuncer.create('lab0', tuncer.Flag.TUN) as dev:\n"
        "    os._exit(7 if dev.devname() == 'lab0' else 1)\n"
    )
    done = subprocess.run([sys.executable, "-c", command], check=False, timeout=PATIENCE)
    assert done.returncode == 7


def test_an_error_output_that_nobody_reads_stops_nothing() -> None:
    command = (
        "import os, select, tuncer\n"
        "dev = tuncer.create('lab0', tuncer.Flag.TUN)\n"
        "while select.select([], [2], [], 0)[1]: os.write(2, b'x' * 1000)\n"
        "for _ in range(50):\n"
        "    fd = os.pidfd_open(dev.pid); os.kill(dev.pid, 9)\n"
        "    select.select([fd], [], []); os.close(fd)\n"
        "print(dev.statistics()['restarts'], flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "50\n"
        assert owner.wait(PATIENCE) == 0


def test_a_root_goes_with_the_last_device_that_was_handed_on(run: Run) -> None:
    guest = subprocess.Popen(["sleep", "1000"])
    command = (
        "import tuncer\n"
        "dev = tuncer.create('lab0', tuncer.Flag.TUN); pid = dev.pid\n"
        f"dev.controlling_process({guest.pid}); dev.destroy()\n"
    )
    run(sys.executable, "-c", command)  # returns, as nothing holds its output any more
    guest.kill()
    guest.wait()


def test_a_stopped_root_does_not_hold_up_those_who_leave(dev: Device) -> None:
    root = root_of(dev)
    with dev.subscribe() as stays:
        leaves = dev.subscribe()
        stop(root)
        leaves.close()
        send_one(OTHER)
        assert stays.recv(PATIENCE)
        os.kill(root, signal.SIGCONT)


def names(run: Run) -> list[str]:
    return [link["ifname"] for link in json.loads(run("ip", "-j", "link"))]


def test_create_and_destroy(run: Run) -> None:
    dev = tuncer.create("lab0", TUN)
    assert (dev.name, dev.devname(), dev.flags()) == ("lab0", "lab0", TUN)
    assert dev.pid != os.getpid()
    assert "lab0" in names(run)
    assert tuncer.devices() == [dev]
    assert tuncer.attach("lab0") == dev
    pid = dev.pid
    dev.destroy()
    assert "lab0" not in names(run)
    assert gone(pid)
    assert tuncer.devices() == []
    dev.destroy()  # once more is no error
    for use in (dev.up, dev.statistics, dev.subscribe, dev.getfd):
        with pytest.raises(DeviceError, match="no such device") as caught:
            use()
        assert (caught.value.errno, caught.value.filename) == (errno.ENODEV, "lab0")


def test_the_kernel_chooses_a_name_and_tap_is_the_default() -> None:
    with tuncer.create() as tap, tuncer.create("lab%d", TUN) as tun:
        assert (tap.name, tun.name) == ("tap0", "lab0")
        assert tap.flags() == Flag.TAP | Flag.NO_PI


def test_a_name_may_be_used_again() -> None:
    for _ in range(3):
        with tuncer.create("lab0", TUN) as dev:
            assert dev.devname() == "lab0"


@pytest.mark.parametrize("name", ["a/b", "a b", "x" * 16, "\N{GRINNING FACE}", ".."])
def test_bad_names(name: str) -> None:
    with pytest.raises(OSError, match=r"name|called") as caught:
        tuncer.create(name)
    assert caught.value.filename == name


def test_bad_flags_and_options() -> None:
    for flags in (0, Flag.TUN | Flag.TAP, 1 << 30):
        with pytest.raises(ValueError, match=r"flags|TAP"):
            tuncer.create("lab0", flags)
    with pytest.raises(ValueError, match="power of two"):
        tuncer.create("lab0", log_packets=100)


def test_the_former_name_of_an_option_works_and_warns() -> None:
    with pytest.warns(DeprecationWarning, match="slots= is called log_packets="):
        device = tuncer.create("lab0", TUN, slots=128)
    device.destroy()


def test_a_device_that_exists_is_busy(dev: Device) -> None:
    with pytest.raises(OSError, match="in use") as caught:
        tuncer.create("lab0", TUN)
    assert (caught.value.errno, caught.value.filename) == (errno.EBUSY, "lab0")
    assert dev.devname() == "lab0"


def test_another_interface_of_that_name(run: Run) -> None:
    run("ip", "link", "add", "veth0", "type", "veth", "peer", "name", "veth1")
    with pytest.raises(OSError, match="another sort of interface") as caught:
        tuncer.create("veth0", TUN)
    assert caught.value.errno == errno.EINVAL


def test_a_device_under_a_supervisor_of_ones_own(run: Run) -> None:
    spec = tuncer.child_spec("net", "lab0", TUN)
    root: SupervisorRef = Supervisor.start_link([spec])
    dev = tuncer.attach("lab0")
    dev.up(ADDRESS)
    assert "lab0" in names(run)
    root.stop()
    assert "lab0" not in names(run)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("queues", "stopped", "known"), [(1, [0], False), (2, [0], True), (2, [1], False)]
)
def test_a_worker_that_does_not_answer_is_destroyed(
    run: Run, monkeypatch: pytest.MonkeyPatch, queues: int, stopped: list[int], known: bool
) -> None:
    with make("first") as first:
        root = first._call("belongs")[0]
        before = len(SupervisorRef(root._process).which_children())
        dev = make(queues=queues)
        above = dev._call("belongs")[1].pid
        pids = dev.pids
        for number in stopped:
            stop(pids[number])
        for module in ("device", "worker_client"):
            monkeypatch.setattr(f"tuncer.client.{module}.PATIENCE", 0.2)
        # One that this program has called before, and one that it has not.
        (dev if known else pickle.loads(pickle.dumps(dev))).destroy()
        assert all(wait_for_end(pid) for pid in (*pids, above))
        assert "lab0" not in run("ip", "-br", "link")
        assert tuncer.devices() == [first]
        assert len(SupervisorRef(root._process).which_children()) == before
        dev.destroy()


def test_a_worker_that_does_not_answer_is_not_taken_for_none(
    dev: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = dev.pid
    stop(pid)
    with monkeypatch.context() as impatient:
        for module in ("device", "worker_client"):
            impatient.setattr(f"tuncer.client.{module}.PATIENCE", 0.2)
        with pytest.raises(DeviceError, match="does not answer") as caught:
            tuncer.attach("lab0")
    assert caught.value.errno == errno.ETIMEDOUT
    os.kill(pid, signal.SIGCONT)
    assert tuncer.attach("lab0") == dev


def test_acreate_lets_the_loop_go_on() -> None:
    async def main() -> int:
        device, steps = await turns_during(tuncer.acreate("d0", TUN), pause=0.001)
        async with device:
            return steps

    assert asyncio.run(main()) > 5


def test_a_device_that_is_deleted_comes_back_as_it_is_described(run: Run, capfd: Any) -> None:
    spec = tuncer.child_spec(
        "d",
        "d0",
        TUN,
        restart="permanent",
        mtu=1400,
        addresses=["10.9.0.1/24", "10.10.0.1/24"],
        routes=["10.20.0.0/16"],
    )
    Supervisor.start_link([spec], intensity=10)

    def described() -> Any:
        shown = run("sh", "-c", "ip -j addr show dev d0 2>/dev/null || true")
        routes = run("sh", "-c", "ip -j route show dev d0 2>/dev/null || true")
        if not shown or not routes:
            return None
        link = json.loads(shown)[0]
        found = [a["local"] for a in link["addr_info"] if a["family"] == "inet"]
        return link["mtu"], found, "10.20.0.0/16" in routes

    expected = (1400, ["10.9.0.1", "10.10.0.1"], True)
    assert described() == expected
    for _ in range(3):
        with tuncer.attach("d0").subscribe() as former:
            run("ip", "link", "del", "d0")
            with pytest.raises(DeviceError):
                while True:  # the host's own packets come before
                    former.recv(timeout=PATIENCE)
        deadline = time.monotonic() + PATIENCE
        while described() != expected:
            assert time.monotonic() < deadline
        with tuncer.attach("d0").subscribe() as subscription:
            send_one("10.9.0.2")
            assert subscription.recv(timeout=PATIENCE).data
    said = capfd.readouterr().err
    assert said.count("the device was deleted") >= 1


def test_a_description_that_makes_no_sense_is_told_at_once() -> None:
    for wrong in ({"addresses": ["x"]}, {"routes": ["10.0.0.1/8"]}, {"restart": "temporary"}):
        with pytest.raises(ValueError):  # noqa: PT011 - each says something else
            tuncer.child_spec("d", "d0", TUN, **wrong)


@pytest.mark.slow
def test_many_devices_end_side_by_side(run: Run) -> None:
    program = (
        "import tuncer\n"
        "for n in range(40): tuncer.create(f'm{n}', tuncer.Flag.TAP | tuncer.Flag.NO_PI).up()\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=PATIENCE)
    assert "m1" not in run("ip", "-br", "link")
