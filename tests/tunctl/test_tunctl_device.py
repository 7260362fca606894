"""Devices by system calls: created, deleted, named, flagged."""

import errno
import os
import socket
import subprocess
import sys

import pytest
from devices import TAP, TUN
from hypothesis import given
from hypothesis import strategies as st
from ip_links import device, read, shown
from processes import Run

from tuncer import tunctl
from tuncer.tunctl import Flag
from tuncer.tunctl.errors import check_name


def test_features_are_those_of_the_kernel() -> None:
    known = tunctl.features()
    assert TUN | TAP | Flag.MULTI_QUEUE | Flag.VNET_HDR | Flag.NAPI in known
    assert Flag.PERSIST not in known


@pytest.mark.parametrize(
    "flags",
    [
        TUN,
        TAP,
        Flag.TUN,
        Flag.TAP,
        TUN | Flag.ONE_QUEUE,
        TUN | Flag.VNET_HDR,
        TAP | Flag.MULTI_QUEUE,
        TUN | Flag.NAPI,
        TAP | Flag.NAPI | Flag.NAPI_FRAGS,
        TUN | Flag.TUN_EXCL,
        Flag.TAP | Flag.VNET_HDR | Flag.MULTI_QUEUE,
    ],
)
def test_the_kernel_gives_every_combination_that_is_asked_for(flags: Flag) -> None:
    wishes = Flag.ONE_QUEUE | Flag.TUN_EXCL
    with device("t0", flags) as fd:
        assert tunctl.flags(fd) & ~wishes == flags & ~wishes
        by_name = Flag.NAPI | Flag.NAPI_FRAGS  # which rtnetlink does not tell
        assert tunctl.flags("t0") == flags & ~wishes & ~by_name


def test_napi_frags_alone_is_refused_with_a_sentence() -> None:
    for wrong in (TAP | Flag.NAPI_FRAGS, TUN | Flag.NAPI | Flag.NAPI_FRAGS):
        with pytest.raises(ValueError, match="NAPI_FRAGS"):
            tunctl.create("t0", wrong)


@pytest.mark.parametrize(
    ("made", "asked", "named"),
    [
        (TUN, TAP, "without TAP and with TUN"),
        (TUN | Flag.MULTI_QUEUE, TUN, "with MULTI_QUEUE"),
        (TUN, TUN | Flag.MULTI_QUEUE, "without MULTI_QUEUE"),
    ],
)
def test_what_an_existing_device_was_created_with_is_named(
    made: Flag, asked: Flag, named: str
) -> None:
    with device("p0", made) as fd:
        tunctl.persist(fd)
    with pytest.raises(OSError, match=named) as caught:
        tunctl.create("p0", asked)
    assert (caught.value.errno, caught.value.filename) == (errno.EINVAL, "p0")
    tunctl.delete("p0")


def test_wishes_about_a_device_that_exists(run: Run) -> None:
    with device("p0", TUN) as fd:
        tunctl.persist(fd)
    with pytest.raises(OSError, match="exists already") as caught:
        tunctl.create("p0", TUN | Flag.TUN_EXCL)
    assert caught.value.errno == errno.EBUSY
    with device("p0", TUN | Flag.NO_CARRIER) as fd:
        tunctl.up(fd)
        assert not tunctl.carrier(fd)
        tunctl.persist(fd, False)


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


def test_a_device_in_use_is_busy(tun: int) -> None:
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


def test_packets_pass_both_ways_and_are_counted(tun: int, run: Run) -> None:
    tunctl.up(tun, "10.0.0.1/24")
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.bind(("10.0.0.1", 5000))
    sender.sendto(b"hello", ("10.0.0.2", 7))
    packet = read(tun, lambda p: p[0] >> 4 == 4)
    assert packet[28:] == b"hello"
    back = bytearray(packet)
    back[12:16], back[16:20] = packet[16:20], packet[12:16]
    back[20:22], back[22:24] = packet[22:24], packet[20:22]
    os.write(tun, back)
    assert sender.recvfrom(100) == (b"hello", ("10.0.0.2", 7))
    sender.close()
    counts = tunctl.statistics(tun)
    packets, size, dropped = (counts[f"tx_{x}"] for x in ("packets", "bytes", "dropped"))
    assert packets >= 1
    assert size >= 33
    assert dropped == 0


@given(st.text(max_size=20))
def test_a_name_is_taken_or_refused_by_an_oserror(name: str) -> None:
    try:
        taken = check_name(name)
    except OSError as error:
        assert error.errno in {errno.EINVAL, errno.ENAMETOOLONG}  # noqa: PT017 - it may succeed as well
    else:
        assert len(taken.encode()) < 16
        assert not set(taken) & set("/: ")
