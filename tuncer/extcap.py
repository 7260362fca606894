"""``tuncer-extcap``: the user's devices as interfaces of Wireshark, to be captured live.

Wireshark runs it at each start, and waits for it: so it lists devices with the standard library
alone. Source: extcap(4) of Wireshark, and its developer's guide, "Extcap".
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import shutil
import socket
import stat
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_PREFIX = "tuncer:"
_SIOCGIFHWADDR, _ARPHRD_ETHER = 0x8927, 1  # netdevice(7), net/if_arp.h
_ETHERNET, _RAW = (1, "EN10MB", "Ethernet"), (101, "RAW", "Raw IP")  # LINKTYPE_*
_PERSONAL = "~/.local/lib/wireshark/extcap"
_NAME = "tuncer-extcap"


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what Wireshark asks for; return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return _answer(options)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"tuncer-extcap: {where}{error.strerror or error}", file=sys.stderr)
        return 1


def _answer(options: argparse.Namespace) -> int:
    if options.install:
        return _install()
    if options.extcap_interfaces:
        return _list()
    if options.extcap_interface is None:
        print("tuncer-extcap: see --help; --install has Wireshark find it", file=sys.stderr)
        return 2
    name = options.extcap_interface.removeprefix(_PREFIX)
    if options.capture:
        return _capture(name, options)
    if options.extcap_dlts:
        number, link, shown = _ETHERNET if _is_tap(name) else _RAW
        print(f"dlt {{number={number}}}{{name={link}}}{{display={shown}}}")
    elif options.extcap_capture_filter is not None:
        _check_filter(name, options.extcap_capture_filter)
    return 0  # --extcap-config: there is nothing to choose


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tuncer-extcap", description=__doc__)
    add = parser.add_argument
    add("--install", action="store_true", help="have Wireshark find it")
    add("--extcap-interfaces", action="store_true", help="list the devices")
    add("--extcap-version", metavar="VERSION", help="Wireshark's")
    add("--extcap-interface", metavar="NAME", help="a device")
    add("--extcap-dlts", action="store_true", help="tell its link type")
    add("--extcap-config", action="store_true", help="tell what can be chosen: nothing")
    add("--extcap-capture-filter", metavar="FILTER", help="which packets")
    add("--capture", action="store_true", help="capture, until a signal comes")
    add("--fifo", metavar="FILE", help="where to")
    return parser


# -- what there is ---------------------------------------------------------------------------------


def _list() -> int:
    print("extcap {version=1}{display=tuncer: TUN/TAP devices}")
    for name in devices():
        print(f"interface {{value={_PREFIX}{name}}}{{display=tuncer device {name}}}")
    return 0


def devices() -> list[str]:
    """Return the names of this user's devices, as ``tuncer list`` has them."""
    for directory in _runtime_directories():
        with contextlib.suppress(OSError):
            found = os.lstat(directory)
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
                return sorted(_names(Path(directory, "devices")))
    return []


def _runtime_directories() -> list[str]:
    """Return where the runtime directory may be: the first that there is.

    ``supervisor.protocol.runtime_dir`` is what makes it; to import that takes too long.
    """
    explicit, session = os.environ.get("TUNCER_RUNTIME_DIR"), os.environ.get("XDG_RUNTIME_DIR")
    if explicit:
        return [os.path.abspath(explicit)]
    found = [os.path.join(session, "tuncer")] if session else []
    shared = f"/tmp/tuncer-{os.geteuid()}"  # noqa: S108 - the owner is checked
    return [*found, "/run/tuncer", shared, *(f"{shared}.{number}" for number in range(1, 10))]


def _names(directory: Path) -> list[str]:
    here = f"{os.stat('/proc/self/ns/net').st_ino:x}"
    names = []
    for path in directory.iterdir():
        namespace, _, index = path.name.partition("-")
        if path.suffix or not index.isdecimal() or not _is_served(path):
            continue
        if namespace != here:
            names.append(path.name)
            continue
        with contextlib.suppress(OSError):  # it has gone
            names.append(socket.if_indextoname(int(index)))
    return names


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        probe.settimeout(0)
        try:
            probe.connect(str(path))
        except BlockingIOError:  # its queue is full
            return True
        except OSError:
            return False
    return True


def _is_tap(name: str) -> bool:
    """Tell whether a device is a TAP; False if that cannot be told."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            found = fcntl.ioctl(any_socket, _SIOCGIFHWADDR, struct.pack("16s24x", name.encode()))
        except (OSError, struct.error):
            return False
    kind: int = struct.unpack_from("=H", found, 16)[0]
    return kind == _ARPHRD_ETHER


# -- capturing -------------------------------------------------------------------------------------


def _capture(name: str, options: argparse.Namespace) -> int:
    """Capture into the named pipe, as ``tuncer dump``, which takes the place of this program."""
    if options.fifo is None:
        print("tuncer-extcap: --capture needs --fifo", file=sys.stderr)
        return 2
    wanted = [options.extcap_capture_filter] if options.extcap_capture_filter else []
    # -P: nothing is imported from the directory in which Wireshark was started.
    # What follows an option's letter, or stands behind "--", is no option, however it begins.
    command = ["-P", "-m", "tuncer", "dump", f"-w{options.fifo}", "--", name, *wanted]
    return os.execv(sys.executable, [sys.executable, *command])  # noqa: S606 - no shell is wanted


def _check_filter(name: str, expression: str) -> None:
    """Print what is wrong with a filter, which Wireshark shows; nothing, if it is right."""
    from tuncer.tunctl import Flag  # noqa: PLC0415 - seldom asked for
    from tuncer.tunctl.pcap import compile_filter  # noqa: PLC0415

    try:
        compile_filter(expression, Flag.TAP if _is_tap(name) else Flag.TUN)
    except ValueError as error:
        print(error)


# -- Wireshark -------------------------------------------------------------------------------------


def place() -> Path | None:
    """Return the directory where Wireshark looks for such programs; None: there is no Wireshark.

    It is the user's own, if this version of Wireshark has one.
    """
    command = shutil.which("tshark") or shutil.which("wireshark")
    if command is None:
        return None
    said = subprocess.run(
        [command, "-G", "folders"], capture_output=True, text=True, check=False, timeout=30
    ).stdout
    told = dict(line.partition(":")[::2] for line in said.splitlines())
    for name in ("Personal Extcap path", "Extcap path", "Global Extcap path"):
        if name in told:
            return Path(told[name].strip())
    return Path(_PERSONAL).expanduser()


def installed(directory: Path) -> Path | None:
    """Return what Wireshark would run there; None: nothing."""
    found = directory / _NAME
    return found.resolve() if os.access(found, os.X_OK) else None


def own() -> Path | None:
    """Return where this program is installed, beside the interpreter or on the path."""
    beside = Path(sys.executable).with_name(_NAME)
    if beside.exists():
        return beside
    found = shutil.which(_NAME)
    return None if found is None else Path(found)


def _install() -> int:
    program = own()
    if program is None:
        print("tuncer-extcap: it is not installed itself: use pip", file=sys.stderr)
        return 1
    directory = place()
    if directory is None:
        directory = Path(_PERSONAL).expanduser()
        print("tuncer-extcap: there is no Wireshark here yet", file=sys.stderr)
    directory.mkdir(parents=True, exist_ok=True)
    link = directory / _NAME
    link.unlink(missing_ok=True)
    link.symlink_to(program)
    print(f"{link}: Wireshark lists the devices from its next start on")
    return 0


if __name__ == "__main__":
    sys.exit(main())
