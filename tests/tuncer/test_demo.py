"""The command ``tuncer demo``."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from processes import PATIENCE, ROOT, TUNCER

REAL_ROOT = Path("/proc/self/uid_map").read_text().split()[:2] == ["0", "0"]


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
