"""tunctl against the real kernel: what it sets, `ip` shows."""

import errno
import ipaddress
import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from processes import Run

from tuncer import tunctl
from tuncer.tunctl import Flag
from tuncer.tunctl.address import interface
from tuncer.tunctl.errors import check_name


@pytest.fixture(name="fd")
def tun() -> Iterator[int]:
    fd = tunctl.create("t0", Flag.TUN | Flag.NO_PI)
    yield fd
    os.close(fd)


def shown(run: Run, name: str = "t0") -> Any:
    return json.loads(run("ip", "-j", "-d", "addr", "show", "dev", name))[0]


def test_create_makes_a_device_that_goes_with_its_descriptor(run: Run) -> None:
    fd = tunctl.create("lab0", Flag.TUN | Flag.NO_PI)
    assert tunctl.devname(fd) == "lab0"
    assert tunctl.flags(fd) == Flag.TUN | Flag.NO_PI
    assert not os.get_inheritable(fd)
    assert not os.get_blocking(fd)
    assert shown(run, "lab0")["linkinfo"]["info_data"]["type"] == "tun"
    os.close(fd)
    assert "lab0" not in run("ip", "-br", "link")


def test_the_kernel_chooses_a_name(run: Run) -> None:
    default, numbered = tunctl.create(), tunctl.create("lab%d", Flag.TUN | Flag.NO_PI)
    assert (tunctl.devname(default), tunctl.devname(numbered)) == ("tap0", "lab0")
    assert tunctl.flags(default) == Flag.TAP | Flag.NO_PI
    os.close(default)
    os.close(numbered)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("a/b", errno.EINVAL),
        ("a b", errno.EINVAL),
        ("tun\N{SNOWMAN}", errno.EINVAL),
        ("\N{GRINNING FACE}" * 4, errno.ENAMETOOLONG),
        ("x" * 16, errno.ENAMETOOLONG),
        ("..", errno.EINVAL),
        ("a%s", errno.EINVAL),
        ("a%d%d", errno.EINVAL),
        ("a\0b", errno.EINVAL),
    ],
)
def test_a_bad_name_is_refused_with_a_sentence(name: str, number: int) -> None:
    with pytest.raises(OSError, match=r"device name|no device|'%'") as caught:
        tunctl.create(name)
    assert (caught.value.errno, caught.value.filename) == (number, name)


@pytest.mark.parametrize(
    "flags", [0, Flag.NO_PI, Flag.TUN | Flag.TAP, Flag.TUN | 1 << 20, Flag.TUN | Flag.PERSIST]
)
def test_bad_flags_are_refused(flags: int) -> None:
    with pytest.raises(ValueError, match=r"flags|TAP|PERSIST"):
        tunctl.create("t0", flags)


def test_a_device_in_use_is_busy(fd: int) -> None:
    with pytest.raises(OSError, match="in use by another process") as caught:
        tunctl.create("t0", Flag.TUN | Flag.NO_PI)
    assert (caught.value.errno, caught.value.filename) == (errno.EBUSY, "t0")


def test_another_kind_than_the_device_is_an_error_that_names_the_flags(run: Run) -> None:
    run("ip", "tuntap", "add", "p0", "mode", "tap")
    with pytest.raises(OSError, match="without TUN and with TAP") as caught:
        tunctl.create("p0", Flag.TUN | Flag.NO_PI)
    assert caught.value.errno == errno.EINVAL


def test_without_the_device_node_the_error_says_what_to_type(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tuncer.tunctl.linux.device.CLONE_DEVICE", "/nowhere/tun")
    with pytest.raises(FileNotFoundError, match="modprobe tun"):
        tunctl.create("t0")


def test_without_the_capability_the_error_names_it() -> None:
    program = "from tuncer import tunctl; tunctl.create('t0')"
    dropped = [
        "setpriv",
        "--bounding-set=-net_admin",
        "--inh-caps=-net_admin",
        sys.executable,
        "-c",
        program,
    ]
    done = subprocess.run(dropped, capture_output=True, text=True, check=False)
    assert "PermissionError: [Errno 1]" in done.stderr
    assert "CAP_NET_ADMIN" in done.stderr
    assert "'t0'" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "family", "local", "prefix", "broadcast"),
    [
        (("10.0.0.1",), "inet", "10.0.0.1", 24, "10.0.0.255"),
        (("10.0.0.1/8",), "inet", "10.0.0.1", 8, "10.255.255.255"),
        (("10.0.0.1", 30), "inet", "10.0.0.1", 30, "10.0.0.3"),
        (("10.0.0.1", "255.255.0.0"), "inet", "10.0.0.1", 16, "10.0.255.255"),
        (("10.0.0.1/31",), "inet", "10.0.0.1", 31, None),
        ((ipaddress.ip_address("10.0.0.1"),), "inet", "10.0.0.1", 24, "10.0.0.255"),
        ((ipaddress.ip_interface("10.0.0.1/25"),), "inet", "10.0.0.1", 25, "10.0.0.127"),
        (("fd00::1/48",), "inet6", "fd00::1", 48, None),
        (("fd00::1",), "inet6", "fd00::1", 64, None),
        ((ipaddress.ip_address("fd00::1"), 126), "inet6", "fd00::1", 126, None),
    ],
)
def test_up_sets_the_address_that_ip_shows(
    fd: int,
    run: Run,
    arguments: tuple[Any, ...],
    family: str,
    local: str,
    prefix: int,
    broadcast: str | None,
) -> None:
    tunctl.up(fd, *arguments)
    link = shown(run)
    assert "UP" in link["flags"]
    (address,) = [a for a in link["addr_info"] if a["family"] == family and a["scope"] == "global"]
    assert (address["local"], address["prefixlen"], address.get("broadcast")) == (
        local,
        prefix,
        broadcast,
    )


def test_up_again_with_the_same_address_and_by_name(fd: int, run: Run) -> None:
    tunctl.up(fd, "10.0.0.1")
    tunctl.up("t0", "10.0.0.1")
    tunctl.up("t0")
    assert len([a for a in shown(run)["addr_info"] if a["family"] == "inet"]) == 1


@pytest.mark.parametrize(
    "address", ["10.0.0", "10.0.0.1/33", "hello", "", "fd00::1/129", "10.0.0.1 24", "a/b/c"]
)
def test_what_is_no_address_is_refused(fd: int, run: Run, address: str) -> None:
    with pytest.raises(ValueError, match="is no IP address"):
        tunctl.up(fd, address)
    assert "UP" not in shown(run)["flags"]


def test_an_address_of_another_type_is_refused(fd: int) -> None:
    for wrong in (b"10.0.0.1", 167772161):
        with pytest.raises(TypeError, match="ipaddress"):
            tunctl.up(fd, wrong)  # type: ignore[arg-type]


def test_two_prefixes_are_one_too_many(fd: int) -> None:
    with pytest.raises(ValueError, match="prefix already"):
        tunctl.up(fd, "10.0.0.1/24", 16)


def test_down_keeps_the_ipv4_address(fd: int, run: Run) -> None:
    tunctl.up(fd, "10.0.0.1/24")
    tunctl.up(fd, "fd00::1/64")
    tunctl.down(fd)
    link = shown(run)
    assert "UP" not in link["flags"]
    assert [a["local"] for a in link["addr_info"]] == ["10.0.0.1"]


def test_dstaddr_and_broadcast(fd: int, run: Run) -> None:
    tunctl.up(fd, "10.0.0.1/24")
    tunctl.broadcast(fd, "10.0.0.127")
    (before,) = [a for a in shown(run)["addr_info"] if a["family"] == "inet"]
    assert before["broadcast"] == "10.0.0.127"
    tunctl.dstaddr(fd, "10.0.0.2")
    (after,) = [a for a in shown(run)["addr_info"] if a["family"] == "inet"]
    assert (after["local"], after["address"], after["prefixlen"]) == ("10.0.0.1", "10.0.0.2", 32)


def test_dstaddr_of_ipv6(fd: int, run: Run) -> None:
    tunctl.up(fd, "fd00::1/64")
    tunctl.dstaddr(fd, "fd00::2")
    (address,) = [
        a for a in shown(run)["addr_info"] if a["family"] == "inet6" and a["scope"] == "global"
    ]
    assert (address["local"], address["address"]) == ("fd00::1", "fd00::2")


def test_an_address_is_the_same_although_its_flags_have_changed_since(fd: int, run: Run) -> None:
    tunctl.up(fd, "fd00::1/64")
    (old,) = [a for a in tunctl.list_addresses(fd) if a.scope == "global"]
    seen_before = old._replace(flags=old.flags ^ {"tentative"})
    tunctl.change_address(fd, seen_before, old._replace(peer=ipaddress.ip_address("fd00::2")))
    (new,) = [a for a in tunctl.list_addresses(fd) if a.scope == "global"]
    assert (str(new.interface.ip), str(new.peer)) == ("fd00::1", "fd00::2")


def test_dstaddr_without_an_address_of_the_device(fd: int) -> None:
    with pytest.raises(OSError, match="no IPv4 address yet") as caught:
        tunctl.dstaddr(fd, "10.0.0.2")
    assert caught.value.errno == errno.EADDRNOTAVAIL


def test_mtu(fd: int, run: Run) -> None:
    assert tunctl.mtu(fd) == 1500
    assert tunctl.mtu(fd, 9000) == 9000
    assert shown(run)["mtu"] == 9000
    for wrong in (10, 70000):
        with pytest.raises(OSError, match="68 to 65535") as caught:
            tunctl.mtu(fd, wrong)
        assert caught.value.errno == errno.EINVAL


def test_ipv6_needs_an_mtu_of_1280(fd: int) -> None:
    tunctl.mtu(fd, 1279)
    with pytest.raises(OSError, match="1280"):
        tunctl.up(fd, "fd00::1")
    tunctl.mtu(fd, 1280)
    tunctl.up(fd, "fd00::1")
    with pytest.raises(OSError, match="1280"):
        tunctl.mtu(fd, 1279)


def test_ipv6_disabled_is_said(fd: int, run: Run) -> None:
    run("sysctl", "-q", "-w", "net.ipv6.conf.t0.disable_ipv6=1")
    with pytest.raises(PermissionError, match="IPv6 is disabled"):
        tunctl.up(fd, "fd00::1")


def test_persist_owner_and_group_by_descriptor_and_by_name(run: Run) -> None:
    fd = tunctl.create("t0", Flag.TUN | Flag.NO_PI)
    tunctl.persist(fd)
    mapped = Path("/proc/self/uid_map").read_text().split()[2] != "1"
    user, team = (54321, 54322) if mapped else (0, 0)
    tunctl.owner(fd, user)
    tunctl.group(fd, team)
    assert Flag.PERSIST in tunctl.flags(fd)
    with pytest.raises(OSError, match="in use"):
        tunctl.persist("t0", False)
    os.close(fd)
    data = shown(run)["linkinfo"]["info_data"]
    named = {"root": 0}
    assert [named.get(data[k], data[k]) for k in ("user", "group")] == [user, team]
    tunctl.owner("t0", "root")
    tunctl.group("t0", 0)
    assert str(shown(run)["linkinfo"]["info_data"]["user"]) in {"0", "root"}
    tunctl.persist("t0", False)
    assert "t0" not in run("ip", "-br", "link")


def test_owner_that_is_no_user(fd: int) -> None:
    with pytest.raises(KeyError, match="nobody-of-that-name"):
        tunctl.owner(fd, "nobody-of-that-name")
    with pytest.raises(ValueError, match="user or group id"):
        tunctl.owner(fd, -5)


def test_delete_reaches_through_duplicates(run: Run) -> None:
    fd = tunctl.create("t0", Flag.TUN | Flag.NO_PI)
    tunctl.persist(fd)
    tunctl.delete(fd)
    assert "t0" not in run("ip", "-br", "link")
    with pytest.raises(OSError, match="was deleted") as caught:
        tunctl.devname(fd)
    assert caught.value.errno == errno.EBADFD
    os.close(fd)


def test_no_such_device() -> None:
    for function in (
        tunctl.up,
        tunctl.down,
        tunctl.mtu,
        tunctl.delete,
        tunctl.persist,
        tunctl.ifindex,
    ):
        with pytest.raises(OSError, match="no such device") as caught:
            function("nothere")
        assert (caught.value.errno, caught.value.filename) == (errno.ENODEV, "nothere")
    with pytest.raises(OSError, match="empty"):
        tunctl.up("")


def test_packets_pass_both_ways_and_are_counted(fd: int, run: Run) -> None:
    tunctl.up(fd, "10.0.0.1/24")
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.bind(("10.0.0.1", 5000))
    sender.sendto(b"hello", ("10.0.0.2", 7))
    packet = _read(fd, lambda p: p[0] >> 4 == 4)
    assert packet[28:] == b"hello"
    back = bytearray(packet)
    back[12:16], back[16:20] = packet[16:20], packet[12:16]
    back[20:22], back[22:24] = packet[22:24], packet[20:22]
    os.write(fd, back)
    assert sender.recvfrom(100) == (b"hello", ("10.0.0.2", 7))
    sender.close()
    counts = tunctl.statistics(fd)
    packets, size, dropped = (counts[f"tx_{x}"] for x in ("packets", "bytes", "dropped"))
    assert packets >= 1
    assert size >= 33
    assert dropped == 0


def _read(fd: int, wanted: Callable[[bytes], bool]) -> bytes:
    while True:
        assert select.select([fd], [], [], 5)[0]
        packet = os.read(fd, 65535)
        if wanted(packet):
            return packet


def test_packet_information(run: Run) -> None:
    fd = tunctl.create("t0", Flag.TUN)
    tunctl.up(fd, "10.0.0.1/24")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"hello", ("10.0.0.2", 7))
    flags, protocol, payload = tunctl.header(_read(fd, lambda p: p[2:4] == b"\x08\x00"))
    assert (flags, protocol, payload[28:]) == (0, 0x0800, b"hello")
    os.close(fd)


@given(st.binary(max_size=64))
def test_header_splits_any_bytes(data: bytes) -> None:
    if len(data) < 4:
        with pytest.raises(ValueError, match="4 bytes"):
            tunctl.header(data)
    else:
        flags, protocol, payload = tunctl.header(data)
        assert flags.to_bytes(2, sys.byteorder) + protocol.to_bytes(2, "big") + payload == data


@given(st.ip_addresses(), st.integers(0, 128))
def test_an_address_is_read_the_same_however_it_is_written(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, prefix: int
) -> None:
    prefix %= address.max_prefixlen + 1
    expected = ipaddress.ip_interface(f"{address}/{prefix}")
    assert interface(str(address), prefix) == expected
    assert interface(f"{address}/{prefix}") == expected
    assert interface(address, prefix) == expected
    assert interface(expected) == expected


@given(st.text(max_size=20))
def test_a_name_is_taken_or_refused_by_an_oserror(name: str) -> None:
    try:
        taken = check_name(name)
    except OSError as error:
        assert error.errno in {errno.EINVAL, errno.ENAMETOOLONG}  # noqa: PT017
    else:
        assert len(taken.encode()) < 16
        assert not set(taken) & set("/: ")


def test_tunctl_serves_without_the_rest() -> None:
    program = (
        "import sys, tuncer.tunctl\n"
        "print(sorted(m for m in sys.modules if m.startswith(('supervisor', 'zmq'))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
