"""The examples are run as their comments say, and show what they promise."""

import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import EXAMPLES, PATIENCE, ROOT, TUNCER, Run, eventually, heed_ctrl_c, program
from traffic import ping, send_one

import tuncer
from tuncer import tunctl

REAL_ROOT = Path("/proc/self/uid_map").read_text().split()[:2] == ["0", "0"]


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


def test_long_running(run: Run) -> None:
    out = run(sys.executable, str(EXAMPLES / "long_running.py"))
    counts = re.findall(r"process (\d+) counts (\d+)", out)
    assert [int(n) for _, n in counts] == list(range(1, 31))
    assert len({pid for pid, _ in counts}) == 3
    assert out.count("it crashed: killed") == 2


def promised(printed: str) -> None:
    """Every promise of the demo has come true."""
    assert printed.count("ok      ") == 12, printed
    assert "FAILED" not in printed
    assert len(re.findall(r"│ +\d+\.\d ms +│", printed)) >= 2


@pytest.mark.slow
def test_demo_prints_plain_lines_without_a_terminal() -> None:
    command = [sys.executable, "-W", "error", TUNCER, "demo"]
    before = subprocess.run(["ip", "-j", "link"], capture_output=True, check=True).stdout
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    promised(done.stdout)
    assert "\x1b" not in done.stdout
    assert subprocess.run(["ip", "-j", "link"], capture_output=True, check=True).stdout == before


@pytest.mark.slow
def test_demo_on_a_terminal() -> None:
    main, side = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen([TUNCER, "demo"], stdout=side, stderr=side, env=environment) as demo:
        os.close(side)
        printed = b""
        while True:
            try:
                printed += os.read(main, 65536)
            except OSError:  # the terminal's other side was closed
                break
        assert demo.wait(PATIENCE) == 0
    os.close(main)
    promised(printed.decode().replace("\r", ""))
    assert "restarting it" in printed.decode()


@pytest.mark.slow
def test_demo_in_namespaces_of_the_users_own_without_a_session() -> None:
    environment = {
        k: v for k, v in os.environ.items() if k not in {"XDG_RUNTIME_DIR", "TUNCER_RUNTIME_DIR"}
    }
    command = ["unshare", "--user", "--map-root-user", "--net", TUNCER, "demo"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    promised(done.stdout)


def reachable(*paths: Path) -> list[str]:
    """Return commands that let any user reach these paths, in a mount namespace of its own.

    A directory above one that others may not enter is covered by an empty one, and the path
    mounted there again.
    """
    commands = ["mount -t tmpfs none /mnt"]
    covers: set[Path] = set()
    for number, path in enumerate(paths):
        commands += [f"mkdir /mnt/{number}", f"mount --bind {path} /mnt/{number}"]
        closed = [p for p in reversed(path.parents) if not p.stat().st_mode & 0o001]
        covers |= set(closed[:1])
    commands += [f"mount -t tmpfs -o mode=755 none {cover}" for cover in sorted(covers)]
    for number, path in enumerate(paths):
        if any(path.is_relative_to(cover) for cover in covers):
            commands += [f"mkdir -p {path}", f"mount --bind /mnt/{number} {path}"]
    return commands


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["666", "600"] if REAL_ROOT else ["as it is"])
def test_demo_as_an_unprivileged_user(mode: str) -> None:
    if not REAL_ROOT:  # this very user is one
        promised(
            subprocess.run([TUNCER, "demo"], capture_output=True, text=True, check=True).stdout
        )
        return
    script = [
        *reachable(ROOT, Path(sys.base_prefix).resolve()),
        "mount -t tmpfs -o mode=755 none /dev/net",
        f"mknod /dev/net/tun c 10 200 && chmod {mode} /dev/net/tun",
        f"set -- env -i PATH=$PATH HOME=/ {TUNCER} demo",
        'exec setpriv --reuid 65534 --regid 65534 --clear-groups "$@"',
    ]
    command = ["unshare", "--mount", "sh", "-ec", "\n".join(script)]
    done = subprocess.run(
        command, umask=0o022, capture_output=True, text=True, timeout=60, check=False
    )
    if mode == "666":
        assert done.returncode == 0, done.stdout + done.stderr
        assert "in a user namespace and a network namespace of its own" in done.stdout
        promised(done.stdout)
    else:
        assert done.returncode == 1, done.stdout
        assert done.stderr.count("\n") == 1
        assert "may not be opened by this user" in done.stderr
        assert "chmod 0666 /dev/net/tun" in done.stderr


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
    for line in blocks_of_readme()[1].splitlines():
        if line.startswith("dev.getfd()"):
            os.close(eval(line, names))  # noqa: S307 - README's own
        elif not line.startswith(("dev.recv", "await")):  # nothing is sent here
            exec(line, names)  # noqa: S102 - README's own
    assert {device.name for device in tuncer.devices()} == {"lab0", "wide0", "far0", "theirs0"}
    os.close(names["fd"])  # type: ignore[call-overload]
    for device in tuncer.devices():
        device.destroy()
