"""What ``tuncer doctor`` finds: each thing that can be missing is taken away, and found missing."""

import ctypes.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import program
from users import run_as_user, several_users

from tuncer import doctor

_DOCTOR = "import sys; from tuncer.cli import main; sys.exit(main(['doctor', '--json']))"


_DOCTOR_AS_USER = "import sys\nfrom tuncer.cli import main\nsys.exit(main(['doctor', '--json']))"


_NO_PIDFD = """
import ctypes, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
steps = [(0x20, 0, 0, 0), (0x15, 0, 1, 434), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
filter = struct.pack("@HP", len(steps), ctypes.addressof(code))
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, filter, 0, 0) == 0
"""


def examined(*wrapper: str, before: str = "") -> tuple[int, dict[str, Any]]:
    """Run `tuncer doctor` behind a wrapper; return its status, and its findings by topic."""
    done = subprocess.run(
        [*wrapper, sys.executable, "-c", before + _DOCTOR],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout, done.stderr
    return done.returncode, {finding["topic"]: finding for finding in json.loads(done.stdout)}


def without(*capabilities: str) -> list[str]:
    gone = ",".join(f"-{name}" for name in capabilities)
    return ["setpriv", f"--bounding-set={gone}", f"--inh-caps={gone}"]


def mounted(script: str) -> list[str]:
    return ["unshare", "--mount", "sh", "-c", f'{script} && exec "$0" "$@"']


def test_all_is_well_here() -> None:
    status, found = examined()
    levels = {topic: finding["level"] for topic, finding in found.items()}
    assert status == 0
    assert {levels[t] for t in ("system", "tun device", "net admin", "ipv6", "libpcap")} == {"ok"}
    assert "fail" not in levels.values()
    assert "unknown" not in levels.values()
    assert set(found) == {check.__name__[1:].replace("_", " ") for check in doctor._CHECKS}


def test_where_sigchld_is_ignored() -> None:
    status, found = examined("env", "--ignore-signal=CHLD")
    assert status == 0
    assert "unknown" not in {finding["level"] for finding in found.values()}


@pytest.mark.parametrize(
    ("wrapper", "topic", "level", "mend"),
    [
        (mounted("mount -t tmpfs none /dev/net"), "tun device", "fail", "modprobe tun"),
        (
            mounted("mount -t tmpfs -o dev none /dev/net && mknod /dev/net/tun c 10 251"),
            "tun device",
            "fail",
            "modprobe tun",
        ),
        (without("net_admin"), "net admin", "fail", "AmbientCapabilities=CAP_NET_ADMIN"),
        (["unshare", "--user", "--map-root-user"], "net admin", "fail", "unshare --user"),
        (without("sys_admin"), "other namespaces", "warn", "nsenter"),
        (
            [
                *("unshare", "--user", "--map-root-user", "--net", "sh", "-c"),
                'echo 0 > /proc/sys/user/max_user_namespaces && exec "$0" "$@"',
            ],
            "user namespaces",
            "warn",
            "sysctl user.max_user_namespaces",
        ),
        (
            ["sh", "-c", 'sysctl -q -w net.ipv6.conf.default.disable_ipv6=1 && exec "$0" "$@"'],
            "ipv6",
            "warn",
            "sysctl net.ipv6.conf.default.disable_ipv6=0",
        ),
        (mounted("mount -t tmpfs none /proc/sys/net"), "ipv6", "warn", "ipv6.disable"),
        (
            ["env", "TUNCER_RUNTIME_DIR=/proc/nowhere"],
            "runtime directory",
            "fail",
            "TUNCER_RUNTIME_DIR",
        ),
        (["sh", "-c", 'ulimit -n 100 && exec "$0" "$@"'], "descriptors", "warn", "ulimit -n"),
        (without("bpf", "sys_admin", "perfmon"), "ebpf", "warn", "CAP_BPF"),
        (
            mounted("mount -t tmpfs none /run && mkdir /run/NetworkManager"),
            "network managers",
            "warn",
            "nmcli device set",
        ),
        (
            mounted("mount -t tmpfs none /run && mkdir -p /run/systemd/netif/state"),
            "network managers",
            "warn",
            "Unmanaged=yes",
        ),
        (
            ["sh", "-c", 'sysctl -q -w net.ipv6.conf.all.disable_ipv6=1 && exec "$0" "$@"'],
            "ipv6",
            "warn",
            "sysctl net.ipv6.conf.all.disable_ipv6=0",
        ),
        (["setarch", "i686"], "system", "warn", "x86-64"),
    ],
)
def test_what_is_taken_away_is_found_missing(
    wrapper: list[str], topic: str, level: str, mend: str
) -> None:
    status, found = examined(*wrapper)
    assert (found[topic]["level"], mend in found[topic]["mend"]) == (level, True), found[topic]
    assert status == (1 if level == "fail" else 0)


def test_without_libpcap() -> None:
    name = ctypes.util.find_library("pcap")
    assert name is not None
    (path,) = {os.path.realpath(d / name) for d in map(Path, _LIBRARIES) if (d / name).exists()}
    _, found = examined(*mounted(f"mount --bind /dev/null {path}"))
    assert found["libpcap"]["level"] == "warn"
    assert "apt-get install libpcap" in found["libpcap"]["mend"]


_LIBRARIES = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"]


def test_where_a_sandbox_forbids_pidfds() -> None:
    status, found = examined(before=_NO_PIDFD)
    assert status == 1
    assert found["system"]["level"] == "fail"
    assert "pidfd_open" in found["system"]["mend"]


def test_what_cannot_be_told_is_unknown() -> None:
    _, found = examined(*mounted("mount -t tmpfs none /proc"))
    assert found["net admin"]["level"] == "unknown"
    assert "FileNotFoundError" in found["net admin"]["text"]


@several_users
def test_a_user_who_may_not_open_the_device(tmp_path: Path) -> None:
    done = run_as_user(_DOCTOR_AS_USER, tmp_path, node_mode="600")
    found = {finding["topic"]: finding for finding in json.loads(done.stdout)}
    assert done.returncode == 1
    assert found["tun device"]["level"] == "fail"
    assert "chmod 0666 /dev/net/tun" in found["tun device"]["mend"]


def test_in_a_network_of_a_user_namespace_below_all_is_well(run: Any) -> None:
    command = ("unshare", "--user", "--map-root-user", "--net", "sh", "-c", "echo ready; cat")
    with program(*command) as holder:
        holder.expect("ready")
        status, found = examined("nsenter", "--net", "--target", str(holder.process.pid))
        assert (status, found["net admin"]["level"]) == (0, "ok")


def test_for_people_it_is_a_table() -> None:
    code = "import sys; from tuncer.cli import main; sys.exit(main(['doctor']))"
    done = subprocess.run(
        [*without("net_admin"), sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert any(line.startswith("fail") and "net admin" in line for line in lines)
    assert any("->" in line for line in lines)
