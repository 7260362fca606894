"""Real programs on the interface: hosts in namespaces of their own, bridges, and packet tools."""

import contextlib
import ipaddress
import json
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from devices import TAP, TUN
from processes import EXAMPLES, PATIENCE, SUPPORT, Program, Run, heed_ctrl_c, program
from traffic import ping, reply_to, send_one

import tuncer
from tuncer import Device, Flag, GsoType, Offload, Packet, VnetHdr


class Host:
    """A network namespace, held by a process."""

    def __init__(self, holder: Program, run: Run) -> None:
        self.pid = holder.process.pid
        self._run = run

    @property
    def enter(self) -> list[str]:
        return ["nsenter", "--net", "--target", str(self.pid)]

    def run(self, *command: str) -> str:
        return self._run(*self.enter, *command)


@pytest.fixture(name="host")
def hosts(run: Run) -> Iterator[Callable[[], Host]]:
    with contextlib.ExitStack() as stack:

        def make() -> Host:
            command = ("unshare", "--net", "sh", "-c", "ip link set lo up; echo ready; cat")
            holder = stack.enter_context(program(*command))
            holder.expect("ready")
            return Host(holder, run)

        yield make


FORWARD = """
import pickle, sys
source, target = (pickle.loads(bytes.fromhex(text)) for text in sys.argv[1:])
with source.subscribe(batch=True) as subscription:
    print("forwarding", flush=True)
    for packets in subscription:
        target.send(*packets.payloads())
"""


@contextlib.contextmanager
def tunnel(a: Device, b: Device) -> Iterator[None]:
    """Forward packets between two devices, a process for each direction."""
    with contextlib.ExitStack() as stack:
        for devices in ((a, b), (b, a)):
            texts = (pickle.dumps(device).hex() for device in devices)
            forward = stack.enter_context(program(sys.executable, "-c", FORWARD, *texts))
            forward.expect("forwarding")
        yield


def test_two_hosts_with_a_point_to_point_tun_each(host: Callable[[], Host]) -> None:
    left, right = host(), host()
    with (
        tuncer.create("tun0", TUN, namespace=left.pid) as a,
        tuncer.create("tun0", TUN, namespace=right.pid) as b,
        tunnel(a, b),
    ):
        for device, mine, other in ((a, 1, 2), (b, 2, 1)):
            device.up(f"10.7.0.{mine}", peer=f"10.7.0.{other}", link_local=False)
            device.up(f"fd07::{mine}", peer=f"fd07::{other}", nodad=True)
            # A network behind the other end.
            device.add_address(f"10.7.{mine}0.1/24", scope="link")
            device.add_route(f"10.7.{other}0.0/24", source=f"10.7.0.{mine}")
        ping(left.run, "10.7.0.2", count=3)
        ping(left.run, "-6", "fd07::2", count=3)
        ping(right.run, "10.7.10.1", count=3)
        with program(*right.enter, "iperf3", "-s", "-1", "--forceflush") as server:
            server.expect("Server listening")
            report = json.loads(left.run("iperf3", "-c", "10.7.0.2", "-n", "2M", "-J"))
            assert report["end"]["sum_sent"]["bytes"] >= 2_000_000
        for pid in (*a.pids, *b.pids):
            os.kill(pid, signal.SIGKILL)
        ping(left.run, "10.7.0.2", count=3)


def answer_frame(frame: bytes, mac: bytes, address: bytes) -> bytes | None:
    """Be a host behind a TAP: answer ARP and pings."""
    if frame[12:14] == b"\x08\x06" and frame[38:42] == address:
        head = frame[6:12] + mac + frame[12:20] + b"\0\2"
        return head + mac + address + frame[22:28] + frame[28:32]
    if frame[12:14] == b"\x08\0" and frame[30:34] == address:
        reply = reply_to(frame[14:])
        return None if reply is None else frame[6:12] + mac + frame[12:14] + reply
    return None


RESPOND = """
import pickle, sys
sys.path[:0] = sys.argv[2:]
from test_programs import answer_frame
dev = pickle.loads(bytes.fromhex(sys.argv[1]))
with dev.subscribe() as subscription:
    print("answering", flush=True)
    for packet in subscription:
        answer = answer_frame(packet.data, bytes.fromhex("020000000009"), bytes([10, 6, 0, 9]))
        if answer:
            dev.send(answer)
"""


def test_a_tap_is_a_port_of_a_bridge(host: Callable[[], Host], run: Run) -> None:
    neighbour = host()
    run("ip", "link", "add", "br0", "type", "bridge")
    run(
        "ip",
        "link",
        "add",
        "v0",
        "type",
        "veth",
        "peer",
        "name",
        "eth0",
        "netns",
        str(neighbour.pid),
    )
    run("ip", "link", "set", "v0", "master", "br0", "up")
    run("ip", "link", "set", "br0", "up")
    neighbour.run("ip", "addr", "add", "10.6.0.1/24", "dev", "eth0")
    neighbour.run("ip", "link", "set", "eth0", "up")
    with tuncer.create("port0", TAP) as dev:
        dev.master("br0")
        dev.up()
        assert "master br0" in run("bridge", "link", "show", "dev", "port0")
        command = [RESPOND, pickle.dumps(dev).hex(), SUPPORT, str(Path(__file__).parent)]
        with program(sys.executable, "-P", "-c", *command) as responder:
            responder.expect("answering")
            ping(neighbour.run, "10.6.0.9", count=5)
            os.kill(dev.pid, signal.SIGKILL)
            ping(neighbour.run, "10.6.0.9", count=5)
        assert "02:00:00:00:00:09" in run("bridge", "fdb", "show", "br", "br0")


LEASE = "#!/bin/sh\necho $1 $ip $subnet $router\n"


def test_a_dhcp_client_gets_its_address(run: Run, tmp_path: Path) -> None:
    script = tmp_path / "lease"
    script.write_text(LEASE)
    script.chmod(0o755)
    command = [sys.executable, str(EXAMPLES / "dhcp_server.py")]
    with program(*command, preexec_fn=heed_ctrl_c) as server:
        assert "the kernel passes on only DHCP" in server.expect("only DHCP")
        printed = run(
            *("udhcpc", "-i", "lab0", "-n", "-q", "-f", "-t", "5", "-T", "1", "-s", str(script))
        )
        assert "bound 10.8.0.50 255.255.255.0 10.8.0.1" in printed
        server.expect("was told 10.8.0.50")
        server.process.send_signal(signal.SIGINT)
        server.expect("bye")
        assert server.process.wait(PATIENCE) == 0


def captured(path: Path) -> list[bytes]:
    """Return the packets of a capture file."""
    data, place, found = path.read_bytes(), 24, []
    while place + 16 <= len(data):
        length = struct.unpack_from("=I", data, place + 8)[0]
        found.append(data[place + 16 : place + 16 + length])
        place += 16 + length
    return found


@pytest.mark.parametrize("flags", [TUN, TAP], ids=["tun", "tap"])
def test_tcpdump_captures_what_is_sent_and_what_is_received(
    flags: Flag, run: Run, tmp_path: Path
) -> None:
    path = tmp_path / "capture"
    with tuncer.create("lab0", flags) as dev, dev.subscribe() as subscription:
        dev.up("10.9.0.1/24", link_local=False)
        if Flag.TAP in flags:
            run("ip", "neigh", "add", "10.9.0.2", "lladdr", "02:00:00:00:00:02", "dev", "lab0")
        command = ("tcpdump", "-Z", "root", "-U", "-n", "-i", "lab0", "-c", "20", "-w", str(path))
        with program(*command) as dump:
            dump.expect("listening on lab0")
            expected = []
            for number in range(10):
                send_one("10.9.0.2", b"%d" % number)
                packet = subscription.recv(PATIENCE).data
                assert packet[-1:] == b"%d" % number
                dev.send(packet)  # to nobody here, who drops it
                expected += [packet, packet]
            assert dump.process.wait(PATIENCE) == 0
    assert captured(path) == expected


SNIFF = """
import sys, warnings
warnings.simplefilter("ignore")
from scapy.all import AsyncSniffer
def started():
    print("go", flush=True)
sniffer = AsyncSniffer(iface="lab0", count=int(sys.argv[1]), started_callback=started)
sniffer.start()
sniffer.join(20)
for packet in sniffer.results:
    print("saw", bytes(packet).hex(), packet.summary(), flush=True)
"""

DISSECT = """
import sys, warnings
warnings.simplefilter("ignore")
from scapy.all import IP, UDP, Ether, Raw
for line in sys.stdin:
    kind, text = line.split()
    packet = (Ether if kind == "tap" else IP)(bytes.fromhex(text))
    print(packet[IP].src, packet[IP].dst, packet[UDP].dport, packet[Raw].load.decode())
"""


@pytest.mark.parametrize("flags", [TUN, TAP], ids=["tun", "tap"])
def test_scapy_reads_the_same_packets(flags: Flag, run: Run) -> None:
    count = 10
    with tuncer.create("lab0", flags) as dev, dev.subscribe() as subscription:
        dev.up("10.9.0.1/24", link_local=False)
        if Flag.TAP in flags:
            run("ip", "neigh", "add", "10.9.0.2", "lladdr", "02:00:00:00:00:02", "dev", "lab0")
        with program(sys.executable, "-c", SNIFF, str(count)) as scapy:
            scapy.expect("go")
            for number in range(count):
                send_one("10.9.0.2", b"%d" % number)
            found = [subscription.recv(PATIENCE).data for _ in range(count)]
            seen = [bytes.fromhex(scapy.expect("saw").split()[1]) for _ in range(count)]
    assert seen == found
    kind = "tap" if Flag.TAP in flags else "tun"
    text = "".join(f"{kind} {packet.hex()}\n" for packet in found)
    done = subprocess.run(
        [sys.executable, "-c", DISSECT], input=text, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [f"10.9.0.1 10.9.0.2 9 {n}" for n in range(count)]


def test_ping_6_is_answered(run: Run) -> None:
    def reply_to_6(packet: bytes) -> bytes | None:
        if packet[0] >> 4 != 6 or packet[6] != 58 or packet[40] != 128:
            return None
        checksum = int.from_bytes(packet[42:44], "big") - (1 << 8)  # the type goes from 128 to 129
        checksum = (checksum % 0x10000) + (checksum >> 16)
        head = b"\x81\0" + (checksum & 0xFFFF).to_bytes(2, "big")
        return packet[:8] + packet[24:40] + packet[8:24] + head + packet[44:]

    with tuncer.create("lab0", TUN) as dev, dev.subscribe() as subscription:
        dev.up("fd09::1/64", nodad=True)
        command = ("ping", "-6", "-c", "3", "-i", "0.02", "-w", "20", "fd09::2")
        with program(*command) as pinging:
            while pinging.process.poll() is None:
                with contextlib.suppress(TimeoutError):
                    reply = reply_to_6(subscription.recv(0.1).data)
                    if reply is not None:
                        dev.send(reply)
            assert pinging.process.returncode == 0


def test_ip_shows_exactly_what_was_set(run: Run) -> None:
    with tuncer.create("lab0", TAP, persist=True, owner=0, group=0, queues=2) as dev:
        dev.mac("02:00:00:00:00:01")
        dev.alias("the lab")
        dev.txqueuelen(123)
        dev.mtu(1400)
        dev.up("10.9.0.1/24", broadcast="10.9.0.7", link_local=False)
        dev.add_address("fd09::1/64", nodad=True)
        (link,) = json.loads(run("ip", "-j", "-d", "addr", "show", "dev", "lab0"))
        known = {
            "ifname": "lab0",
            "address": "02:00:00:00:00:01",
            "mtu": 1400,
            "txqlen": 123,
            "ifalias": "the lab",
        }
        assert {key: link[key] for key in known} == known
        assert {"UP", "LOWER_UP", "BROADCAST"} <= set(link["flags"])
        data: dict[str, Any] = link["linkinfo"]["info_data"]
        assert (data["type"], data["pi"], data["vnet_hdr"], data["multi_queue"]) == (
            *("tap", False, False),
            True,
        )
        assert (data["persist"], str(data["user"]) in {"0", "root"}) == (True, True)
        shown = {
            (a["local"], a["prefixlen"], a.get("broadcast"), a["scope"]) for a in link["addr_info"]
        }
        assert shown == {
            ("10.9.0.1", 24, "10.9.0.7", "global"),
            ("fd09::1", 64, None, "global"),
        }
        dev.persist(False)
    assert ipaddress.ip_address("10.9.0.1") not in {
        ipaddress.ip_address(a["local"])
        for found in json.loads(run("ip", "-j", "addr"))
        for a in found["addr_info"]
    }


def test_a_name_server_hears_only_questions(run: Run) -> None:
    with tuncer.create("lab0", TUN) as dev, dev.subscribe() as subscription:
        dev.up("10.9.0.1/24", link_local=False)
        dev.filter("udp port 53")
        for port in (54, 53, 55, 53):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.sendto(b"%d" % port, ("10.9.0.2", port))
        assert [subscription.recv(PATIENCE).data[-2:] for _ in range(2)] == [b"53", b"53"]


def test_super_packets_pass_between_two_hosts(host: Callable[[], Host]) -> None:
    left, right = host(), host()
    flags = TUN | Flag.VNET_HDR
    with (
        tuncer.create("tun0", flags, namespace=left.pid) as a,
        tuncer.create("tun0", flags, namespace=right.pid) as b,
        tunnel(a, b),
        a.subscribe() as watching,
    ):
        for device, mine, other in ((a, 1, 2), (b, 2, 1)):
            device.offload(Offload.CSUM | Offload.TSO4 | Offload.TSO6)
            device.up(f"10.7.0.{mine}", peer=f"10.7.0.{other}", link_local=False)
        with program(*right.enter, "iperf3", "-s", "-1", "--forceflush") as server:
            server.expect("Server listening")
            report = json.loads(left.run("iperf3", "-c", "10.7.0.2", "-n", "8M", "-J"))
            assert report["end"]["sum_sent"]["bytes"] >= 8_000_000
        longest = VnetHdr()
        with contextlib.suppress(TimeoutError):
            while True:
                item = watching.recv(0.1)
                assert isinstance(item, Packet)
                longest = max(longest, VnetHdr.parse(item.data), key=lambda h: len(h.payload))
        assert len(longest.payload) > 10_000  # the MTU is 1500
        assert longest.gso_type == GsoType.TCPV4
        assert longest.gso_size == 1448
