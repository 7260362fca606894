"""What tuncer needs of a machine, and whether it is there: each finding says what to type."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from supervisor.lowlevel import runtime_dir
from tuncer import extcap, tunctl
from tuncer.tunctl import Flag
from tuncer.tunctl.errors import CLONE_DEVICE
from tuncer.tunctl.flags import named
from tuncer.tunctl.linux import bpf, netlink, netns

Level: TypeAlias = Literal["ok", "warn", "fail", "unknown"]

_NET_ADMIN, _SYS_ADMIN = 12, 21  # capabilities(7), linux/capability.h
_FILES = 256  # descriptors: a program with one device and some subscribers
_WANTED = Flag.TUN | Flag.TAP | Flag.NO_PI | Flag.VNET_HDR | Flag.MULTI_QUEUE | Flag.NAPI
_MANAGERS = {
    "systemd-networkd": Path("/run/systemd/netif/state"),
    "NetworkManager": Path("/run/NetworkManager"),
}
_PASS = bytes.fromhex("0600000001000000")  # classic BPF: ret #1


class Finding(NamedTuple):
    """One thing that was looked at."""

    level: Level
    """"warn": something will not work; "fail": no device will; "unknown": it cannot be told."""
    topic: str
    text: str
    mend: str = ""
    """What to type, or to do; empty if nothing."""


def examine() -> list[Finding]:
    """Look at everything. It creates no device, and leaves nothing behind."""
    found = []
    for check in _CHECKS:
        try:
            found.append(check())
        except Exception as error:  # noqa: BLE001 - whatever it was, the other checks go on
            topic = check.__name__.strip("_").replace("_", " ")
            found.append(Finding("unknown", topic, f"cannot be told: {error!r}"))
    return found


# -- the machine -----------------------------------------------------------------------------------


def _system() -> Finding:
    found = f"Python {platform.python_version()}, {platform.system()} {platform.release()}"
    found += f", {platform.machine()}"
    if not hasattr(os, "pidfd_open"):
        return Finding("fail", "system", found, "Linux 5.3 or newer is needed, for pidfd_open(2)")
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        mend = "Linux 5.3 or newer is needed, and a sandbox must allow pidfd_open(2)"
        return Finding("fail", "system", f"{found}: no pidfd: {error.strerror}", mend)
    if platform.machine() not in {"x86_64", "AMD64"}:
        mend = "use transport='zmq', or a machine with x86-64"
        text = f"{found}: the ring relies on x86-64's order of stores"
        return Finding("warn", "system", text, mend)
    return Finding("ok", "system", found)


def _tun_device() -> Finding:
    topic = "tun device"
    try:
        known = tunctl.features()
    except OSError as error:
        text = f"{CLONE_DEVICE}: {os.strerror(error.errno or 0)}"
        return Finding("fail", topic, text, _how(error))
    missing = _WANTED & ~known
    if missing:
        text = f"the kernel's driver does not know {named(missing).replace('|', ' ')}"
        return Finding("warn", topic, text, "a newer kernel is needed for these")
    return Finding(
        "ok",
        topic,
        f"{CLONE_DEVICE} can be opened; the driver knows {named(known).replace('|', ' ')}",
    )


def _how(error: OSError) -> str:
    """Return what an error of tunctl's says of mending it."""
    return str(error.strerror).partition(": ")[2] or str(error)


# -- privileges ------------------------------------------------------------------------------------


def _has(capability: int) -> bool:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    effective = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) >> capability & 1)


def _net_admin() -> Finding:
    topic = "net admin"
    by_namespace = "'unshare --user --map-root-user --net COMMAND' makes a network of your own"
    if not _has(_NET_ADMIN):
        text = "CAP_NET_ADMIN is missing: no device can be created, no address be set"
        mend = (
            "run as root; or as a service with AmbientCapabilities=CAP_NET_ADMIN; or by 'setpriv"
            f" --ambient-caps +net_admin --inh-caps +net_admin COMMAND'; or {by_namespace}; or"
            " have root make a device for you: 'ip tuntap add NAME mode tun user YOU'"
        )
        return Finding("fail", topic, text, mend)
    if not netlink.administers():
        text = "CAP_NET_ADMIN is there, but not over this network: it belongs to others"
        return Finding("fail", topic, text, f"make one that is yours: {by_namespace}")
    return Finding("ok", topic, "CAP_NET_ADMIN is there: devices can be created here")


def _other_namespaces() -> Finding:
    topic = "other namespaces"
    if _has(_SYS_ADMIN):
        return Finding("ok", topic, "CAP_SYS_ADMIN is there: 'namespace=' and 'move' work")
    text = "CAP_SYS_ADMIN is missing: 'namespace=' and 'move' do not work"
    return Finding("warn", topic, text, "run as root, or from within: 'nsenter --net --target PID'")


def _user_namespaces() -> Finding:
    topic = "user namespaces"
    pid = os.fork()
    if pid == 0:  # pragma: no cover - in the child
        status = 1
        with contextlib.suppress(BaseException):
            netns.enter_new_user()
            status = 0
        os._exit(status)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0:
        return Finding("ok", topic, "a user may have a network of its own")
    mend = (
        "'sudo sysctl user.max_user_namespaces=10000'; on Ubuntu also"
        " 'sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0'; in a container allow it"
    )
    text = "user namespaces are not allowed: without CAP_NET_ADMIN nothing can be tried here"
    return Finding("warn", topic, text, mend)


# -- what is beside --------------------------------------------------------------------------------


def _ipv6() -> Finding:
    root = Path("/proc/sys/net/ipv6/conf")
    if not root.exists():
        return Finding("warn", "ipv6", "the kernel has no IPv6", "boot without ipv6.disable=1")
    for which in ("all", "default"):
        if (root / which / "disable_ipv6").read_text(encoding="ascii").strip() == "1":
            text = "IPv6 is disabled: no IPv6 address can be set on a new device"
            mend = f"'sudo sysctl net.ipv6.conf.{which}.disable_ipv6=0'"
            return Finding("warn", "ipv6", text, mend)
    return Finding("ok", "ipv6", "IPv6 is there")


def _runtime_directory() -> Finding:
    topic = "runtime directory"
    try:
        path = runtime_dir.directory()
        probe = path / f"doctor.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except (OSError, RuntimeError) as error:
        mend = "set TUNCER_RUNTIME_DIR to a directory that you may write, with a short path"
        return Finding("fail", topic, str(error), mend)
    return Finding("ok", topic, str(path))


def _descriptors() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < _FILES:
        text = f"a process may open {soft} files only: a subscriber costs a worker two or three"
        mend = "'ulimit -n 1024'" + (", which the hard limit must allow" if hard < _FILES else "")
        return Finding("warn", "descriptors", text, mend)
    return Finding("ok", "descriptors", f"a process may open {soft} files")


def _libpcap() -> Finding:
    try:
        tunctl.compile_filter("udp port 53", Flag.TUN)
    except OSError as error:
        text = "no filter can be set: libpcap is missing"
        return Finding("warn", "libpcap", text, _how(error).rpartition(": ")[2])
    return Finding("ok", "libpcap", "filters can be compiled")


def _ebpf() -> Finding:
    try:
        os.close(bpf.load(bpf.convert(_PASS)))
    except OSError as error:
        why = os.strerror(error.errno or errno.EINVAL)
        text = f"filters of a TUN run in its worker, at some 1 us a packet: {why}"
        return Finding("warn", "ebpf", text, "run as root or with CAP_BPF: then the kernel does it")
    return Finding("ok", "ebpf", "the kernel runs the filters of a TUN")


def _network_managers() -> Finding:
    topic = "network managers"
    there = [name for name, path in _MANAGERS.items() if path.exists()]
    if there:
        text = f"{' and '.join(there)} may take addresses away from devices that it does not know"
        mend = (
            "networkd: a file /etc/systemd/network/00-tuncer.network with '[Match]', 'Kind=tun',"
            " '[Link]', 'Unmanaged=yes'; NetworkManager: 'nmcli device set NAME managed no'"
        )
        return Finding("warn", topic, text, mend)
    return Finding("ok", topic, "nobody else sets up devices here")


def _wireshark() -> Finding:
    topic, mend = "wireshark", "type 'tuncer-extcap --install', and start Wireshark again"
    directory = extcap.place()
    if directory is None:
        return Finding("ok", topic, "it is not installed; 'tuncer dump' needs none")
    found = extcap.installed(directory)
    if found is None:
        return Finding("warn", topic, f"it does not list devices: nothing is in {directory}", mend)
    own = extcap.own()
    if own is not None and found != own.resolve():
        text = f"it runs another one: {directory} has {found}, here is {own}"
        return Finding("warn", topic, text, mend)
    return Finding("ok", topic, f"it lists devices, by {found}")


_CHECKS: tuple[Callable[[], Finding], ...] = (
    _system,
    _tun_device,
    _net_admin,
    _user_namespaces,
    _other_namespaces,
    _ipv6,
    _runtime_directory,
    _descriptors,
    _libpcap,
    _ebpf,
    _network_managers,
    _wireshark,
)
