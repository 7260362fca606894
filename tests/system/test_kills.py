"""Workers, supervisors, roots, owners are killed under load: nothing is lost, nothing is left."""

import concurrent.futures
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import zmq
from devices import ADDRESS, OTHER, TAP, TUN, neighbour
from processes import PATIENCE, Run, eventually, gone, heed_ctrl_c, program, stop, wait_for_end
from traffic import number_of, send_numbered, send_one

import tuncer
from supervisor import ChildSpec, NotOwner, Supervisor, SupervisorRef, linux
from supervisor.protocol import runtime_dir as runtime
from tuncer import Device, DeviceError, Flag, tunctl
from tuncer.protocol import wire_format


class Subscriber:
    """Takes numbered packets, in a thread, until one with the last number has come."""

    def __init__(self, subscription: Any, last: int, tap: bool) -> None:
        self.subscription, self.last, self.tap = subscription, last, tap
        self.numbers: list[int] = []
        self.sequence: list[int] = []

    def check(self) -> None:
        assert self.sequence == list(range(self.sequence[0], self.sequence[-1] + 1))
        assert self.subscription.stats() == {"delivered": len(self.sequence), "lost": 0}
        self.subscription.close()

    def run(self) -> None:
        ended = False
        while not ended:
            for packet in self.subscription.recv(PATIENCE):
                self.sequence.append(packet.seq)
                number = number_of(packet.data, self.tap)
                if number == self.last:
                    ended = True
                elif number is not None:
                    self.numbers.append(number)


class Plain:
    """A ZeroMQ subscriber that knows only the wire format, in a thread of its own."""

    def __init__(self, dev: Device, last: int, tap: bool) -> None:
        self.last, self.tap = last, tap
        self.numbers: list[int] = []
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.SUB)
        self.socket.setsockopt(zmq.RECONNECT_IVL, 1)
        self.socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        self.socket.setsockopt(zmq.RCVTIMEO, int(PATIENCE * 1000))
        self.socket.setsockopt(zmq.SUBSCRIBE, b"")
        self.socket.connect(dev.endpoint)
        self.gaps: list[tuple[int, int]] = []

    def check(self) -> None:
        assert self.gaps == []

    def run(self) -> None:
        expected = None
        while self.last not in self.numbers[-1:]:
            batch = wire_format.decode(self.socket.recv_multipart())
            if expected is not None and batch.seq > expected:
                self.gaps.append((expected, batch.seq))
            seen = 0 if expected is None else max(0, expected - batch.seq)
            expected = max(expected or 0, batch.seq + len(batch.packets))
            found = (number_of(packet, self.tap) for packet in batch.packets[seen:])
            self.numbers += [number for number in found if number is not None]
        self.numbers = [number for number in self.numbers if number != self.last]
        self.context.destroy(0)


def start_device(run: Run, kind: Flag, **options: Any) -> Device:
    dev = tuncer.create("lab0", kind, **options)
    run("ip", "link", "set", "lab0", "addrgenmode", "none")
    dev.up(f"{ADDRESS}/24")
    if kind & Flag.TAP:
        neighbour(run)
    return dev


def kill_and_wait(dev: Device) -> None:
    """Kill the worker, and wait until its successor serves."""
    pid = dev.pid
    os.kill(pid, signal.SIGKILL)
    assert wait_for_end(pid)
    assert dev.pid != pid


def offered() -> int:
    """Return how many packets the kernel has been given for the device, dropped ones included."""
    for line in Path("/proc/thread-self/net/dev").read_text().splitlines():
        if line.strip().startswith("lab0:"):
            columns = line.split(":")[1].split()
            return int(columns[9]) + int(columns[11])
    raise AssertionError("there is no lab0")


def dropped_by_the_kernel(run: Run) -> int:
    queue = json.loads(run("tc", "-s", "-j", "qdisc", "show", "dev", "lab0"))[0]["drops"]
    return int(queue + tunctl.statistics("lab0")["tx_dropped"])


def kills_under_load(
    run: Run,
    kind: Flag,
    kills: int,
    rate: int,
    count: int,
    others: tuple[str, ...] = (),
    packets: int = 1 << 17,
) -> None:
    """Kill the worker so often, while packets come; see that none is missing, and none comes twice.

    Args:
        run: runs ip(8).
        kind: of the device.
        kills: how many.
        rate: packets a second.
        count: of packets, in all.
        others: what subscribes besides two of the ring: "zmq", "plain".
        packets: of the ring: however busy the machine, nobody is lapped.
    """
    tap = bool(kind & Flag.TAP)
    with contextlib.ExitStack() as stack:
        dev = stack.enter_context(start_device(run, kind, log_packets=packets, log_bytes=256 << 20))
        watch = stack.enter_context(program("ip", "monitor", "link", "address", "route"))
        before = dev.ifindex()
        followers: list[Any] = [Subscriber(dev.subscribe(batch=True), count, tap) for _ in (1, 2)]
        if "zmq" in others:
            followers.append(Subscriber(dev.subscribe(batch=True, transport="zmq"), count, tap))
        if "plain" in others:
            followers.append(Plain(dev, count, tap))
        eventually(lambda: dev.statistics()["subscribers"] >= len(followers))
        sender = send_numbered(OTHER, rate, count)
        with ThreadPoolExecutor(len(followers)) as pool:
            running = [pool.submit(follower.run) for follower in followers]
            for kill in range(kills):
                due = kill * count // kills
                # The kernel tells nobody of its counters.
                eventually(lambda due=due: offered() >= due)
                # What comes again after each kill would fill ZeroMQ's queue of one that is starved.
                for follower in followers[2:]:
                    eventually(
                        lambda who=follower, due=due: due - max(who.numbers, default=0) < 500
                    )
                kill_and_wait(dev)
            sender.wait(PATIENCE)
            while not all(done.done() for done in running):
                send_one(OTHER, count.to_bytes(8, "big"))  # the last, again if it is dropped
                concurrent.futures.wait(running, 0.1, "FIRST_EXCEPTION")
            for done in running:
                done.result()
        assert sender.wait(PATIENCE) == 0
        assert sender.stdout is not None
        sender.stdout.close()
        statistics = dev.statistics()
        assert statistics["restarts"] == kills
        assert statistics["packets_read"] == statistics["kernel_packets"]
        assert statistics["bytes_read"] == statistics["kernel_bytes"]
        expected = followers[0].numbers
        assert expected == sorted(set(expected))
        assert len(expected) >= count - dropped_by_the_kernel(run)  # told apart, the only loss
        for follower in followers:
            assert follower.numbers == expected
            follower.check()
        assert dev.ifindex() == before
        watch.process.kill()
        assert "lab0" not in watch.process.stdout.read()  # type: ignore[union-attr]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [TUN, TAP], ids=["tun", "tap"])
@pytest.mark.parametrize(
    ("rate", "count", "others"),
    # What ZeroMQ has under way at a kill is sent again, up to 4,096 packets: a subscriber that is
    # slower than that on a busy machine sees a gap, as it may. So the messages come slower here.
    [(50_000, 100_000, ()), (1_000, 5_000, ("zmq", "plain"))],
    ids=["ring", "messages"],
)
def test_fifty_kills_under_load_lose_nothing(
    run: Run, kind: Flag, rate: int, count: int, others: tuple[str, ...], capfd: Any
) -> None:
    kills_under_load(run, kind, 50, rate, count, others)
    capfd.readouterr()


def test_interface_addresses_and_routes_stay(run: Run) -> None:
    with tuncer.create("lab0", TUN) as dev:
        dev.up(f"{ADDRESS}/24")
        dev.up("fd00::1/64")
        run("ip", "route", "add", "10.77.0.0/16", "via", OTHER)

        def shown() -> Any:
            kept = ("ifindex", "ifname", "flags", "mtu", "operstate", "txqlen", "addr_info")
            link = json.loads(run("ip", "-j", "addr", "show", "dev", "lab0"))[0]
            return (
                [link[k] for k in kept],
                run("ip", "route"),
                run("ip", "-6", "route", "show", "dev", "lab0"),
            )

        eventually(lambda: "tentative" not in str(shown()))
        before = shown()
        for _ in range(10):
            kill_and_wait(dev)
            assert shown() == before


def test_what_the_kernel_had_queued_is_delivered_after_the_crash(run: Run) -> None:
    with start_device(run, TUN) as dev, dev.subscribe() as subscription:
        pid = dev.pid
        stop(pid)
        for number in range(500):
            send_one(OTHER, number.to_bytes(8, "big"))
        os.kill(pid, signal.SIGKILL)
        found = []
        while len(found) < 500:
            number_ = number_of(subscription.recv(PATIENCE).data)  # type: ignore[union-attr]
            found.append(number_)
        assert found == list(range(500))


@pytest.mark.parametrize("victim", ["outer", "inner", "worker"])
def test_under_supervisors_of_ones_own_the_interface_outlives_them(run: Run, victim: str) -> None:
    device = tuncer.child_spec("net", "lab0", TUN)
    inner = ChildSpec("inner", Supervisor, ([device],), {"intensity": 1000})
    outer = ChildSpec("outer", Supervisor, ([inner],), {"intensity": 1000})
    root: SupervisorRef = Supervisor.start_link([outer], intensity=1000)
    dev = tuncer.attach("lab0")
    dev.up(f"{ADDRESS}/24")
    index = dev.ifindex()
    with dev.subscribe() as subscription, program("ip", "monitor", "link") as watch:
        for _ in range(10):
            first = root.child("outer")
            assert isinstance(first, SupervisorRef)
            second = first.child("inner")
            pids = {"outer": first.pid, "inner": second.pid, "worker": dev.pid}
            os.kill(pids[victim], signal.SIGKILL)
            below = {"outer": ["outer", "inner", "worker"], "inner": ["inner", "worker"]}
            for name in below.get(victim, ["worker"]):
                assert wait_for_end(pids[name])
            send_one(OTHER, b"after")
            while subscription.recv(PATIENCE).data[28:] != b"after":  # type: ignore[union-attr]
                pass
            assert dev.ifindex() == index
            again = root.child("outer")
            assert isinstance(again, SupervisorRef)
            assert again.child("inner").is_alive()
            if victim != "outer":
                assert first.is_alive()
        assert subscription.stats()["lost"] == 0
        watch.process.kill()
        assert "lab0" not in watch.process.stdout.read()  # type: ignore[union-attr]
    root.stop()
    assert "lab0" not in run("ip", "-br", "link")


OWNER = """
import os, sys, tuncer
dev = tuncer.create("lab0", tuncer.Flag.TUN | tuncer.Flag.NO_PI, persist="persist" in sys.argv)
dev.up("10.9.0.1/24")
print(dev.pid, flush=True)
line = sys.stdin.readline().strip()
{end}
"""

ENDS = {
    "normally": ("", 0),
    "by sys.exit": ("sys.exit(3)", 3),
    "by an exception": ("raise RuntimeError('of the owner')", 1),
    "by os._exit": ("os._exit(4)", 4),
    "by SIGKILL": ("os.kill(os.getpid(), 9)", -9),
    "by SIGTERM": ("os.kill(os.getpid(), 15)", -15),
    "by abort": ("os.abort()", -6),
}


@pytest.mark.parametrize("how", ENDS)
def test_the_device_goes_with_its_owner(how: str, run: Run) -> None:
    end, status = ENDS[how]
    with program(sys.executable, "-W", "error", "-c", OWNER.format(end=end)) as owner:
        worker = int(owner.expect("\n"))
        assert "lab0" in run("ip", "-br", "link")
        owner.process.communicate("go\n", timeout=PATIENCE)
        assert owner.process.returncode == status
        assert wait_for_end(worker)
    deleted(run)


def deleted(run: Run) -> None:
    """Wait until the worker's end has taken the device away."""
    deadline = time.monotonic() + PATIENCE
    while "lab0" in run("ip", "-br", "link"):
        assert time.monotonic() < deadline


@pytest.mark.parametrize("how", ["normally", "by SIGKILL"])
def test_a_persistent_device_stays(how: str, run: Run) -> None:
    with program(sys.executable, "-c", OWNER.format(end=ENDS[how][0]), "persist") as owner:
        worker = int(owner.expect("\n"))
        owner.process.communicate("go\n", timeout=PATIENCE)
        assert wait_for_end(worker)
    assert "lab0" in run("ip", "-br", "link")
    with tuncer.create("lab0", TUN) as dev:  # its successor attaches to it
        assert Flag.PERSIST in dev.flags()
        dev.persist(False)
    assert "lab0" not in run("ip", "-br", "link")


KINDS = {
    "a thread that ends": """
import threading
made = []
t = threading.Thread(target=lambda: made.append(create())); t.start(); t.join()
""",
    "asyncio.to_thread": """
import asyncio
made = [asyncio.run(asyncio.to_thread(create))]
""",
    "a daemonic child": """
import multiprocessing
if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    child = context.Process(target=lambda: create(), daemon=True); child.start(); child.join()
    assert child.exitcode == 0
    made = []
""",
    "a program that forks afterwards": """
made = [create()]
pid = os.fork()
if pid == 0:
    assert made[0].devname() == "lab0"
    sys.exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
""",
    "a program with threads and signals": """
import signal, threading
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
threading.Thread(target=threading.Event().wait, daemon=True).start()
made = [create()]
""",
}


@pytest.mark.parametrize("kind", KINDS)
def test_owners_of_every_kind_end_without_a_word(kind: str, run: Run) -> None:
    prelude = (
        "import os, sys, tuncer\n"
        "def create():\n"
        "    return tuncer.create('lab0', tuncer.Flag.TUN | tuncer.Flag.NO_PI)\n"
    )
    postlude = "\nfor dev in made:\n    assert dev.statistics()['restarts'] == 0\n"
    command = [sys.executable, "-W", "error", "-c", prelude + KINDS[kind] + postlude]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    deleted(run)


def test_an_interactive_interpreter(run: Run) -> None:
    with program(sys.executable, "-i", "-q") as python:
        assert python.process.stdin is not None
        python.process.stdin.write(
            "import tuncer\n"
            "dev = tuncer.create('lab0', tuncer.Flag.TUN | tuncer.Flag.NO_PI)\n"
            "print('named', dev.devname(), flush=True)\n"
        )
        python.process.stdin.flush()
        python.expect("named lab0")
        out, _ = python.process.communicate("exit()\n", timeout=PATIENCE)
        assert "Traceback" not in out
    assert "lab0" not in run("ip", "-br", "link")


INTERRUPTED = """
import sys, time, tuncer
dev = tuncer.create("lab0", tuncer.Flag.TUN | tuncer.Flag.NO_PI)
try:
    print("ready", dev.pid, flush=True)
    for packet in dev.subscribe():
        pass
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_ctrl_c_ends_owner_and_device_in_order(run: Run) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=heed_ctrl_c,  # noqa: PLW1509 - no threads here
    ) as owner:
        assert owner.stdout is not None
        worker = int(owner.stdout.readline().split()[1])
        os.killpg(owner.pid, signal.SIGINT)
        assert owner.stdout.read() == "interrupted\n"
        assert owner.wait(PATIENCE) == 0
        assert wait_for_end(worker)
    assert "lab0" not in run("ip", "-br", "link")


def test_the_second_ctrl_c_ends_at_once(run: Run) -> None:
    with program(sys.executable, "-c", INTERRUPTED, preexec_fn=heed_ctrl_c) as owner:
        worker = int(owner.expect("ready").split()[1])
        stop(worker)  # it will not end in order
        os.kill(owner.process.pid, signal.SIGINT)
        owner.expect("interrupted")
        while not gone(worker):
            os.kill(owner.process.pid, signal.SIGINT)
            if wait_for_end(worker, 0.05):
                break
        owner.process.wait(PATIENCE)
    deleted(run)
    runtime.sweep()


def go(owner: Any) -> None:
    """Let an owner go on, and wait for its end: its device may live on, with its output open."""
    owner.process.stdin.write("go\n")
    owner.process.stdin.flush()
    owner.process.wait(PATIENCE)


def test_controlling_process_hands_the_device_on(run: Run) -> None:
    guest = subprocess.Popen(["sleep", "1000"])
    end = f"dev.controlling_process({guest.pid}); os._exit(0)"
    with program(sys.executable, "-c", OWNER.format(end=end)) as owner:
        worker = int(owner.expect("\n"))
        go(owner)
    dev = tuncer.attach("lab0")
    assert dev.pid == worker
    kill_and_wait(dev)
    assert dev.statistics()["restarts"] == 1
    last = dev.pid
    guest.kill()
    guest.wait()
    assert wait_for_end(last)
    deleted(run)


def test_only_the_owner_hands_a_device_on(run: Run) -> None:
    with program(sys.executable, "-c", OWNER.format(end="")) as owner:
        owner.expect("\n")
        with pytest.raises(NotOwner, match="does not belong to process"):
            tuncer.attach("lab0").controlling_process(os.getpid())
        go(owner)
    Supervisor.start_link([tuncer.child_spec("net", "lab1", TUN)])
    with pytest.raises(NotOwner):
        tuncer.attach("lab1").controlling_process(os.getpid())


def test_a_device_deleted_while_its_worker_was_dead(run: Run, capfd: Any) -> None:
    dev = tuncer.create("lab0", TUN)
    subscription = dev.subscribe()
    root = int(Path(f"/proc/{dev.pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    pid = dev.pid
    stop(root)
    os.kill(pid, signal.SIGKILL)
    assert wait_for_end(pid)
    run("ip", "link", "del", "lab0")
    os.kill(root, signal.SIGCONT)
    with pytest.raises(DeviceError, match="was deleted"):
        subscription.recv(PATIENCE)
    subscription.close()
    with pytest.raises(DeviceError, match="no such device"):
        dev.statistics()
    with tuncer.create("lab0", TUN) as again:
        assert again.statistics()["restarts"] == 0
    assert capfd.readouterr().err.count("restarting") == 1


def test_only_what_belonged_to_the_owner_goes(run: Run) -> None:
    guest = subprocess.Popen(["sleep", "1000"])
    end = (
        "two = tuncer.create('lab1', tuncer.Flag.TUN | tuncer.Flag.NO_PI)\n"
        f"two.controlling_process({guest.pid}); os.kill(os.getpid(), 9)"
    )
    with program(sys.executable, "-c", OWNER.format(end=end)) as owner:
        worker = int(owner.expect("\n"))
        go(owner)
    assert wait_for_end(worker)
    deleted(run)
    assert "lab1" in run("ip", "-br", "link")
    other = tuncer.attach("lab1").pid
    guest.kill()
    guest.wait()
    assert wait_for_end(other)


def test_a_stopped_root_takes_the_device_down_when_it_is_continued(run: Run) -> None:
    with program(sys.executable, "-c", OWNER.format(end="")) as owner:
        worker = int(owner.expect("\n"))
        root = int(Path(f"/proc/{worker}/stat").read_text().rsplit(")", 1)[1].split()[1])
        stop(root)
        owner.process.kill()
        owner.process.wait(PATIENCE)
        assert not gone(worker)
        assert "lab0" in run("ip", "-br", "link")
        os.kill(root, signal.SIGCONT)
        assert wait_for_end(root)
        assert gone(worker)
    deleted(run)


def test_with_the_root_killed_everything_below_it_goes(run: Run) -> None:
    dev = tuncer.create("lab0", TUN)
    subscriptions = [dev.subscribe(transport=t) for t in ("ring", "zmq")]
    worker = dev.pid
    root = int(Path(f"/proc/{worker}/stat").read_text().rsplit(")", 1)[1].split()[1])
    os.kill(root, signal.SIGKILL)
    assert wait_for_end(root)
    assert wait_for_end(worker)
    deleted(run)
    for subscription in subscriptions:
        with pytest.raises(DeviceError, match="supervisors have ended"):
            while True:
                subscription.recv(PATIENCE)
        subscription.close()
    with pytest.raises(DeviceError, match="no such device"):
        dev.statistics()
    with tuncer.create("lab0", TUN) as again:  # the owner goes on, with a new root
        assert again.devname() == "lab0"


@pytest.mark.parametrize("round_", range(20))
def test_a_worker_killed_at_any_moment_of_its_start(run: Run, round_: int, capfd: Any) -> None:
    """The child is killed as soon as it is seen, or a little later: create succeeds or says why."""
    with tuncer.create("first", TUN) as first, ThreadPoolExecutor(1) as pool:
        root = int(Path(f"/proc/{first.pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
        known = {first.pid}
        creating = pool.submit(tuncer.create, "lab0", TUN)
        spins = random.Random(round_).randrange(0, 3000)
        while not creating.done():
            children = Path(f"/proc/{root}/task/{root}/children").read_text().split()
            new = {int(c) for c in children} - known
            if new:
                for _ in range(spins):
                    pass
                for pid in new:
                    os.kill(pid, signal.SIGKILL)
                break
        try:
            dev = creating.result(PATIENCE)
        except Exception as error:  # noqa: BLE001 - whatever it is, its text is looked at
            assert "killed" in str(error) or "ended" in str(error)  # noqa: PT017 - it may succeed as well
        else:
            assert dev.devname() == "lab0"
            dev.destroy()
        assert "lab0" not in run("ip", "-br", "link")
        assert first.devname() == "first"
    capfd.readouterr()


def test_idle_processes_sleep() -> None:
    with tuncer.create("lab0", TUN) as dev, dev.subscribe():
        dev.statistics()
        root = int(Path(f"/proc/{dev.pid}/stat").read_text().rsplit(")", 1)[1].split()[1])

        def wakeups() -> int:
            return sum(
                int(line.split()[1])
                for pid in (dev.pid, root)
                for line in Path(f"/proc/{pid}/status").read_text().splitlines()
                if "ctxt_switches" in line
            )

        settled = wakeups()
        while (now := wakeups()) != settled:
            settled = now
            time.sleep(0.2)
        time.sleep(1.5)  # it is the absence of events that is looked for
        assert wakeups() - settled <= 2  # a loop with a short sleep would make dozens


def test_descriptors_and_processes_do_not_pile_up() -> None:
    with tuncer.create("keep", TUN) as keep:
        root = int(Path(f"/proc/{keep.pid}/stat").read_text().rsplit(")", 1)[1].split()[1])

        def count() -> tuple[int, int, int]:
            supervisor = SupervisorRef(linux.process(root))
            assert supervisor.count_children()["active"] == 1  # it has seen the others' end
            children = Path(f"/proc/{root}/task/{root}/children").read_text().split()
            return (
                len(os.listdir(f"/proc/{root}/fd")),
                len(children),
                len(os.listdir("/proc/self/fd")),
            )

        def cycle() -> None:
            with tuncer.create("lab0", TUN) as dev, dev.subscribe():
                dev.statistics()
            with pytest.raises(OSError, match="in use"):
                tuncer.create("keep", TUN)

        cycle()
        before = count()
        for _ in range(30):
            cycle()
        after = count()
        assert after[:2] == before[:2]
        assert after[2] <= before[2] + 4  # connections to the last worker are kept until the next
