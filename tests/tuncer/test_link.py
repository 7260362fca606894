"""What a Device sets through its worker is what ip(8) shows, in other namespaces too."""

import ipaddress
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from devices import TAP, TUN, kill_worker
from processes import PATIENCE, Run, descriptors

import tuncer
from tuncer import Device, DeviceError, tunctl


def inside(pid: int, run: Run, *command: str) -> Any:
    return json.loads(run("nsenter", "--net", "--target", str(pid), *command))


def test_every_setting_reaches_the_device(tap: Device, run: Run) -> None:
    run("ip", "link", "add", "br0", "type", "bridge")
    assert tap.mac("02:00:00:00:00:0a") == tap.mac() == "02:00:00:00:00:0a"
    assert tap.txqueuelen(77) == tap.txqueuelen() == 77
    assert tap.alias("the lab's") == tap.alias() == "the lab's"
    assert tap.master("br0") == tap.master() == "br0"
    assert tap.link_local(False) is tap.link_local() is False
    assert tap.mtu(1400) == tap.mtu() == 1400
    assert tap.sndbuf(5000) == tap.sndbuf() == 5000
    assert tap.vnet_hdr_size() == 10
    assert tap.link_type() == 1
    assert not tap.is_up()
    tap.up()
    assert tap.is_up()
    assert tap.carrier(False) is tap.carrier() is False
    tap.rename("e1")
    assert (tap.name, tap.devname()) == ("e0", "e1")
    link = json.loads(run("ip", "-j", "-d", "link", "show", "dev", "e1"))[0]
    assert (link["address"], link["txqlen"], link["ifalias"], link["master"], link["mtu"]) == (
        "02:00:00:00:00:0a",
        77,
        "the lab's",
        "br0",
        1400,
    )
    assert tap.master("") == ""
    tap.receive_filter(["02:00:00:00:00:0a"])
    tap.receive_filter()


def test_addresses_and_routes(tap: Device, run: Run) -> None:
    tap.up(ipaddress.ip_interface("10.0.0.1/24"), link_local=False)
    tap.add_address("10.0.1.1", 16, broadcast="10.0.0.9", scope="link")
    tap.add_address("fd00::1/64", nodad=True)
    tap.add_address("10.0.2.1", peer=ipaddress.ip_address("10.0.2.2"))
    tap.add_route(ipaddress.ip_network("10.5.0.0/16"), "10.0.0.7", metric=9)
    tap.add_route("fd05::/48", source="fd00::1")
    listed = {str(a.interface): a for a in tap.list_addresses()}
    assert set(listed) == {"10.0.0.1/24", "10.0.1.1/16", "fd00::1/64", "10.0.2.1/32"}
    assert listed["10.0.1.1/16"].scope == "link"
    assert listed["10.0.1.1/16"].broadcast == ipaddress.ip_address("10.0.0.9")
    assert listed["10.0.2.1/32"].peer == ipaddress.ip_address("10.0.2.2")
    assert "nodad" in listed["fd00::1/64"].flags
    assert listed == {str(a.interface): a for a in tunctl.list_addresses("e0")}
    routes = {str(r.destination): r for r in tap.list_routes()}
    assert routes["10.5.0.0/16"].gateway == ipaddress.ip_address("10.0.0.7")
    assert routes["10.5.0.0/16"].metric == 9
    assert routes["fd05::/48"].source == ipaddress.ip_address("fd00::1")
    assert tap.list_routes() == tunctl.list_routes("e0")
    tap.remove_route("10.5.0.0/16", "10.0.0.7", metric=9)
    tap.remove_address("10.0.1.1")
    assert "10.5.0.0/16" not in {str(r.destination) for r in tap.list_routes()}
    with pytest.raises(OSError, match="no such address"):
        tap.remove_address("10.0.1.1")


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
    tap: Device, run: Run, use: Callable[[Device], Any], error: type[Exception]
) -> None:
    pid, before = tap.pid, run("ip", "-j", "-d", "addr", "show", "dev", "e0")
    files = len(os.listdir(f"/proc/{pid}/fd"))
    for _ in range(2):
        with pytest.raises(error):
            use(tap)
    assert run("ip", "-j", "-d", "addr", "show", "dev", "e0") == before
    assert (tap.pid, tap.flags()) == (pid, TAP)
    assert len(os.listdir(f"/proc/{pid}/fd")) <= files + 2  # this program's connection


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


def test_move(tap: Device, elsewhere: int, run: Run) -> None:
    tap.move(elsewhere)
    tap.up("10.0.0.1/24")
    assert "e0" not in run("ip", "-br", "link")
    (link,) = inside(elsewhere, run, "ip", "-j", "addr", "show", "dev", "e0")
    assert "10.0.0.1" in [a["local"] for a in link["addr_info"]]
    tap.move(f"/proc/{os.getpid()}/ns/net")
    assert "e0" in run("ip", "-br", "link")


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


def test_a_queue_of_length_0_is_refused() -> None:
    with pytest.raises(ValueError, match="gets no packet"):
        tuncer.create("d0", TUN, txqueuelen=0)
    with tuncer.create("d0", TUN) as device, pytest.raises(ValueError, match="gets no packet"):
        device.txqueuelen(0)
