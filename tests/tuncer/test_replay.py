"""`tuncer replay`: which packets are sent, and when they are due."""

import itertools
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from devices import TUN
from hypothesis import given
from hypothesis import strategies as st
from pipelines import udp
from processes import PATIENCE, TUNCER, eventually, heed_ctrl_c, program
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

import tuncer
from tuncer import Device, Flag, Packet
from tuncer.cli.replay import schedule
from tuncer.protocol import pcapng
from tuncer.protocol.packet import Framing, packet_class
from tuncer.protocol.pcapng import Captured

MILLISECOND = 1_000_000


def capture(path: Path, datas: Sequence[bytes], *, is_frame: bool = False, each: int = 0) -> Path:
    """Write a capture of packets that are so many nanoseconds apart."""
    kind = packet_class(Framing(is_frame))
    packets = [kind(data, n, 10**18 + n * each, "was0") for n, data in enumerate(datas)]
    path.write_bytes(pcapng.section() + pcapng.blocks(packets, {})[0])
    return path


def replay(*arguments: object, status: int = 0) -> str:
    """Run the command; return what it says."""
    command = [TUNCER, "replay", *map(str, arguments)]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    assert found.returncode == status, found.stderr
    return found.stderr


def received(device: Device) -> int:
    return device.statistics()["packets_sent"]


times = st.lists(st.integers(0, 10**12), min_size=1, max_size=20)


@given(times, st.floats(0.01, 100), st.floats(0, 1000))
def test_all_times_are_reckoned_from_one_beginning(
    when: list[int], speed: float, began: float
) -> None:
    packets = [Captured(b"", time, Framing(), "", 0) for time in when]
    found = list(schedule(iter(packets), speed, began))
    assert [due.packet for due in found] == packets
    dues = [due.after for due in found]
    assert dues == sorted(dues)
    assert dues[0] == began
    latest = list(itertools.accumulate(when, max))
    for due, last in zip(dues, latest, strict=True):
        assert due == pytest.approx(began + max(0, last - when[0]) / 1e9 / speed)


def test_each_packet_is_sent_in_order(dev: Device, tmp_path: Path) -> None:
    path = capture(tmp_path / "a.pcapng", [udp(n) for n in range(1000)])
    before = received(dev)
    assert replay(path, "lab0").startswith("1000 packets sent in ")
    assert received(dev) == before + 1000
    assert replay(path, "--speed", "max", "--loop", "3").startswith("3000 packets sent in ")
    assert received(dev) == before + 4000


def test_what_comes_out_is_what_was_captured(tmp_path: Path) -> None:
    """A namespace's own socket receives it."""
    with tuncer.create("lab0", TUN) as dev:
        dev.up("10.0.0.2/24", link_local=False)
        head = IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=9, dport=53)
        datas = [bytes(head / str(n)) for n in range(3)]
        path = capture(tmp_path / "a.pcapng", datas, each=MILLISECOND)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
            receiver.bind(("10.0.0.2", 53))
            receiver.settimeout(PATIENCE)
            replay(path, "lab0")
            found = [receiver.recv(100) for _ in range(3)]
    assert found == [b"0", b"1", b"2"]


def test_a_device_with_packet_information(tmp_path: Path) -> None:
    path = capture(tmp_path / "a.pcapng", [udp(1), udp(2)])
    with tuncer.create("pi0", Flag.TUN) as dev:
        dev.up("10.0.0.2/24", link_local=False)
        assert replay(path, "pi0").startswith("2 packets sent")
        assert received(dev) == 2


def test_frames(tmp_path: Path) -> None:
    frame = bytes(Ether(dst="ff:ff:ff:ff:ff:ff", src="02:00:00:00:00:01") / IP(udp(1)))
    path = capture(tmp_path / "a.pcapng", [frame], is_frame=True)
    with tuncer.create("tap0", Flag.TAP | Flag.NO_PI) as tap:
        tap.up()
        assert replay(path).startswith("1 packets sent")
    with tuncer.create("tun0", TUN) as tun:
        tun.up()
        says = "the capture has Ethernet frames, and tun0 takes IP packets, as it is a TUN"
        assert says in replay(path, status=1)
        assert received(tun) == 0


def test_a_signal_ends_it_at_once(dev: Device, tmp_path: Path) -> None:
    path = capture(tmp_path / "a.pcapng", [udp(1), udp(2)], each=10**6 * MILLISECOND)
    with program(TUNCER, "replay", str(path), "lab0", preexec_fn=heed_ctrl_c) as replaying:
        eventually(lambda: received(dev), 1)
        replaying.process.send_signal(signal.SIGINT)
        said = replaying.process.communicate(timeout=20)[0]
    assert said.startswith("1 packets sent in ")
    assert replaying.process.returncode == 0


def test_a_loop_without_end_ends_by_a_signal(dev: Device, tmp_path: Path) -> None:
    path = capture(tmp_path / "a.pcapng", [udp(1)])
    command = [TUNCER, "replay", str(path), "lab0", "--loop", "0"]
    with program(*command, preexec_fn=heed_ctrl_c) as replaying:
        eventually(lambda: received(dev) > 100)
        replaying.process.send_signal(signal.SIGTERM)
        assert "packets sent in" in replaying.process.communicate(timeout=20)[0]


@pytest.mark.parametrize(("speed", "when"), [("1", 2**63), ("1e-300", 10**18 + 1)])
def test_a_packet_that_is_due_in_centuries(
    dev: Device, tmp_path: Path, speed: str, when: int
) -> None:
    packets = [Packet(udp(n), n, time, "was0") for n, time in enumerate((10**18, when))]
    path = tmp_path / "a.pcapng"
    path.write_bytes(pcapng.section() + pcapng.blocks(packets, {})[0])
    command = [TUNCER, "replay", str(path), "lab0", "--speed", speed]
    with program(*command, preexec_fn=heed_ctrl_c) as replaying:
        eventually(lambda: received(dev), 1)
        replaying.process.send_signal(signal.SIGINT)
        assert replaying.process.communicate(timeout=20)[0].startswith("1 packets sent")


def test_a_refused_packet_is_counted_and_told_once(dev: Device, tmp_path: Path) -> None:
    path = capture(tmp_path / "a.pcapng", [udp(1), b"\x99" * 30, b"\x99" * 30, udp(2)])
    said = replay(path, "lab0", status=1).splitlines()
    assert said[0].startswith("tuncer: a packet was not sent: ")
    assert said[1].startswith("2 packets sent in ")
    assert said[1].endswith(", 2 not")
    assert len(said) == 2


def test_packets_that_were_cut_are_not_sent(dev: Device, tmp_path: Path) -> None:
    packets = [Packet(udp(n, size=10 * n), n, 10**18, "was0") for n in range(3)]
    path = tmp_path / "a.pcapng"
    path.write_bytes(pcapng.section() + pcapng.blocks(packets, {}, 40)[0])
    said = replay(path, "lab0", status=1)
    assert "the capture has left out 6 bytes of it" in said
    assert "1 packets sent" in said
    assert ", 2 not" in said


def test_a_stream_and_a_damaged_file(dev: Device, tmp_path: Path) -> None:
    path = capture(tmp_path / "a.pcapng", [udp(n) for n in range(5)])
    with path.open("rb") as file:
        found = subprocess.run(
            [TUNCER, "replay", "-", "lab0"], stdin=file, capture_output=True, text=True, check=True
        )
    assert found.stderr.startswith("5 packets sent")
    path.write_bytes(path.read_bytes() + b"damaged" * 10)
    said = replay(path, "lab0", status=1)
    assert "is damaged" in said
    assert "5 packets sent" in said
    path.write_bytes(b"no capture")
    assert "is neither pcap nor pcapng" in replay(path, "lab0", status=1)
    path.write_bytes(pcapng.section())
    assert replay(path, "lab0", "--loop", "0").startswith("0 packets sent")


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["/nowhere"], 1, "/nowhere: No such file or directory"),
        (["-", "--loop", "2"], 2, "--loop needs a file"),
        (["x", "--loop", "-1"], 2, "--loop is 0 or above"),
        (["x", "--speed", "0"], 2, "0 is not above 0"),
        (["x", "--speed", "nan"], 2, "nan is not above 0"),
    ],
)
def test_what_is_wrong_is_said(dev: Device, arguments: list[str], status: int, says: str) -> None:
    assert says in replay(*arguments, status=status)


def test_a_recording_is_replayed_at_its_distances(dev: Device, tmp_path: Path) -> None:
    """Not before they are due, at any rate."""
    path = capture(tmp_path / "a.pcapng", [udp(n) for n in range(5)], each=50 * MILLISECOND)
    for speed, least in ((1.0, 0.2), (2.0, 0.1), (0.5, 0.4)):
        began = time.monotonic()
        replay(path, "lab0", "--speed", speed)
        assert time.monotonic() - began >= least
