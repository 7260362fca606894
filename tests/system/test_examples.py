"""The examples are run as their comments say, and show what they promise."""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from devices import TUN
from processes import (
    EXAMPLES,
    PATIENCE,
    ROOT,
    TUNCER,
    Program,
    Run,
    another_namespace,
    eventually,
    heed_ctrl_c,
    program,
)
from traffic import ping, send_one

import tuncer
from supervisor import NoProcess, handler, named
from supervisor.tree import snapshot
from tuncer import tunctl
from tuncer.pipeline import PipelineRef
from tuncer.protocol import wire_format


def test_ping_responder(run: Run) -> None:
    command = [sys.executable, str(EXAMPLES / "ping_responder.py")]
    with program(*command, preexec_fn=heed_ctrl_c) as example:
        worker = int(example.expect("ping 10.9.0.2").split("process ")[1].split(":")[0])
        ping(run, "10.9.0.2", count=3, interval=0.05)
        os.kill(worker, signal.SIGKILL)
        ping(run, "10.9.0.2", count=3, interval=0.05)
        example.process.send_signal(signal.SIGINT)
        example.expect("bye")
        assert example.process.wait(PATIENCE) == 0
        # Ctrl-C may come after the last answer and before its line; a busy machine makes ping send
        # more.
        assert example.printed.count("answered 84 bytes") >= 5
    assert "lab0" not in run("ip", "-br", "link")


def test_fan_out(run: Run) -> None:
    out = run(sys.executable, str(EXAMPLES / "fan_out.py"))
    for number in (1, 2, 3):
        assert f"subscriber {number}: 1000 datagrams in order" in out
    assert out.count("'lost': 0") == 3
    assert "restarts of the worker: 1" in out


def test_top_talkers(run: Run) -> None:
    out = run(sys.executable, str(EXAMPLES / "top_talkers.py"))
    assert out.splitlines() == ["10.9.0.2 got 30000 bytes", "10.9.0.4 got 20000 bytes"]


def test_long_running(run: Run) -> None:
    out = run(sys.executable, str(EXAMPLES / "long_running.py"))
    counts = re.findall(r"process (\d+) counts (\d+)", out)
    assert [int(n) for _, n in counts] == list(range(1, 31))
    assert len({pid for pid, _ in counts}) == 3
    assert out.count("it crashed: killed") == 2


class Front:
    """What the example's actor of this name may be asked."""

    @handler
    def port(self) -> int:
        raise NotImplementedError


def gone_within(process: subprocess.Popen[str], seconds: float) -> bool:
    """Tell whether a process ends within so many seconds."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    return process.returncode is not None


def test_web_workers() -> None:
    """Every connection is accepted, whoever is killed; most requests are answered."""
    command = [sys.executable, str(EXAMPLES / "web_workers.py"), "0"]
    with program(*command, preexec_fn=heed_ctrl_c) as example:
        port = named("front").within(retry=PATIENCE).call(Front.port)
        load = ["ab", "-q", "-r", "-n", "1500", "-c", "8", f"http://127.0.0.1:{port}/"]
        kills = 0
        with program(*load) as loading:
            while not gone_within(loading.process, 0.1):
                (root,) = snapshot()
                victims = [node.pid for node in root.all() if node is not root and node.pid]
                for pid in victims[kills % (len(victims) or 1) :][:1]:
                    kills += 1
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            loading.expect("Complete requests:      1500")
            rest = loading.process.stdout.read() if loading.process.stdout else ""
        failed = re.search(r"\(Connect: (\d+), Receive: (\d+)", rest)
        assert kills > 0
        assert failed is None or failed[1] == "0"
        example.process.send_signal(signal.SIGINT)
        assert example.process.wait(PATIENCE) == 0


def test_etl(run: Run) -> None:
    out = run(sys.executable, str(EXAMPLES / "etl.py"), "2000", "5")
    found = re.search(
        r"^(\d+) kills; each of 2000 records is there exactly once$", out, re.MULTILINE
    )
    assert found is not None
    assert int(found[1]) > 1


def test_wrong_usage_is_told() -> None:
    done = subprocess.run([TUNCER, "nonsense"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "invalid choice" in done.stderr


def blocks_of_readme() -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)


def test_the_readmes_program_shows_packets(run: Run) -> None:
    shown = blocks_of_readme()[0].replace(".hex())", ".hex(), flush=True)")
    with program(sys.executable, "-c", shown, preexec_fn=heed_ctrl_c) as example:
        eventually(lambda: "10.9.0.0/24" in run("ip", "route"))  # up, and has the address
        send_one("10.9.0.2", b"hello")
        example.expect(b"hello".hex())
        example.process.send_signal(signal.SIGINT)
        example.process.wait(PATIENCE)


def test_the_readmes_overview_is_executed() -> None:
    flags = tuncer.Flag.TUN | tuncer.Flag.NO_PI
    packet = b"\x45" + bytes(39)
    names = {
        "tuncer": tuncer,
        "flags": flags,
        "packet": packet,
        "another": packet,
        "pid": os.getpid(),
        "fd": tunctl.create("theirs0", flags),
    }
    (overview,) = [block for block in blocks_of_readme() if "wide0" in block]
    for line in overview.splitlines():
        if line.startswith("dev.getfd()"):
            os.close(eval(line, names))  # noqa: S307 - README's own
        elif not line.startswith(("dev.recv", "await")):  # nothing is sent here
            exec(line, names)  # noqa: S102 - README's own
    assert {device.name for device in tuncer.devices()} == {"lab0", "wide0", "far0", "theirs0"}
    os.close(names["fd"])  # type: ignore[call-overload]
    for device in tuncer.devices():
        device.destroy()


def test_the_readmes_pipeline_writes_a_file(run: Run, tmp_path: Path) -> None:
    (shown,) = [block for block in blocks_of_readme() if "(Stage)" in block]
    (tmp_path / "program.py").write_text(shown)
    command = [sys.executable, str(tmp_path / "program.py")]
    with program(*command, cwd=tmp_path, preexec_fn=heed_ctrl_c) as example:
        edge = named("edge", PipelineRef).within(retry=PATIENCE)
        eventually(lambda: edge.call(["statistics"]) and "10.9.0.0/24" in run("ip", "route"))
        send_one("10.9.0.2", b"hello")
        path = tmp_path / "lab0.pcapng"
        eventually(lambda: path.exists() and b"hello" in path.read_bytes())
        example.process.send_signal(signal.SIGINT)
        example.process.wait(PATIENCE)


class Bridge:
    """What the example's actor of this name may be asked."""

    @handler
    def learnt(self) -> list[tuple[str, str]]:
        raise NotImplementedError


def test_bridge(run: Run) -> None:
    """Three namespaces reach one another, over a kill of each port's worker."""
    with another_namespace() as one, another_namespace() as two, another_namespace() as three:
        pids = [str(pid) for pid in (one, two, three)]
        command = [sys.executable, str(EXAMPLES / "bridge.py"), *pids]
        with program(*command, preexec_fn=heed_ctrl_c) as example:
            bridge = named("bridge").within(retry=PATIENCE)
            assert bridge.call(Bridge.learnt) is not None

            def inside(where: int, *command: str) -> str:
                return run("nsenter", "--net", "-t", pids[where], *command)

            def ping_all() -> None:
                for where in range(3):
                    for other in range(3):
                        options = ("-c3", "-i0.05", "-W5")
                        inside(where, "ping", *options, f"10.7.0.{other + 1}")

            ping_all()
            assert {port for _, port in bridge.call(Bridge.learnt)} == {"port0", "port1", "port2"}
            (root,) = snapshot()
            for child in root.children:
                if child.id.startswith("port"):
                    assert child.pid is not None
                    os.kill(child.pid, signal.SIGKILL)
                    ping_all()
            server = ["nsenter", "--net", "-t", pids[0], "iperf3", "-s", "-1", "--forceflush"]
            with program(*server) as serving:
                serving.expect("listening")
                said = inside(1, "iperf3", "-c", "10.7.0.1", "-t", "1", "-J")
                assert json.loads(said)["end"]["sum_received"]["bytes"] > 1_000_000
            example.process.send_signal(signal.SIGINT)
            assert example.process.wait(PATIENCE) == 0


def test_flow_monitor(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each packet that was read stands in the file once, over kills of all its workers."""
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, str(EXAMPLES / "flow_monitor.py"), "3"]
    with program(*command) as example:
        monitor = named("monitor", PipelineRef).within(retry=PATIENCE)
        eventually(lambda: monitor.call(["statistics"])[0][0][1] > 100)
        for row in monitor.which_children():
            if row.ref is not None:
                with contextlib.suppress(NoProcess, ProcessLookupError):
                    os.kill(row.ref.pid, signal.SIGKILL)
        said = example.expect("packets are in flows.pcapng")
        assert example.process.wait(PATIENCE) == 0
    written, missed = re.findall(r"(\d+) (?:packets are|were)", said)
    assert missed == "0"
    fields = ("-T", "fields", "-e", "udp.dstport", "-e", "frame.interface_name")
    lines = run("tshark", "-r", "flows.pcapng", *fields).splitlines()
    assert len(lines) == int(written)
    assert {"9\tlab0"} <= set(lines)


def test_firewall(run: Run) -> None:
    """What a rule drops does not pass; changes of rules, and kills, cost no other packet."""
    with another_namespace() as lan, another_namespace() as wan:
        command = [sys.executable, str(EXAMPLES / "firewall.py"), str(lan), str(wan)]
        with program(*command) as example:
            example.expect("ready")

            def say(line: str) -> None:
                assert example.process.stdin is not None
                example.process.stdin.write(line + "\n")
                example.process.stdin.flush()

            def change(line: str) -> None:
                say(line)
                example.expect("changed")

            def inside(where: int, *command: str) -> str:
                return run("nsenter", "--net", "-t", str(where), *command)

            inside(lan, "ping", "-c3", "-i0.05", "-W5", "10.6.0.2")
            change("drop icmp")
            firewall = named("firewall", PipelineRef).within(retry=PATIENCE)
            for row in firewall.which_children():
                if row.ref is not None:
                    os.kill(row.ref.pid, signal.SIGKILL)
            with pytest.raises(AssertionError, match="100% packet loss"):
                inside(wan, "ping", "-c3", "-i0.05", "-W0.5", "10.6.0.1")
            change("allow icmp")
            options = ("-c400", "-i0.005", "-W5", "-q", "10.6.0.2")
            with program("nsenter", "--net", "-t", str(lan), "ping", *options) as pinging:
                for _ in range(20):
                    change("drop tcp 81")
                    change("allow tcp 81")
                assert ", 0% packet loss" in pinging.expect("packet loss")
            say("")
            example.expect("StageCounts(name='firewall'")
            assert example.process.stdin is not None
            example.process.stdin.close()
            assert example.process.wait(PATIENCE) == 0


def test_sniffer_farm(run: Run, tmp_path: Path) -> None:
    """Each listener gets what it asked for, over a kill; one that goes disturbs nobody."""
    command = [sys.executable, str(EXAMPLES / "sniffer_farm.py")]
    path = tmp_path / "a.pcapng"
    with program(*command, "device", preexec_fn=heed_ctrl_c) as device:
        eventually(lambda: "10.9.0.0/24" in run("ip", "route"))
        with (
            program(*command, "count") as count,
            program(*command, "write", str(path)) as write,
            program(*command, "alert", "needle") as alert,
        ):
            for listener in (count, write, alert):
                listener.expect("listening")
            send_one("10.9.0.2", b"hay")
            assert count.expect("packets up to").endswith("0 lost before\n")
            count.process.kill()
            (root,) = snapshot()
            (worker,) = root.children
            assert worker.pid is not None
            os.kill(worker.pid, signal.SIGKILL)
            send_one("10.9.0.2", b"hay with a needle")
            assert "10.9.0.1 to 10.9.0.2: b'needle'" in alert.expect("needle")
            eventually(lambda: b"hay with a needle" in path.read_bytes())
        device.process.send_signal(signal.SIGINT)
        assert device.process.wait(PATIENCE) == 0
    lines = run("tshark", "-r", str(path), "-Y", "udp", "-T", "fields", "-e", "udp.length").split()
    assert lines == [str(8 + len(b"hay")), str(8 + len(b"hay with a needle"))]


def test_lab_dns(run: Run, tmp_path: Path) -> None:
    """The system's own resolver gets its answers, over a kill of the device's worker."""
    resolv = tmp_path / "resolv.conf"
    resolv.write_text("nameserver 10.9.0.53\nsearch lab\noptions timeout:2 attempts:5\n")
    command = [sys.executable, str(EXAMPLES / "lab_dns.py"), "web=10.9.0.80", "db=10.9.0.90"]

    def resolved(name: str) -> str:
        script = f"mount --bind {resolv} /etc/resolv.conf && exec getent -s dns ahostsv4 {name}"
        return run("unshare", "--mount", "sh", "-c", script).split()[0]

    with program(*command, preexec_fn=heed_ctrl_c) as example:
        eventually(lambda: "10.9.0.0/24" in run("ip", "route"))
        assert resolved("web.lab") == "10.9.0.80"
        os.kill(tuncer.attach("lab0").pid, signal.SIGKILL)
        assert resolved("db") == "10.9.0.90"
        with pytest.raises(AssertionError):
            resolved("nobody.lab")
        example.expect("nobody.lab: there is none")
        example.process.send_signal(signal.SIGINT)
        example.process.wait(PATIENCE)


@pytest.mark.parametrize("way", ["udp", "curve"])
def test_tunnel(run: Run, way: str, tmp_path: Path) -> None:
    """Packets pass in both directions, at full size; over an unplugged link, and kills."""
    script = [sys.executable, str(EXAMPLES / "tunnel.py")]
    keys: list[tuple[str, ...]] = [(), ()]
    if way == "curve":
        for name in ("left", "right", "stranger"):
            subprocess.run([*script, "keys", name], cwd=tmp_path, check=True)
        keys = [("left.key_secret", "right.key"), ("right.key_secret", "left.key")]
    size = 1500 if way == "curve" else 1472
    with another_namespace() as one, another_namespace() as two:
        pids = [str(one), str(two)]

        def inside(where: int, *command: str) -> str:
            return run("nsenter", "--net", "-t", pids[where], *command)

        def end(where: int, keys: tuple[str, ...]) -> list[str]:
            here, other = f"192.0.2.{where + 1}", f"192.0.2.{2 - where}"
            addresses = (f"10.5.0.{where + 1}/24", here, other)
            return ["nsenter", "--net", "-t", pids[where], *script, *addresses, *keys]

        run("ip", "link", "add", "left", "type", "veth", "peer", "name", "right")
        for where, name in enumerate(("left", "right")):
            run("ip", "link", "set", name, "netns", pids[where])
            inside(where, "ip", "address", "add", f"192.0.2.{where + 1}/24", "dev", name)
            inside(where, "ip", "link", "set", name, "up")
        with program(*end(0, keys[0]), cwd=tmp_path) as first:
            first.expect("ready")
            if way == "curve":
                with program(*end(1, ("stranger.key_secret", "left.key")), cwd=tmp_path) as other:
                    other.expect("ready")
                    with pytest.raises(AssertionError, match="100% packet loss"):
                        inside(1, "ping", "-c3", "-i0.2", "-W0.2", "10.5.0.1")
            with program(*end(1, keys[1]), cwd=tmp_path) as second:
                second.expect("ready")
                inside(0, "ping", "-c1", "-w10", "10.5.0.2")
                inside(0, "ping", "-c3", "-i0.05", "-W5", "10.5.0.2")
                full = ("-s", str(size - 28), "-M", "do")
                inside(1, "ping", "-c3", "-i0.05", "-W5", *full, "10.5.0.1")
                inside(0, "ip", "link", "set", "left", "down")
                with pytest.raises(AssertionError, match="100% packet loss"):
                    inside(1, "ping", "-c2", "-i0.05", "-W0.2", "10.5.0.1")
                inside(0, "ip", "link", "set", "left", "up")
                inside(1, "ping", "-c1", "-w20", "10.5.0.1")
                server = ["nsenter", "--net", "-t", pids[0], "iperf3", "-s", "-1", "--forceflush"]
                with program(*server) as serving:
                    serving.expect("listening")
                    said = inside(1, "iperf3", "-c", "10.5.0.1", "-t", "1", "-J")
                    assert json.loads(said)["end"]["sum_received"]["bytes"] > 1_000_000


def test_netem(run: Run) -> None:
    """What ping measures is the delay and the loss that were asked for, and iperf3 the rate."""
    with another_namespace() as one, another_namespace() as two:

        def inside(where: int, *command: str) -> str:
            return run("nsenter", "--net", "-t", str(where), *command)

        @contextlib.contextmanager
        def bad_link(*options: str) -> Iterator[None]:
            script = [sys.executable, str(EXAMPLES / "netem.py"), str(one), str(two), *options]
            with program(*script, preexec_fn=heed_ctrl_c) as example:
                eventually(lambda: named("netem").is_alive())
                named("netem").within(retry=PATIENCE).get_state()  # it has begun
                yield
                example.process.send_signal(signal.SIGINT)
                assert example.process.wait(PATIENCE) == 0

        with bad_link("delay=20", "loss=20", "seed=3"):
            said = inside(one, "ping", "-c100", "-i0.01", "-W1", "-q", "10.4.0.2")
            received = int(re.findall(r"(\d+) received", said)[0])
            assert 45 <= received <= 80  # 64 are expected: each way loses a fifth
            assert float(re.findall(r"mdev = ([\d.]+)/", said)[0]) >= 40.0
        with bad_link("rate=8000000"):
            server = ["nsenter", "--net", "-t", str(two), "iperf3", "-s", "-1", "--forceflush"]
            with program(*server) as serving:
                serving.expect("listening")
                said = inside(one, "iperf3", "-c", "10.4.0.2", "-t", "2", "-J")
            assert 2e6 < json.loads(said)["end"]["sum_received"]["bits_per_second"] < 9e6


NODE = ROOT / ".node" / "node_modules"


def subscriber(language: str, directory: Path) -> tuple[list[str], dict[str, str]]:
    """Return how a subscriber in this language is run, and in which environment."""
    if language == "js":
        if not NODE.exists() or shutil.which("node") is None:
            pytest.skip("node, and its packages zeromq and @msgpack/msgpack, are not there")
        return ["node", str(EXAMPLES / "subscriber.js")], {**os.environ, "NODE_PATH": str(NODE)}
    if shutil.which("cc") is None or not Path("/usr/include/zmq.h").exists():
        pytest.skip("a C compiler and libzmq3-dev are not there")
    compiled = directory / "subscriber"
    flags = ["-Wall", "-Wextra", "-Werror", "-g", "-fsanitize=address,undefined"]
    source = str(EXAMPLES / "subscriber.c")
    subprocess.run(["cc", *flags, "-o", str(compiled), source, "-lzmq"], check=True)
    return [str(compiled)], {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}


def counted(example: Program, received: int) -> dict[str, Any]:
    """Read lines until so many packets were received; return the last one."""
    while True:
        found: dict[str, Any] = json.loads(example.expect("received"))
        if found["received"] >= received:
            return found


@pytest.mark.parametrize("language", ["c", "js"])
def test_subscribers_in_other_languages(language: str, tmp_path: Path) -> None:
    command, environment = subscriber(language, tmp_path)
    with tuncer.create("lab0", TUN) as dev:
        dev.up("10.9.0.1/24", link_local=False)
        with program(*command, dev.endpoint, env=environment) as example:
            eventually(lambda: dev.statistics()["subscribers"])
            for _ in range(100):
                send_one("10.9.0.2", b"before")
            first = counted(example, 100)
            os.kill(dev.pid, signal.SIGKILL)
            eventually(lambda: dev.statistics()["subscribers"])
            for _ in range(100):
                send_one("10.9.0.2", b"behind!")
            last = counted(example, 200)
            example.process.kill()
    assert (first["device"], first["received"], first["lost"]) == ("lab0", 100, 0)
    assert first["bytes"] == 100 * (28 + len("before"))
    assert (last["received"], last["lost"], last["next"]) == (200, 0, first["first"] + 200)
    assert last["bytes"] == first["bytes"] + 100 * (28 + len("behind!"))


@pytest.mark.parametrize("language", ["c", "js"])
def test_subscribers_bear_malformed_messages_and_know_queues(language: str, tmp_path: Path) -> None:
    command, environment = subscriber(language, tmp_path)
    rng = random.Random(3)
    context = zmq.Context()
    publisher = context.socket(zmq.XPUB)
    publisher.bind(f"ipc://{tmp_path}/endpoint")
    whole = wire_format.encode(b"lab0", 7, [b"abc", b"defg"], 1 << 60, 1)
    with program(*command, f"ipc://{tmp_path}/endpoint", env=environment) as example:
        assert publisher.poll(PATIENCE * 1000)
        for _ in range(300):
            frames = [bytearray(frame) for frame in whole]
            frame = frames[rng.randrange(3)]
            for _ in range(rng.randint(1, 4)):
                frame[rng.randrange(len(frame))] = rng.randrange(256)
            del frame[rng.randrange(len(frame) + 1) :]
            publisher.send_multipart([b"odd", *frames[1:]][: rng.choice([1, 2, 3, 3, 3])])
        publisher.send_multipart([b"odd", *whole, b"more"])
        publisher.send_multipart(wire_format.encode(b"last", 7, [b"abc", b"defg"], 1 << 60, 1))
        found = json.loads(example.expect('"last"'))
        assert (found["first"], found["received"], found["bytes"]) == (7, 2, 7)
        publisher.send_multipart(wire_format.encode(b"last", 0, [b"abc"], 1 << 60, 1, None, 1))
        found = json.loads(example.expect('"last"'))
        assert (found["queue"], found["received"], found["lost"]) == (1, 1, 0)
        # Others' handshakes are no devices, and after the end the numbers begin anew.
        publisher.send_multipart(wire_format.encode(b"\0hello last", 99, [], 1, 1))
        for _ in range(2):
            told = (b"last", 0, [b"abc"], 1 << 60, 1, "closed", 2)
            publisher.send_multipart(wire_format.encode(*told))
            found = json.loads(example.expect('"last"'))
        assert (found["queue"], found["received"], found["lost"]) == (2, 2, 0)
        # Another device of this name, and a gap in its numbers.
        for first in (2, 9):
            told = (b"last", first, [b"abc"], 1 << 60, 0, None, 1, None, 2**53 - 1)
            publisher.send_multipart(wire_format.encode(*told))
            found = json.loads(example.expect('"last"'))
        assert (found["queue"], found["received"], found["lost"]) == (1, 3, 6)
        example.process.kill()
    context.destroy(0)
