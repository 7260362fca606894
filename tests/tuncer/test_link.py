"""What a Device sets, through its worker; other namespaces; devices that others have opened."""

import contextlib
import errno
import ipaddress
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from devices import TAP, TUN, kill_worker
from processes import PATIENCE, Run, wait_for_end
from traffic import send_one

import tuncer
from tuncer import Device, DeviceError, Flag, Offload, Protocol, VnetHdr, tunctl


@pytest.fixture(name="dev")
def tap() -> Iterator[Device]:
    with tuncer.create("e0", TAP) as dev:
        yield dev


def inside(pid: int, run: Run, *command: str) -> Any:
    return json.loads(run("nsenter", "--net", "--target", str(pid), *command))


def test_every_setting_reaches_the_device(dev: Device, run: Run) -> None:
    run("ip", "link", "add", "br0", "type", "bridge")
    assert dev.mac("02:00:00:00:00:0a") == dev.mac() == "02:00:00:00:00:0a"
    assert dev.txqueuelen(77) == dev.txqueuelen() == 77
    assert dev.alias("the lab's") == dev.alias() == "the lab's"
    assert dev.master("br0") == dev.master() == "br0"
    assert dev.link_local(False) is dev.link_local() is False
    assert dev.mtu(1400) == dev.mtu() == 1400
    assert dev.sndbuf(5000) == dev.sndbuf() == 5000
    assert dev.vnet_hdr_size() == 10
    assert dev.link_type() == 1
    assert not dev.is_up()
    dev.up()
    assert dev.is_up()
    assert dev.carrier(False) is dev.carrier() is False
    dev.rename("e1")
    assert (dev.name, dev.devname()) == ("e0", "e1")
    link = json.loads(run("ip", "-j", "-d", "link", "show", "dev", "e1"))[0]
    assert (link["address"], link["txqlen"], link["ifalias"], link["master"], link["mtu"]) == (
        "02:00:00:00:00:0a",
        77,
        "the lab's",
        "br0",
        1400,
    )
    assert dev.master("") == ""
    dev.receive_filter(["02:00:00:00:00:0a"])
    dev.receive_filter()


def test_addresses_and_routes(dev: Device, run: Run) -> None:
    dev.up(ipaddress.ip_interface("10.0.0.1/24"), link_local=False)
    dev.add_address("10.0.1.1", 16, broadcast="10.0.0.9", scope="link")
    dev.add_address("fd00::1/64", nodad=True)
    dev.add_address("10.0.2.1", peer=ipaddress.ip_address("10.0.2.2"))
    dev.add_route(ipaddress.ip_network("10.5.0.0/16"), "10.0.0.7", metric=9)
    dev.add_route("fd05::/48", source="fd00::1")
    listed = {str(a.interface): a for a in dev.list_addresses()}
    assert set(listed) == {"10.0.0.1/24", "10.0.1.1/16", "fd00::1/64", "10.0.2.1/32"}
    assert listed["10.0.1.1/16"].scope == "link"
    assert listed["10.0.1.1/16"].broadcast == ipaddress.ip_address("10.0.0.9")
    assert listed["10.0.2.1/32"].peer == ipaddress.ip_address("10.0.2.2")
    assert "nodad" in listed["fd00::1/64"].flags
    assert listed == {str(a.interface): a for a in tunctl.list_addresses("e0")}
    routes = {str(r.destination): r for r in dev.list_routes()}
    assert routes["10.5.0.0/16"].gateway == ipaddress.ip_address("10.0.0.7")
    assert routes["10.5.0.0/16"].metric == 9
    assert routes["fd05::/48"].source == ipaddress.ip_address("fd00::1")
    assert dev.list_routes() == tunctl.list_routes("e0")
    dev.remove_route("10.5.0.0/16", "10.0.0.7", metric=9)
    dev.remove_address("10.0.1.1")
    assert "10.5.0.0/16" not in {str(r.destination) for r in dev.list_routes()}
    with pytest.raises(OSError, match="no such address"):
        dev.remove_address("10.0.1.1")


@pytest.mark.parametrize(
    ("use", "error"),
    [
        (lambda d: d.up("10.0.0.1/24", colour=1), TypeError),
        (lambda d: d.up("10.0.0.1/24", scope="galaxy"), ValueError),
        (lambda d: d.up("10.0.0.1/24", peer=b"10.0.0.2"), TypeError),
        (lambda d: d.add_address(7), TypeError),
        (lambda d: d.add_address(None), TypeError),
        (lambda d: d.add_address("10.0.0.0.1"), ValueError),
        (lambda d: d.remove_address("10.0.0.9"), OSError),
        (lambda d: d.add_route("nowhere"), ValueError),
        (lambda d: d.add_route(None), TypeError),
        (lambda d: d.add_route("10.5.0.0/16", colour=1), TypeError),
        (lambda d: d.remove_route("10.5.0.0/16"), OSError),
        (lambda d: d.mac("02:00"), ValueError),
        (lambda d: d.mac("01:00:00:00:00:01"), OSError),  # multicast
        (lambda d: d.txqueuelen("many"), TypeError),
        (lambda d: d.alias(b"x"), TypeError),
        (lambda d: d.carrier("on"), TypeError),
        (lambda d: d.link_type(1 << 20), ValueError),
        (lambda d: d.master("nothere"), OSError),
        (lambda d: d.rename("lo"), OSError),
        (lambda d: d.move("nothere"), OSError),
        (lambda d: d.move(None), TypeError),
        (lambda d: d.sndbuf(-1), OSError),
        (lambda d: d.vnet_hdr_size(3), OSError),
        (lambda d: d.offload(1 << 12), ValueError),
        (lambda d: d.receive_filter(["x"]), ValueError),
        (lambda d: d.receive_filter("02:00:00:00:00:01"), TypeError),
        (lambda d: d.receive_filter([7]), TypeError),
        (lambda d: d.owner("no-such-user"), KeyError),
        (lambda d: d.group(-1), ValueError),
        (lambda d: d.recv(-1), ValueError),
        (lambda d: d.recv("soon"), TypeError),
    ],
)
def test_a_wrong_argument_leaves_device_and_worker_as_they_were(
    dev: Device, run: Run, use: Callable[[Device], Any], error: type[Exception]
) -> None:
    pid, before = dev.pid, run("ip", "-j", "-d", "addr", "show", "dev", "e0")
    files = len(os.listdir(f"/proc/{pid}/fd"))
    for _ in range(2):
        with pytest.raises(error):
            use(dev)
    assert run("ip", "-j", "-d", "addr", "show", "dev", "e0") == before
    assert (dev.pid, dev.flags()) == (pid, TAP)
    assert len(os.listdir(f"/proc/{pid}/fd")) <= files + 2  # this program's connection


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"namespace": "nothere"}, OSError),
        ({"namespace": 1.5}, TypeError),
        ({"namespace": "/etc/passwd"}, OSError),
        ({"owner": "no-such-user"}, KeyError),
        ({"owner": -1}, ValueError),
        ({"group": "no-such-group"}, KeyError),
        ({"active": "twice"}, TypeError),
        ({"active": 40000}, ValueError),
        ({"txqueuelen": -1}, OSError),
        ({"slots": 3}, ValueError),
        ({"owner": -1, "persist": True}, ValueError),
        ({"persist": "no"}, TypeError),
        ({"owner": object()}, TypeError),
    ],
)
def test_a_wrong_option_creates_nothing(
    run: Run, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        tuncer.create("e0", TAP, **options)
    assert "e0" not in run("ip", "-br", "link")
    assert tuncer.devices() == []


def test_a_create_that_fails_leaves_an_existing_device_as_it_was(run: Run) -> None:
    run("ip", "tuntap", "add", "p0", "mode", "tun", "user", "1")
    before = run("ip", "-j", "-d", "link", "show", "dev", "p0")
    for options in ({"owner": 0, "group": "no-such-group"}, {"slots": 3}, {"active": "twice"}):
        with pytest.raises((KeyError, ValueError, TypeError)):
            tuncer.create("p0", TUN, **options)
        assert run("ip", "-j", "-d", "link", "show", "dev", "p0") == before


def test_a_device_that_was_there_before_is_still_there_after(run: Run) -> None:
    run("ip", "tuntap", "add", "p0", "mode", "tun")
    with tuncer.create("p0", TUN) as dev:
        pid = dev.pid
    assert wait_for_end(pid)
    assert "p0" in run("ip", "-br", "link")
    with tuncer.create("p1", TUN, persist=True):
        pass
    assert "p1" in run("ip", "-br", "link")
    for name in ("p0", "p1"):
        tuncer.create(name, TUN).destroy()
        assert name not in run("ip", "-br", "link")


def test_fewer_super_packets_are_queued() -> None:
    with tuncer.create("e0", TUN | Flag.VNET_HDR) as dev:
        dev.offload(Offload.CSUM | Offload.TSO4)
        assert dev.txqueuelen() == 1000
        dev.offload(0)
        assert dev.txqueuelen() == 10_000
        dev.txqueuelen(77)
        dev.offload(Offload.CSUM)
        assert dev.txqueuelen() == 77


# -- namespaces ------------------------------------------------------------------------------------


def test_a_device_in_another_namespace(elsewhere: int, run: Run) -> None:
    with tuncer.create("e0", TUN, namespace=elsewhere) as dev, tuncer.create("e0", TAP) as here:
        assert dev != here
        dev.up("10.0.0.1/24", link_local=False)
        (link,) = inside(elsewhere, run, "ip", "-j", "addr", "show", "dev", "e0")
        assert [a["local"] for a in link["addr_info"]] == ["10.0.0.1"]
        assert (link["ifindex"], link["txqlen"]) == (dev.ifindex(), 10_000)
        assert tuncer.attach("e0", elsewhere) == dev
        assert tuncer.attach("e0") == here
        assert set(tuncer.devices()) == {dev, here}
        with dev.subscribe() as subscription:
            kill_worker(dev)
            run(
                *["nsenter", "--net", "--target", str(elsewhere)],
                *["sh", "-c", "ping -c 1 -W 0.1 10.0.0.2 || true"],
            )
            packet = subscription.recv(PATIENCE)
            assert packet.data[16:20] == bytes([10, 0, 0, 2])
        assert dev.statistics()["kernel_packets"] == 1
    assert inside(elsewhere, run, "ip", "-j", "link", "show", "type", "tun") == []
    with pytest.raises(DeviceError, match="no such device"):
        tuncer.attach("e0", elsewhere)


def test_a_namespace_by_name_and_by_path(run: Run) -> None:
    name = f"tuncer-{os.getpid()}"
    run("ip", "netns", "add", name)
    try:
        with (
            tuncer.create("a0", TUN, namespace=name) as a,
            tuncer.create("b0", TUN, namespace=Path("/run/netns") / name) as b,
        ):
            assert {"a0", "b0"} <= set(run("ip", "-netns", name, "-br", "link").split())
            assert {a.devname(), b.devname()} == {"a0", "b0"}
    finally:
        run("ip", "netns", "del", name)


def test_move(dev: Device, elsewhere: int, run: Run) -> None:
    dev.move(elsewhere)
    dev.up("10.0.0.1/24")
    assert "e0" not in run("ip", "-br", "link")
    (link,) = inside(elsewhere, run, "ip", "-j", "addr", "show", "dev", "e0")
    assert "10.0.0.1" in [a["local"] for a in link["addr_info"]]
    dev.move(f"/proc/{os.getpid()}/ns/net")
    assert "e0" in run("ip", "-br", "link")


# -- adoption --------------------------------------------------------------------------------------


def test_a_descriptor_that_somebody_else_opened_is_adopted(run: Run) -> None:
    fd = tunctl.create("t0", TUN)
    tunctl.up(fd, "10.0.0.1/24", link_local=False)
    tunctl.txqueuelen(fd, 33)
    before = run("ip", "-j", "-d", "addr", "show", "dev", "t0")
    with tuncer.adopt(fd) as dev:
        os.close(fd)
        assert (dev.name, dev.flags()) == ("t0", TUN)
        assert run("ip", "-j", "-d", "addr", "show", "dev", "t0") == before
        with dev.subscribe() as subscription:
            kill_worker(dev)
            send_one("10.0.0.2", b"hello")
            assert subscription.recv(PATIENCE).data[28:] == b"hello"
        assert tuncer.attach("t0") == dev
    assert "t0" not in run("ip", "-br", "link")


def test_a_device_is_adopted_with_its_framing() -> None:
    fd = tunctl.create("t0", Flag.TUN | Flag.VNET_HDR)
    with tuncer.adopt(fd) as dev:
        os.close(fd)
        dev.up("10.0.0.1/24", link_local=False)
        send_one("10.0.0.2", b"hello")
        told = tuncer.header(dev.recv(PATIENCE))
        assert told.proto is Protocol.IPV4
        assert VnetHdr.parse(told.payload).payload[28:] == b"hello"


def test_what_cannot_be_adopted(dev: Device) -> None:
    held = dev.getfd()
    with pytest.raises(OSError, match="has a worker already") as caught:
        tuncer.adopt(held)
    assert caught.value.errno == errno.EBUSY
    os.close(held)
    with open("/dev/null", "rb") as other, pytest.raises(OSError, match="no TUN/TAP device"):
        tuncer.adopt(other.fileno())
    with pytest.raises(OSError, match="not open"):
        tuncer.adopt(10_000)
    with pytest.raises(TypeError, match="a number"):
        tuncer.adopt("e0")  # type: ignore[arg-type]
    assert tuncer.devices() == [dev]


# -- descriptors -----------------------------------------------------------------------------------


def descriptors(pid: int) -> dict[str, str]:
    found = {}
    for number in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found[number] = os.readlink(f"/proc/{pid}/fd/{number}")
    return found


@pytest.mark.slow
def test_devices_that_come_and_go_leave_no_descriptor_anywhere() -> None:
    with tuncer.create("first", TUN) as first:
        root = first._call("belongs")[0].pid
        at_root = len(descriptors(root))
        tuncer.create("e0", TUN).destroy()
        here, at_worker = len(descriptors(os.getpid())), len(descriptors(first.pid))
        for number in range(200):
            if number % 5 == 4:
                with pytest.raises(OSError, match="another sort"):
                    tuncer.create("lo", TUN)
            elif number % 5 == 3:
                with pytest.raises(OSError, match="without TAP and with TUN"):
                    tuncer.create("first", TAP)
            elif number % 5 == 2:
                with pytest.raises(OSError, match="32 bits"):
                    tuncer.create("e0", TUN, txqueuelen=-1)
            else:
                with tuncer.create("e0", TUN) as dev, dev.subscribe():
                    os.close(dev.getfd())
        assert len(descriptors(os.getpid())) == here
        # They close them when they have heard of the end. One more at the root is the pidfd of
        # their owner.
        limits = {first.pid: at_worker, root: at_root + 1}
        deadline = time.monotonic() + PATIENCE
        while any(len(descriptors(pid)) > most for pid, most in limits.items()):
            assert time.monotonic() < deadline, [descriptors(pid) for pid in limits]


def test_every_descriptor_is_closed_on_exec() -> None:
    before = set(descriptors(os.getpid()))
    with (
        tuncer.create("e0", TAP, queues=2) as dev,
        dev.subscribe(events=True),
        dev.subscribe(transport="zmq"),
    ):
        dev.filter("udp")
        held = dev.getfd()
        root, above = (ref.pid for ref in dev._call("belongs"))
        found = {os.getpid(): set(descriptors(os.getpid())) - before}
        found |= {pid: set(descriptors(pid)) - {"0", "1", "2"} for pid in (*dev.pids, root, above)}
        assert len(found[os.getpid()]) > 10
        for pid, numbers in found.items():
            for number in numbers:
                info = Path(f"/proc/{pid}/fdinfo/{number}").read_text()
                flags = int(info.split("flags:")[1].split()[0], 8)
                assert flags & os.O_CLOEXEC, (pid, number, descriptors(pid).get(number))
        os.close(held)


@pytest.mark.parametrize(
    ("use", "error"),
    [
        (lambda: tuncer.attach(""), OSError),
        (lambda: tuncer.attach("nothere"), OSError),
        (lambda: tuncer.attach("a/b"), OSError),
        (lambda: tuncer.attach(7), TypeError),
        (lambda: tuncer.attach("e0", "nothere"), OSError),
        (lambda: tuncer.attach("e0", 1.5), TypeError),
        (lambda: tuncer.create(None), TypeError),
        (lambda: tuncer.create("e0", "tun"), TypeError),
        (lambda: tuncer.header(b"abc"), ValueError),
        (lambda: tuncer.read(99_999), OSError),
        (lambda: tuncer.write(99_999, b"x"), OSError),
        (lambda: tuncer.child_spec("", "e0", TUN), ValueError),
        (lambda: tunctl.create("e0", TUN, "nothere"), OSError),
        (lambda: tunctl.create("e0", TUN, b"x"), TypeError),
        (lambda: tunctl.queues("nothere"), OSError),
        (lambda: tunctl.list_routes("lo/"), OSError),
        (lambda: tunctl.flags("lo"), OSError),
        (lambda: tunctl.persist("lo"), OSError),
        (lambda: tunctl.compile_filter(None, TUN), TypeError),
    ],
)
def test_a_wrong_argument_of_a_function(
    run: Run, use: Callable[[], Any], error: type[Exception]
) -> None:
    before = len(descriptors(os.getpid()))
    with pytest.raises(error) as caught:
        use()
    assert len(str(caught.value)) > 20
    assert len(descriptors(os.getpid())) == before
    assert json.loads(run("ip", "-j", "link", "show", "type", "tun")) == []
