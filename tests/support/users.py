"""Running a Python program as a user without privileges, or with those that are given to it.

In a mount namespace of its own everybody may open /dev/net/tun, and reach the interpreter, its
packages and this tree, which may lie where no other user may go. /tmp is its own, and empty.
"""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from processes import ROOT

USER = 54321
_SITE = Path(pytest.__file__).parents[1]


def only_one_user() -> bool:
    """Tell whether there is only one user, as in a user namespace of one's own."""
    return Path("/proc/self/uid_map").read_text().split()[2] == "1"


several_users = pytest.mark.skipif(
    only_one_user(), reason="there is only one user in this user namespace"
)


def ordinary_buffer(sock: socket.socket) -> None:
    """Give a socket what an ordinary user may have where net.core.wmem_max is 212,992."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 212_992)


def run_as_user(
    code: str, directory: Path, *privileges: str, prepare: str = "", node_mode: str = "666"
) -> subprocess.CompletedProcess[str]:
    """Run a program; return how it ended.

    Args:
        code: the program.
        directory: a new one, for it.
        *privileges: options of setpriv(1), such as ``--ambient-caps=+net_admin``.
        prepare: a shell command before the privileges go; ``$python`` is the interpreter.
        node_mode: the mode of /dev/net/tun.
    """
    (directory / "program.py").write_text(code)
    (directory / "program.py").chmod(0o644)
    # Where the interpreter really lies, and nothing else of the directories above, can be reached:
    # one with capabilities of its own ignores LD_LIBRARY_PATH.
    base = Path(sys.base_prefix)
    hidden = "/" + base.parts[1]
    reach = (
        "true"
        if hidden == "/usr"
        else (
            f"mount -t tmpfs -o mode=755 none {hidden} && mkdir -p {base}"
            f" && mount --bind /mnt/python {base}"
        )
    )
    steps = [
        "mount -t tmpfs -o mode=755 none /mnt",
        "mkdir /mnt/python /mnt/site /mnt/tree /mnt/program",
        f"mount --bind {base} /mnt/python",
        f"mount --bind {_SITE} /mnt/site",
        f"mount --bind {ROOT} /mnt/tree",
        f"mount --bind {directory} /mnt/program",
        f"mknod /mnt/tun c 10 200 && chmod {node_mode} /mnt/tun",
        "mount --bind /mnt/tun /dev/net/tun",
        "chmod 755 /mnt/program",
        "mount -t tmpfs -o mode=1777 none /tmp",  # the user's runtime directory goes with it
        reach,
        f"python={base}/bin/python{sys.version_info[0]}.{sys.version_info[1]}",
        prepare or "true",
        f"LD_LIBRARY_PATH={base}/lib; PYTHONPATH=/mnt/tree:/mnt/site; export PYTHONPATH",
        "export LD_LIBRARY_PATH; unset TUNCER_RUNTIME_DIR XDG_RUNTIME_DIR",
        f"set -- --reuid={USER} --regid={USER} --clear-groups {' '.join(privileges)}",
        'exec setpriv "$@" $python /mnt/program/program.py',
    ]
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", " && ".join(steps)],
        umask=0o022,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
