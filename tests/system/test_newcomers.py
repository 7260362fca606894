"""What those meet who write their first programs, and those who come from elsewhere."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from devices import TUN
from processes import PATIENCE, Run, stop, turns_during
from traffic import send_one

import tuncer
from supervisor import GenServer, Sender, Supervisor
from tuncer import DeviceError


def test_a_subscription_that_is_closed_ends_its_loop() -> None:
    async def main(transport: str, queues: int) -> int:
        async with await tuncer.acreate("d0", TUN, queues=queues) as device:
            await device.aup("10.9.0.1/24", link_local=False)
            subscription = await device.asubscribe(transport=transport)
            taken, one_is_there = 0, asyncio.Event()

            async def follow() -> None:
                nonlocal taken
                async for _ in subscription:
                    taken += 1
                    one_is_there.set()

            task = asyncio.create_task(follow())
            await asyncio.sleep(0)  # it waits for a packet
            send_one("10.9.0.2")
            await asyncio.wait_for(one_is_there.wait(), PATIENCE)
            subscription.close()
            await asyncio.wait_for(task, PATIENCE)
            return taken

    for transport in ("ring", "zmq"):
        for queues in (1, 2):
            assert asyncio.run(main(transport, queues)) == 1


def test_acreate_lets_the_loop_go_on() -> None:
    async def main() -> int:
        device, steps = await turns_during(tuncer.acreate("d0", TUN), pause=0.001)
        async with device:
            return steps

    assert asyncio.run(main()) > 5


class Subscriber(GenServer):
    """Takes one packet a callback, and has more to do."""

    def init(self, device: str) -> None:
        self.taken = 0
        self.subscription = tuncer.attach(device).subscribe()
        self.add_reader(self.subscription.fileno(), self.take)

    def take(self) -> None:
        try:
            self.subscription.recv(timeout=0)
        except TimeoutError:
            return
        self.taken += 1

    def handle_call(self, request: Any, sender: Sender) -> int:
        return self.taken


@pytest.mark.parametrize("queues", [1, 2])
def test_one_packet_a_callback_is_enough(queues: int) -> None:
    with tuncer.create("d0", TUN, queues=queues) as device:
        device.up("10.9.0.1/24", link_local=False)
        ref = Subscriber.start_link("d0")
        for _ in range(300):
            send_one("10.9.0.2")
        deadline = time.monotonic() + PATIENCE
        while ref.call("taken") < 300:
            assert time.monotonic() < deadline
        ref.stop()


def test_a_queue_of_length_0_is_refused() -> None:
    with pytest.raises(ValueError, match="gets no packet"):
        tuncer.create("d0", TUN, txqueuelen=0)
    with tuncer.create("d0", TUN) as device, pytest.raises(ValueError, match="gets no packet"):
        device.txqueuelen(0)


def test_callbacks_outside_a_process_are_told() -> None:
    class Ticker(GenServer):
        pass

    with pytest.raises(RuntimeError, match="runs in no process: start one by"):
        Ticker().send_after(1.0, "tick")


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
def test_list_shows_what_does_not_answer(run: Run) -> None:
    command = [sys.executable, "-m", "tuncer", "list"]
    with tuncer.create("well0", TUN), tuncer.create("hung0", TUN) as hung:
        pid = hung.pid
        stop(pid)
        try:
            found = subprocess.run(command, capture_output=True, text=True, check=False)
            as_json = subprocess.run(
                [*command, "--json"], capture_output=True, text=True, check=False
            )
        finally:
            os.kill(pid, signal.SIGCONT)
        assert found.returncode == as_json.returncode == 1
        assert "well0" in found.stdout
        assert "hung0" in found.stdout
        assert f"hung0: its worker, process {pid}, does not answer" in found.stderr
        rows = {row["name"]: row for row in json.loads(as_json.stdout)}
        assert rows["hung0"]["pid"] == pid
        assert rows["hung0"]["read"] is None
        assert rows["well0"]["read"] == 0
        assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_ones_own_supervisor_module_is_named(tmp_path: Path) -> None:
    (tmp_path / "supervisor.py").write_text("")
    (tmp_path / "program.py").write_text("import tuncer\n")
    found = subprocess.run(
        [sys.executable, tmp_path / "program.py"], capture_output=True, text=True, check=False
    )
    assert f"{tmp_path}/supervisor.py hides tuncer's package 'supervisor'" in found.stderr


PATCHED = """
import select
del select.epoll
import tuncer
device = tuncer.create("d0", tuncer.Flag.TUN | tuncer.Flag.NO_PI)
print(device.statistics()["restarts"])
device.subscribe()
"""


def test_a_patched_select_is_told() -> None:
    found = subprocess.run(
        [sys.executable, "-c", PATCHED], capture_output=True, text=True, check=False
    )
    assert found.stdout == "0\n", found.stderr
    assert "patch_all(select=False) leaves it" in found.stderr


DROPS = """
import os
import tuncer
device = tuncer.create("d0", tuncer.Flag.TUN | tuncer.Flag.NO_PI)
kept = device.subscribe()
device.mtu()
os.setgroups([]), os.setgid(65534), os.setuid(65534)
print("mtu", device.mtu())
try:
    device.subscribe()
except OSError as error:
    print(error, flush=True)
os._exit(0)
"""


def test_privileges_that_were_given_up_are_told() -> None:
    found = subprocess.run(
        [sys.executable, "-c", DROPS], capture_output=True, text=True, check=False
    )
    assert "mtu 1500" in found.stdout, found.stderr
    assert "a program that changes its user must call subscribe()" in found.stdout


@pytest.mark.slow
def test_thousands_of_routes_take_no_time_of_the_packets(run: Run) -> None:
    with tuncer.create("d0", TUN) as device:
        device.up("10.9.0.1/16", link_local=False)
        for number in range(2000):
            device.add_route(f"10.100.{number // 256}.{number % 256}/32")
        device.add_route("10.100.0.0/32")  # it is there
        with pytest.raises(OSError, match="another route"):
            device.add_route("10.100.0.0/32", "10.9.0.5")
        assert len(device.list_routes()) == 2001
        for number in range(2000):
            device.remove_route(f"10.100.{number // 256}.{number % 256}/32")
        assert len(device.list_routes()) == 1


def test_a_descriptor_that_is_made_blocking_does_not_stop_the_worker() -> None:
    with tuncer.create("d0", TUN) as device:
        device.up("10.9.0.1/24", link_local=False)
        fd = device.getfd()
        os.set_blocking(fd, True)
        with device.subscribe() as subscription:
            for _ in range(3):
                send_one("10.9.0.2")
                assert subscription.recv(timeout=PATIENCE).data
                assert device.statistics()["restarts"] == 0
        os.close(fd)


@pytest.mark.slow
def test_many_devices_end_side_by_side(run: Run) -> None:
    program = (
        "import tuncer\n"
        "for n in range(40): tuncer.create(f'm{n}', tuncer.Flag.TAP | tuncer.Flag.NO_PI).up()\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=PATIENCE)
    assert "m1" not in run("ip", "-br", "link")


LOGS = """
import logging, os, sys
from supervisor import ChildSpec, GenServer, Supervisor

class Talks(GenServer):
    def handle_call(self, request, sender):
        logging.getLogger("mine").info("from an actor")
        logging.getLogger("quiet").info("not wanted")

    def handle_cast(self, request):
        raise ValueError("a crash")

if __name__ == "__main__":
    options = {} if sys.argv[1] == "stdout" else {"filename": sys.argv[1]}
    if sys.argv[1] == "stdout":
        options["stream"] = sys.stdout
    logging.basicConfig(level=logging.INFO, format="MINE %(name)s %(message)s", **options)
    logging.getLogger("quiet").setLevel(logging.ERROR)
    Talks.start_link().call("x")
    sup = Supervisor.start_link([ChildSpec("t", Talks)])
    sup.child("t").call("x")
    down = sup.child("t").monitor()
    sup.child("t").cast("crash")
    down.wait(20)
    sup.child("t")
"""


@pytest.mark.parametrize("where", ["stdout", "log"])
def test_actors_log_as_the_program_does(where: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(LOGS)
    target = where if where == "stdout" else str(tmp_path / "log")
    found = subprocess.run(
        [sys.executable, tmp_path / "program.py", target],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    said = found.stdout if where == "stdout" else (tmp_path / "log").read_text()
    assert said.count("MINE mine from an actor\n") == 2
    assert "not wanted" not in said
    assert "MINE supervisor child 't' ended: ValueError: a crash; restarting it" in said
    assert found.stderr == ""


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


CONFIGURED = """
import logging, sys
from supervisor import GenServer

class Plain(logging.Formatter):
    def __init__(self):
        pass

    def format(self, record):
        return record.getMessage()

class Adds(logging.Filter):
    def filter(self, record):
        record.added = "added"
        return True

class Crashes(GenServer):
    def handle_cast(self, request):
        raise ValueError("a crash of its own")

if __name__ == "__main__":
    {configure}
    ref = Crashes.start_link()
    down = ref.monitor()
    ref.cast("crash")
    down.wait(20)
"""


@pytest.mark.parametrize(
    "configure",
    [
        "logging.basicConfig(style='{', format='{levelname}:{message}')",
        "logging.basicConfig(style='$', format='$levelname:$message')",
        "h = logging.StreamHandler(); h.setFormatter(Plain()); logging.getLogger().addHandler(h)",
        "h = logging.StreamHandler(); h.setFormatter(logging.Formatter('%(added)s'));"  # noqa: ISC004 - a line of a program
        " h.addFilter(Adds()); logging.getLogger().addHandler(h)",
        "logging.basicConfig(filename=sys.argv[1], filemode='w')",
    ],
)
def test_however_logging_is_configured_a_crash_is_told(configure: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(CONFIGURED.replace("{configure}", configure))
    found = subprocess.run(
        [sys.executable, tmp_path / "program.py", tmp_path / "log"],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    assert "ValueError: a crash of its own" in found.stderr
