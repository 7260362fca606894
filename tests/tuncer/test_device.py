"""Devices on the real kernel: configuration, packets, subscriptions, and their end."""

import asyncio
import contextlib
import errno
import json
import os
import pickle
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import zmq
from devices import ADDRESS, OTHER, TUN, kill_worker
from processes import PATIENCE, Run, eventually, gone, program, wait_for_end
from traffic import number_of, reply_to, send_one, take

import tuncer
from supervisor import Supervisor, SupervisorRef
from tuncer import Device, DeviceError, DeviceEvent, Flag, Packet
from tuncer.client.device import MOST_BYTES
from tuncer.protocol import paths, wire_format


def names(run: Run) -> list[str]:
    return [link["ifname"] for link in json.loads(run("ip", "-j", "link"))]


def test_create_and_destroy(run: Run) -> None:
    dev = tuncer.create("lab0", TUN)
    assert (dev.name, dev.devname(), dev.flags()) == ("lab0", "lab0", TUN)
    assert dev.pid != os.getpid()
    assert "lab0" in names(run)
    assert tuncer.devices() == [dev]
    assert tuncer.attach("lab0") == dev
    pid = dev.pid
    dev.destroy()
    assert "lab0" not in names(run)
    assert gone(pid)
    assert tuncer.devices() == []
    dev.destroy()  # once more is no error
    for use in (dev.up, dev.statistics, dev.subscribe, dev.getfd):
        with pytest.raises(DeviceError, match="no such device") as caught:
            use()
        assert (caught.value.errno, caught.value.filename) == (errno.ENODEV, "lab0")


def test_the_kernel_chooses_a_name_and_tap_is_the_default() -> None:
    with tuncer.create() as tap, tuncer.create("lab%d", TUN) as tun:
        assert (tap.name, tun.name) == ("tap0", "lab0")
        assert tap.flags() == Flag.TAP | Flag.NO_PI


def test_a_name_may_be_used_again() -> None:
    for _ in range(3):
        with tuncer.create("lab0", TUN) as dev:
            assert dev.devname() == "lab0"


@pytest.mark.parametrize("name", ["a/b", "a b", "x" * 16, "\N{GRINNING FACE}", ".."])
def test_bad_names(name: str) -> None:
    with pytest.raises(OSError, match=r"name|called") as caught:
        tuncer.create(name)
    assert caught.value.filename == name


def test_bad_flags_and_options() -> None:
    for flags in (0, Flag.TUN | Flag.TAP, 1 << 30):
        with pytest.raises(ValueError, match=r"flags|TAP"):
            tuncer.create("lab0", flags)
    with pytest.raises(ValueError, match="power of two"):
        tuncer.create("lab0", slots=100)


def test_a_device_that_exists_is_busy(dev: Device) -> None:
    with pytest.raises(OSError, match="in use") as caught:
        tuncer.create("lab0", TUN)
    assert (caught.value.errno, caught.value.filename) == (errno.EBUSY, "lab0")
    assert dev.devname() == "lab0"


def test_another_interface_of_that_name(run: Run) -> None:
    run("ip", "link", "add", "veth0", "type", "veth", "peer", "name", "veth1")
    with pytest.raises(OSError, match="another sort of interface") as caught:
        tuncer.create("veth0", TUN)
    assert caught.value.errno == errno.EINVAL


def test_configuration_is_what_ip_shows(dev: Device, run: Run) -> None:
    dev.up("fd00::1/64")
    dev.broadcast("10.9.0.127")
    assert dev.mtu(1400) == dev.mtu() == 1400
    link = json.loads(run("ip", "-j", "addr", "show", "dev", "lab0"))[0]
    addresses = {(a["local"], a["prefixlen"], a.get("broadcast")) for a in link["addr_info"]}
    assert {(ADDRESS, 24, "10.9.0.127"), ("fd00::1", 64, None)} <= addresses
    assert (link["mtu"], link["txqlen"], link["ifindex"]) == (1400, 10_000, dev.ifindex())
    dev.dstaddr(OTHER)
    dev.down()
    link = json.loads(run("ip", "-j", "addr", "show", "dev", "lab0"))[0]
    assert "UP" not in link["flags"]
    assert [a.get("address") for a in link["addr_info"] if a["family"] == "inet"] == [OTHER]


@pytest.mark.parametrize(
    ("use", "error"),
    [
        (lambda d: d.up("10.9.0"), ValueError),
        (lambda d: d.up(7), TypeError),
        (lambda d: d.broadcast("fd00::1"), ValueError),
        (lambda d: d.mtu(5), OSError),
        (lambda d: d.owner("nobody-of-that-name"), Exception),
        (lambda d: d.setopt(active="twice"), TypeError),
        (lambda d: d.setopt(active=1.5), TypeError),
        (lambda d: d.setopt(active=32768), ValueError),
        (lambda d: d.send(b""), ValueError),
        (lambda d: d.send(bytes(70_000)), ValueError),
        (lambda d: d.send(bytes(MOST_BYTES)), OSError),
        (lambda d: d.send(bytes(40)), OSError),
        (lambda d: d.send("text"), TypeError),
        (lambda d: d.subscribe(transport="pigeon"), ValueError),
        (lambda d: d.controlling_process(2**22 + 1), ProcessLookupError),
    ],
)
def test_bad_arguments_leave_the_device_intact(dev: Device, use: Any, error: Any) -> None:
    pid = dev.pid
    with pytest.raises(error):
        use(dev)
    assert dev.pid == pid
    assert dev.statistics()["restarts"] == 0


def test_recv_in_passive_mode(dev: Device) -> None:
    with pytest.raises(TimeoutError, match="no packet in time"):
        while True:  # whatever the kernel has sent by itself
            dev.recv(timeout=0.05)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(dev.recv, PATIENCE)
        while not dev.statistics()["packets_read"] or not waiting.done():
            send_one(OTHER)
        assert waiting.result(PATIENCE)
    with dev.subscribe(), pytest.raises(OSError, match="active mode") as caught:
        dev.recv(0)
    assert caught.value.errno == errno.EINVAL
    while dev.statistics()["active"]:
        pass  # the end of a subscription is noticed soon after close
    send_one(OTHER, b"again")
    eventually(lambda: dev.recv(PATIENCE)[28:], b"again")


def test_setopt_active(dev: Device, capfd: Any) -> None:
    dev.setopt(active=True)
    before = dev.statistics()["packets_read"]
    send_one(OTHER)
    eventually(lambda: dev.statistics()["packets_read"] != before)
    kill_worker(dev)
    assert dev.statistics()["active"]
    dev.setopt(active=False)
    kill_worker(dev)
    assert not dev.statistics()["active"]


@pytest.mark.parametrize("transport", ["ring", "zmq"])
def test_a_subscription_yields_every_packet_from_its_beginning(dev: Device, transport: str) -> None:
    send_one(OTHER, b"before")
    with dev.subscribe(transport=transport) as subscription:
        first = take(subscription)[0]
        payloads = [b"%d" % n for n in range(50)]
        for payload in payloads:
            send_one(OTHER, payload)
        packets = take(subscription, 50)
        assert [p.data[28:] for p in packets] == payloads
        assert [p.seq for p in packets] == list(range(packets[0].seq, packets[0].seq + 50))
        assert packets[0].device == "lab0"
        assert packets[0].timestamp <= packets[-1].timestamp
        assert first.lost == 0
        assert subscription.stats()["lost"] == 0
        with pytest.raises(TimeoutError):
            while True:
                subscription.recv(0.01)


@pytest.mark.parametrize("transport", ["ring", "zmq"])
def test_batches(dev: Device, transport: str) -> None:
    with dev.subscribe(batch=True, transport=transport) as subscription:
        for n in range(20):
            send_one(OTHER, b"%d" % n)
        found: list[bytes] = []
        while len(found) < 20:
            batch = subscription.recv(PATIENCE)
            assert isinstance(batch, list)
            found += [p.data[28:] for p in batch if p.data[0] >> 4 == 4]
        assert found == [b"%d" % n for n in range(20)]


@pytest.mark.parametrize("transport", ["ring", "zmq"])
def test_asyncio(dev: Device, transport: str) -> None:
    async def take(count: int) -> list[bytes]:
        found: list[bytes] = []
        with dev.subscribe(transport=transport) as subscription:
            loop = asyncio.get_running_loop()
            loop.call_soon(lambda: [send_one(OTHER, b"%d" % n) for n in range(count)])
            async for packet in subscription:
                assert isinstance(packet, Packet)
                if packet.data[0] >> 4 == 4:
                    found.append(packet.data[28:])
                if len(found) == count:
                    return found
        return found

    assert asyncio.run(asyncio.wait_for(take(20), PATIENCE)) == [b"%d" % n for n in range(20)]


def test_a_subscription_ends_with_the_device(run: Run) -> None:
    with tuncer.create("lab0", TUN) as dev:
        run("ip", "link", "set", "lab0", "addrgenmode", "none")  # no packets but ours
        dev.up(ADDRESS)
        subscriptions = [dev.subscribe(transport=t) for t in ("ring", "zmq")]
        send_one(OTHER)
        eventually(lambda: dev.statistics()["packets_read"])
    for subscription in subscriptions:
        packets = list(subscription)
        assert packets
        assert subscription.stats() == {"delivered": len(packets), "lost": 0}
        subscription.close()


def test_the_device_is_used_from_another_process(dev: Device) -> None:
    program = (
        "import pickle, sys, tuncer\n"
        "dev = pickle.loads(bytes.fromhex(sys.argv[1]))\n"
        "sub = dev.subscribe()\n"
        "print('ready', flush=True)\n"
        "for p in sub:\n"
        "    if p.data[28:] == b'for you': dev.up('10.8.0.1/24'); print(p.device); break\n"
    )
    command = [sys.executable, "-c", program, pickle.dumps(dev).hex()]
    other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "ready\n"
    send_one(OTHER, b"for you")
    assert other.communicate(timeout=PATIENCE)[0] == "lab0\n"
    assert other.returncode == 0


def test_subscribers_that_end_without_a_word_are_forgotten(dev: Device) -> None:
    program = "import tuncer, os; s = tuncer.attach('lab0').subscribe(); os._exit(0)"
    before = len(os.listdir(f"/proc/{dev.pid}/fd"))
    for _ in range(5):
        subprocess.run([sys.executable, "-c", program], check=True, timeout=PATIENCE)
    eventually(lambda: not (dev.statistics()["subscribers"]))
    kept = dev.subscribe()
    kill_worker(dev)
    assert dev.statistics()["subscribers"] == 1
    kept.close()
    eventually(lambda: not (dev.statistics()["subscribers"]))
    assert len(os.listdir(f"/proc/{dev.pid}/fd")) <= before + 2


def test_real_ping_is_answered(dev: Device, run: Run) -> None:
    with dev.subscribe() as subscription:
        ping = subprocess.Popen(
            ["ping", "-c", "5", "-i", "0.05", "-w", "20", OTHER], stdout=subprocess.PIPE, text=True
        )
        answered = 0
        while ping.poll() is None:
            with contextlib.suppress(TimeoutError):
                answer = reply_to(subscription.recv(0.1).data)
                if answer is not None:
                    assert dev.send(answer) == 1
                    answered += 1
        ping.communicate()
    assert ping.returncode == 0
    assert dev.statistics()["packets_sent"] == answered >= 5


def test_send_while_down(dev: Device) -> None:
    dev.down()
    with pytest.raises(OSError, match="down: bring it up") as caught:
        dev.send(b"\x45" + bytes(27))
    assert caught.value.errno == errno.EIO


def test_getfd_reads_and_writes_past_the_worker(dev: Device) -> None:
    fd = dev.getfd()
    assert not os.get_inheritable(fd)
    send_one(OTHER, b"past")
    while (packet := tuncer.read(fd))[28:] != b"past":
        pass
    assert tuncer.write(fd, packet) == len(packet)
    with pytest.raises(OSError, match="write") as caught:
        tuncer.write(fd, b"")
    assert caught.value.errno == errno.EINVAL
    dev.destroy()
    for use in (lambda: tuncer.read(fd), lambda: tuncer.write(fd, packet)):
        with pytest.raises(OSError, match="was deleted") as caught:
            use()
        assert caught.value.errno == errno.EBADFD
    os.close(fd)


def test_packet_information_when_asked_for() -> None:
    with tuncer.create("lab0", Flag.TUN) as dev:
        dev.up(ADDRESS)
        with dev.subscribe() as subscription:
            send_one(OTHER)
            while True:
                packet = subscription.recv(PATIENCE)
                assert isinstance(packet, Packet)
                flags, protocol, payload = tuncer.header(packet.data)
                if protocol == 0x0800:
                    break
            assert (flags, payload[28:]) == (0, b"hello")


@pytest.mark.parametrize("transport", ["ring", "zmq"])
def test_a_link_deleted_from_outside_is_a_device_error(
    dev: Device, run: Run, transport: str
) -> None:
    subscription = dev.subscribe(transport=transport)
    pid = dev.pid
    run("ip", "link", "del", "lab0")
    with pytest.raises(DeviceError, match="was deleted") as caught:
        while True:
            subscription.recv(PATIENCE)
    assert (caught.value.errno, caught.value.filename) == (errno.ENODEV, "lab0")
    subscription.close()
    assert wait_for_end(pid)
    with pytest.raises(DeviceError, match="no such device"):
        dev.statistics()


def test_a_link_deleted_from_outside_while_nobody_reads(dev: Device, run: Run) -> None:
    pid = dev.pid
    run("ip", "link", "del", "lab0")
    assert wait_for_end(pid)
    assert tuncer.devices() == []


def test_a_link_set_down_is_an_event_and_no_crash(dev: Device, run: Run) -> None:
    with dev.subscribe(events=True) as subscription:
        pid = dev.pid
        for state in ("down", "up"):
            run("ip", "link", "set", "lab0", state)
            eventually(
                lambda state=state: DeviceEvent(state, "lab0") == subscription.recv(PATIENCE)
            )
        send_one(OTHER)
        take(_packets(subscription))
        assert dev.pid == pid


def test_a_process_without_room_for_descriptors_is_told(dev: Device) -> None:
    program_ = (
        "import resource, tuncer\n"
        "dev = tuncer.attach('lab0'); dev.statistics(); kept = []\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))\n"
        "try:\n"
        "    while True: kept.append(dev.subscribe())\n"
        "except OSError as error: print(error.errno, len(kept) > 2)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program_],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.stdout == f"{errno.EMFILE} True\n", done.stderr
    assert dev.statistics()["restarts"] == 0


def test_hundreds_of_subscribers(dev: Device, capfd: Any) -> None:
    subscriptions = [dev.subscribe() for _ in range(300)]
    assert dev.statistics()["subscribers"] == 300
    kill_worker(dev)
    send_one(OTHER, b"to all")
    for subscription in subscriptions:
        eventually(lambda subscription=subscription: take(subscription)[0].data[28:], b"to all")
        subscription.close()
    eventually(lambda: not (dev.statistics()["subscribers"]))
    assert dev.statistics()["restarts"] == 1


class _packets:  # noqa: N801
    """A subscription without its events."""

    def __init__(self, subscription: Any) -> None:
        self.subscription = subscription

    def recv(self, timeout: float) -> Any:
        while not isinstance(item := self.subscription.recv(timeout), Packet):
            pass
        return item


def test_a_plain_subscriber_needs_only_the_wire_format(dev: Device) -> None:
    context = zmq.Context()
    plain = context.socket(zmq.SUB)
    plain.setsockopt(zmq.RCVTIMEO, int(PATIENCE * 1000))
    plain.setsockopt(zmq.SUBSCRIBE, b"lab0")
    plain.connect(dev.endpoint)
    eventually(lambda: dev.statistics()["subscribers"])
    for n in range(10):
        send_one(OTHER, b"%d" % n)
    found: list[bytes] = []
    expected = None
    while len(found) < 10:
        batch = wire_format.decode(plain.recv_multipart())
        assert batch.topic == b"lab0"
        assert expected in (None, batch.seq)
        expected = batch.seq + len(batch.packets)
        found += [p[28:] for p in batch.packets if p[0] >> 4 == 4]
    assert found == [b"%d" % n for n in range(10)]
    while (idle := wire_format.decode(plain.recv_multipart())).packets:
        expected = idle.seq + len(idle.packets)  # the kernel's own
    assert idle.seq == expected
    dev.destroy()
    while (last := wire_format.decode(plain.recv_multipart())).end is None:
        pass
    assert last.end == "closed"
    context.destroy(0)


def test_strangers_at_the_door_and_the_mailbox_harm_nobody(dev: Device) -> None:
    door = paths.control_path(socket.if_nametoindex("lab0"))
    for junk in (b"\xc1", b"x" * 5000, b"\x90", b"\x91\x01", b"\x91\xa9subscribe"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
            stranger.connect(str(door))
            stranger.send(junk)
    worker = dev._first.find()
    for nonsense in (["nonsense", [], {}], ["send"], "send", ["_send", [], {}], [[], [], {}], None):
        with pytest.raises((ValueError, TypeError)):
            worker.call(nonsense)
    with pytest.raises(TypeError):
        dev._call("send", 1, 2, 3)
    assert dev.statistics()["restarts"] == 0


def test_iperf3_and_tcpdump_run_on_the_interface(run: Run) -> None:
    """Two devices, forwarded to each other, carry a TCP connection between two namespaces."""
    with (
        tuncer.create("a0", TUN) as a,
        tuncer.create("b0", TUN) as b,
        contextlib.ExitStack() as stack,
    ):
        holder = stack.enter_context(
            program("unshare", "--net", "sh", "-c", "echo up; exec sleep 1000")
        )
        holder.expect("up")
        inside = ["nsenter", "-t", str(holder.process.pid), "-n"]
        run("ip", "link", "set", "b0", "netns", str(holder.process.pid))
        run(*inside, "ip", "addr", "add", OTHER, "peer", ADDRESS, "dev", "b0")
        run(*inside, "ip", "link", "set", "b0", "up")
        a.up(f"{ADDRESS}/32")
        a.dstaddr(OTHER)
        for devices in ((a, b), (b, a)):
            source, target = (pickle.dumps(device).hex() for device in devices)
            forward = stack.enter_context(program(sys.executable, "-c", FORWARD, source, target))
            forward.expect("forwarding")
        dump = stack.enter_context(
            program("tcpdump", "-Z", "root", "-l", "-i", "a0", "-c", "20", "-n", "tcp")
        )
        dump.expect("listening on a0")
        server = stack.enter_context(program(*inside, "iperf3", "-s", "-1", "--forceflush"))
        server.expect("Server listening")
        report = json.loads(run("iperf3", "-c", OTHER, "-n", "2M", "-J"))
        assert report["end"]["sum_sent"]["bytes"] >= 2_000_000
        dump.expect("20 packets captured")


FORWARD = """
import os, pickle, sys
source, target = (pickle.loads(bytes.fromhex(device)) for device in sys.argv[1:])
fd = target.getfd()
with source.subscribe() as subscription:
    print("forwarding", flush=True)
    for packet in subscription:
        try:
            os.write(fd, packet.data)
        except OSError:
            pass
"""


def test_a_device_under_a_supervisor_of_ones_own(run: Run) -> None:
    spec = tuncer.child_spec("net", "lab0", TUN)
    root: SupervisorRef = Supervisor.start_link([spec])
    dev = tuncer.attach("lab0")
    dev.up(ADDRESS)
    assert "lab0" in names(run)
    root.stop()
    assert "lab0" not in names(run)


def test_thousands_of_packets_by_ring_and_zmq_at_once(dev: Device) -> None:
    ours, theirs = dev.subscribe(), dev.subscribe(transport="zmq")
    numbers = list(range(3000))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect((OTHER, 9))
        for n in numbers:
            sender.send(n.to_bytes(8, "big"))
    for subscription in (ours, theirs):
        found = []
        while len(found) < len(numbers):
            number = number_of(subscription.recv(PATIENCE).data)  # type: ignore[union-attr]
            if number is not None:
                found.append(number)
        assert found == numbers
        subscription.close()


def test_subscribers_of_a_deleted_device_are_none_of_the_one_made_in_its_place(run: Run) -> None:
    spec = tuncer.child_spec("net", "lab0", TUN, restart="permanent", addresses=[ADDRESS])
    root: SupervisorRef = Supervisor.start_link([spec])
    former = tuncer.attach("lab0")
    with former.subscribe() as subscription:  # it stays open
        run("ip", "link", "del", "lab0")
        with pytest.raises(DeviceError, match="was deleted"):
            while True:
                subscription.recv(PATIENCE)
        new = eventually(lambda: next(iter(tuncer.devices()), None))
        assert new.statistics()["subscribers"] == 0
        assert not new.statistics()["active"]
    root.stop()
