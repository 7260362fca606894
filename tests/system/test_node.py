"""`tuncer run`: a node as an operator has it, and its service manager."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import TUNCER, Program, Run, eventually, heed_ctrl_c, kill, program
from prometheus_client.openmetrics.parser import text_string_to_metric_families

import tuncer
from supervisor import NoProcess, SupervisorRef, named
from tuncer.node.device_rows import DeviceRow, device_rows

LAB = '[device.lab0]\naddresses = ["10.9.0.1/24"]\n'
TAP = '[device.tap1]\nkind = "tap"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "node.toml"


@contextlib.contextmanager
def node(
    file: Path, text: str, directory: Path | None = None, **environment: str
) -> Iterator[Program]:
    """Run a node, until it is ready."""
    file.write_text(text)
    told = {"env": os.environ | environment, "cwd": directory, "preexec_fn": heed_ctrl_c}
    with program(TUNCER, "run", str(file), **told) as running:
        eventually(lambda: named("node configuration").is_alive())
        yield running
        if running.process.poll() is None:
            running.process.send_signal(signal.SIGTERM)
            assert running.process.wait(20) == 0
        assert device_rows() == []


def rows() -> dict[str, DeviceRow]:
    return {row.name: row for row in device_rows()}


def test_devices_are_as_configured(file: Path, run: Run) -> None:
    more = 'mtu = 1400\nroutes = ["10.20.0.0/16"]\nqueues = 2\n'
    with node(file, LAB + more + TAP + 'filter = "arp"\n') as running:
        found = rows()
        assert tuncer.attach("tap1").statistics()["filter"] == "arp"
        assert found["lab0"].addresses[0] == "10.9.0.1/24"
        assert (found["lab0"].mtu, len(found["lab0"].workers)) == (1400, 2)
        assert found["tap1"].kind == "tap"
        assert "10.20.0.0/16" in run(TUNCER, "route", "lab0")
        run("ip", "link", "delete", "lab0")
        eventually(lambda: (row := rows().get("lab0")) and row.mtu, 1400)
        assert len(rows()["lab0"].workers) == 2
        running.process.send_signal(signal.SIGTERM)
        said = running.process.communicate(timeout=20)[0]
    warnings = [line for line in said.splitlines() if "WARNING" in line]
    assert len(warnings) == 1
    assert "lab0: the device was deleted by somebody else, and is made again" in warnings[0]


def test_a_reload_touches_what_has_changed(file: Path, run: Run) -> None:
    with node(file, LAB + TAP):
        before = rows()
        index = socket.if_nametoindex("lab0")
        file.write_text(LAB + TAP + "mtu = 1300\n[device.new2]\n")
        plan = ["replace device tap1: mtu (none) -> 1300", "start device new2"]
        assert run(TUNCER, "reload", "--dry-run").splitlines() == plan
        assert rows().keys() == before.keys()
        assert run(TUNCER, "reload").splitlines() == plan
        after = rows()
        assert after["lab0"].workers == before["lab0"].workers
        assert socket.if_nametoindex("lab0") == index
        assert (after["tap1"].mtu, after.keys()) == (1300, {"lab0", "tap1", "new2"})
        assert run(TUNCER, "reload") == "nothing has changed\n"
        file.write_text(LAB)
        assert run(TUNCER, "reload").splitlines() == ["stop device new2", "stop device tap1"]
        assert rows().keys() == {"lab0"}


def test_a_wrong_file_leaves_the_old_configuration_running(file: Path) -> None:
    with node(file, LAB) as running:
        workers = rows()["lab0"].workers
        for wrong in ("[device.lab0]\nmtuu = 3\n", "no toml", '[node]\nname = "other"\n' + LAB):
            file.write_text(wrong)
            found = subprocess.run([TUNCER, "reload"], capture_output=True, text=True, check=False)
            assert found.returncode == 1
            assert found.stderr
        assert rows()["lab0"].workers == workers
        file.unlink()
        running.process.send_signal(signal.SIGHUP)
        running.expect("keeps its configuration")
        assert rows()["lab0"].workers == workers


def test_sighup_reloads(file: Path) -> None:
    with node(file, LAB) as running:
        file.write_text(LAB + TAP)
        running.process.send_signal(signal.SIGHUP)
        eventually(lambda: rows().keys(), {"lab0", "tap1"})


def test_what_did_not_start_is_tried_again_at_the_next_reload(file: Path, run: Run) -> None:
    run("ip", "tuntap", "add", "busy0", "mode", "tap")
    with node(file, LAB):
        file.write_text(LAB + "[device.busy0]\n")
        found = subprocess.run([TUNCER, "reload"], capture_output=True, text=True, check=False)
        assert found.returncode == 1
        assert "start device busy0: " in found.stderr
        run("ip", "link", "delete", "busy0")
        assert run(TUNCER, "reload") == "start device busy0\n"
        assert rows().keys() == {"lab0", "busy0"}


def test_what_an_operator_stopped_stays_stopped(file: Path, run: Run) -> None:
    with node(file, LAB + TAP):
        named("node", SupervisorRef).terminate_child("device tap1")
        file.write_text(LAB + "mtu = 1300\n" + TAP)
        run(TUNCER, "reload")
        assert rows().keys() == {"lab0"}


def test_kills_of_its_actors(file: Path, run: Run) -> None:
    """The successor of the actor that knows the configuration knows it, too."""
    with node(file, LAB):
        for _ in range(3):
            file.write_text(LAB + TAP)
            run(TUNCER, "reload")
            kill(named("node configuration").pid)
            eventually(lambda: named("node configuration").is_alive())
            assert run(TUNCER, "reload") == "nothing has changed\n"
            file.write_text(LAB)
            assert run(TUNCER, "reload") == "stop device tap1\n"


def test_actors_and_pipelines(file: Path, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from supervisor import GenServer\n"
        "from tuncer.pipeline import Feed, Pcap, Pipeline\n"
        "class Echo(GenServer):\n"
        "    def init(self, greeting, more=''):\n"
        "        self.text = greeting + more\n"
        "    def handle_call(self, request, sender):\n"
        "        return self.text\n"
        f"edge = Pipeline('edge', Feed(), [], Pcap({str(tmp_path / 'edge.pcapng')!r}))\n"
    )
    text = (
        f'[node]\npath = ["{tmp_path}"]\n'
        '[pipeline.edge]\nobject = "own:edge"\n'
        '[actor.echo]\nstart = "own:Echo"\nname = "echo"\nargs = ["hello"]\n'
        'kwargs = { more = "!" }\n'
    )
    with node(file, text):
        assert named("echo").call("?") == "hello!"
        assert named("edge").is_alive()
        file.write_text(text.replace("hello", "bye"))
        subprocess.run([TUNCER, "reload"], check=True)
        assert named("echo").call("?") == "bye!"
        # What cannot travel changes nothing.
        file.write_text(text.replace('["hello"]', "[2020-01-02]"))
        found = subprocess.run([TUNCER, "reload"], capture_output=True, text=True, check=False)
        assert found.returncode == 1
        assert "[actor.echo]: " in found.stderr
        assert named("echo").call("?") == "bye!"


def test_a_reload_that_is_cut_short_is_done_by_the_next_one(file: Path, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "import os, time\n"
        "from supervisor import GenServer\n"
        "class Slow(GenServer):\n"
        "    def init(self):\n"
        "        open('begun', 'w').close()\n"
        "        while not os.path.exists('go'):\n"
        "            time.sleep(0.01)\n"
    )
    head = f'[node]\npath = ["{tmp_path}"]\n'
    with node(file, head + LAB + TAP, directory=tmp_path):
        slow = '[actor.slow]\nstart = "own:Slow"\n'
        file.write_text(head + LAB + "mtu = 1300\n[device.new2]\n" + slow)
        with subprocess.Popen([TUNCER, "reload"], stderr=subprocess.PIPE) as reloading:
            eventually((tmp_path / "begun").exists)
            kill(named("node configuration").pid)
            (tmp_path / "go").touch()
            assert reloading.wait(20) == 1
        eventually(lambda: named("node configuration").is_alive())
        subprocess.run([TUNCER, "reload"], check=True)
        assert rows().keys() == {"lab0", "new2"}
        assert rows()["lab0"].mtu == 1300
        done = subprocess.run([TUNCER, "reload"], capture_output=True, text=True, check=True)
        assert done.stdout == "nothing has changed\n"


def test_a_wrong_configuration_starts_nothing(file: Path) -> None:
    file.write_text("[device.lab0]\nmtuu = 3\n[actor.x]\n")
    for command in ("run", "check"):
        found = subprocess.run(
            [TUNCER, command, str(file)], capture_output=True, text=True, check=False
        )
        assert found.returncode == 2
        assert f"{file}:2: [device.lab0]: there is no key 'mtuu'" in found.stderr
        assert "2 problems: nothing is started" in found.stderr
    found = subprocess.run([TUNCER, "reload"], capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert "node configuration" in found.stderr


def ask(port: int, path: str = "/metrics", **headers: str) -> tuple[int, str]:
    """Ask the node's server; return the status and the body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    with contextlib.closing(connection):
        method = headers.pop("method", "GET")
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def test_metrics(file: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "own.py").write_text(
        "from tuncer.pipeline import Feed, Pipeline\nedge = Pipeline('edge', Feed(), [])\n"
    )
    more = f'[node]\nmetrics = "127.0.0.1:0"\npath = ["{tmp_path}"]\n'
    with node(file, more + LAB + '[pipeline.edge]\nobject = "own:edge"\n'):
        server = named("node", SupervisorRef).child("metrics")
        port = server.call("port")
        status, body = ask(port)
        assert status == 200
        families = {one.name: one for one in text_string_to_metric_families(body)}
        assert families["tuncer_device_up"].samples[0].labels == {"device": "lab0"}
        actors = {one.labels["actor"] for one in families["tuncer_actor_restarts"].samples}
        assert {"node", "node/device lab0", "node/metrics", "node/configuration"} <= actors
        assert families["tuncer_pipeline_source_read_packets"].samples[0].value == 0
        assert run(TUNCER, "metrics").count("# TYPE") == body.count("# TYPE")
        assert ask(port, Host="evil.example")[0] == 403
        assert ask(port, "/other")[0] == 404
        assert ask(port, method="POST")[0] == 501
        assert ask(port, Host="localhost")[0] == 200
        kill(server.pid)

        file.write_text(file.read_text() + TAP)
        run(TUNCER, "reload")
        port = eventually(lambda: named("node", SupervisorRef).child("metrics").call("port"))
        assert 'device="tap1"' in ask(port)[1]


# -- a stand-in for systemd ------------------------------------------------------------------------


@pytest.fixture
def manager(runtime_dir: Path) -> Iterator[socket.socket]:
    path = runtime_dir.parent / f"notify-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as found:
        found.bind(str(path))
        found.settimeout(20)
        yield found
    path.unlink()


def told(manager: socket.socket) -> dict[str, str]:
    lines = manager.recv(4096).decode().splitlines()
    return dict(line.partition("=")[::2] for line in lines)


def heard(manager: socket.socket, what: str) -> dict[str, str]:
    """Return the first message that tells something."""
    while what not in (found := told(manager)):
        pass
    return found


def test_a_service_manager_is_told(file: Path, manager: socket.socket) -> None:
    environment = {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "400000"}
    with node(file, LAB, **environment) as running:
        assert told(manager) == {"READY": "1", "STATUS": "node node: 1 children run"}
        assert told(manager) == {"WATCHDOG": "1"}
        running.process.send_signal(signal.SIGHUP)
        before = time.monotonic_ns() // 1000
        said = heard(manager, "RELOADING")
        assert before - 10**6 < int(said["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
        heard(manager, "READY")
        running.process.send_signal(signal.SIGTERM)
        heard(manager, "STOPPING")
        assert running.process.wait(20) == 0


def test_a_crash_of_the_actor_that_tells_is_no_end_of_the_node(
    file: Path, manager: socket.socket
) -> None:
    with node(file, LAB, NOTIFY_SOCKET=manager.getsockname()):
        assert "READY" in told(manager)
        named("node configuration").cast("what it does not know")  # which ends it, with an error
        assert "READY" in told(manager)  # by its successor; nothing came between


def test_a_node_that_hangs_tells_no_watchdog(file: Path, manager: socket.socket) -> None:
    environment = {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "400000"}
    with node(file, LAB, **environment):
        root = named("node").pid
        while "WATCHDOG" not in told(manager):
            pass
        os.kill(root, signal.SIGSTOP)
        try:
            manager.settimeout(1.0)
            with pytest.raises(TimeoutError):
                for _ in range(3):  # one may be on its way
                    told(manager)
        finally:
            os.kill(root, signal.SIGCONT)


def test_the_root_gone_all_is_gone(file: Path) -> None:
    with node(file, LAB) as running:
        kill(running.process.pid)
        running.process.wait()
        eventually(device_rows, [])
    with pytest.raises(NoProcess):
        named("node").call("anybody?")
