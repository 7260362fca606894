"""Capture files: what is written, others read; what others write, is read."""

import io
import struct
import subprocess
from pathlib import Path
from typing import Any

import pcapng as oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipelines import udp
from processes import run
from scapy.layers.inet import IP
from scapy.layers.l2 import Ether
from scapy.utils import wrpcap, wrpcapng

from tuncer.protocol import pcapng
from tuncer.protocol.packet import Framing, Packet, packet_class
from tuncer.protocol.pcapng import Captured, CaptureError

WHEN = 1_700_000_000_123_456_789
FRAME = bytes(Ether(dst="02:00:00:00:00:01", src="02:00:00:00:00:02") / IP(udp(1)))


def written() -> bytes:
    return b"".join(
        [
            pcapng.section(),
            pcapng.interface("lab0", pcapng.RAW),
            pcapng.packet(0, WHEN, udp(1), "why é"),
            pcapng.interface("tap0", pcapng.ETHERNET),
            pcapng.packet(1, WHEN + 1, FRAME),
            pcapng.statistics(0, WHEN, 10, 2),
            pcapng.section(),  # as after a crash
            pcapng.interface("lab0", pcapng.RAW),
            pcapng.packet(0, WHEN + 2, udp(2, size=1)),
        ]
    )


def records(data: bytes) -> list[Captured]:
    return list(pcapng.read(io.BytesIO(data)))


def test_what_is_written_is_read() -> None:
    found = records(written())
    assert [(r.data, r.timestamp, r.framing, r.interface) for r in found] == [
        (udp(1), WHEN, Framing(), "lab0"),
        (FRAME, WHEN + 1, Framing(is_frame=True), "tap0"),
        (udp(2, size=1), WHEN + 2, Framing(), "lab0"),
    ]
    assert found[-1].end == len(written())


def test_tshark_and_tcpdump_read_it(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    path.write_bytes(written())
    fields = ("frame.time_epoch", "frame.interface_name", "frame.len", "ip.dst", "frame.comment")
    options = [part for field in fields for part in ("-e", field)]
    said = run("tshark", "-r", str(path), "-T", "fields", *options)
    assert [line.split("\t") for line in said.splitlines()] == [
        ["1700000000.123456789", "lab0", "36", "10.0.0.2", "why é"],
        ["1700000000.123456790", "tap0", "50", "10.0.0.2", ""],
        ["1700000000.123456791", "lab0", "37", "10.0.0.2", ""],
    ]
    one_link = tmp_path / "b.pcapng"  # tcpdump reads one link type, and one section
    one_link.write_bytes(
        pcapng.section() + pcapng.interface("lab0", 101) + pcapng.packet(0, WHEN, udp(1))
    )
    assert "10.0.0.1.1001 > 10.0.0.2.53" in run("tcpdump", "-n", "-r", str(one_link))


@pytest.mark.filterwarnings("ignore::DeprecationWarning:pcapng")
def test_cut_packets_and_lost_ones_are_told(tmp_path: Path) -> None:
    packets = [Packet(udp(n), n, WHEN + n, "lab0", 3 * n) for n in range(2)]
    frames = [packet_class(Framing(is_frame=True, start=4))(b"pppp" + FRAME, 0, WHEN, "tap0")]
    one, known = pcapng.blocks(packets, {}, 30)
    other, known = pcapng.blocks([*frames, *packets], known, 30)
    path = tmp_path / "a.pcapng"
    ending = pcapng.ending(known, WHEN)
    path.write_bytes(pcapng.section("as a test") + one + other + ending)
    fields = ("frame.interface_name", "frame.len", "frame.cap_len", "frame.encap_type")
    options = [part for field in fields for part in ("-e", field)]
    said = run("tshark", "-r", str(path), "-T", "fields", *options)
    raw, ethernet = ["lab0", "36", "30", "7"], ["tap0", "50", "30", "1"]
    assert [line.split("\t") for line in said.splitlines()] == [raw, raw, ethernet, raw, raw]
    blocks: list[Any] = list(oracle.FileScanner(io.BytesIO(path.read_bytes())))
    assert blocks[0].options["opt_comment"] == "as a test"
    packets_of_it = [block for block in blocks if type(block).__name__ == "EnhancedPacket"]
    drops = [block.options.get("epb_dropcount") for block in packets_of_it]
    assert drops == [None, 3, None, None, 3]
    counts = [block.options for block in blocks if type(block).__name__ == "InterfaceStatistics"]
    assert [(one["isb_ifrecv"], one["isb_ifdrop"]) for one in counts] == [(4, 6), (1, 0)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning:pcapng")
def test_python_pcapng_reads_it() -> None:
    blocks: list[Any] = list(oracle.FileScanner(io.BytesIO(written())))
    kinds = [type(block).__name__ for block in blocks]
    assert kinds == [
        *("SectionHeader", "InterfaceDescription", "EnhancedPacket", "InterfaceDescription"),
        *("EnhancedPacket", "InterfaceStatistics"),
        *("SectionHeader", "InterfaceDescription", "EnhancedPacket"),
    ]
    assert blocks[2].packet_data == udp(1)
    assert blocks[2].options["opt_comment"] == "why é"
    assert blocks[5].options["isb_ifrecv"] == 10
    assert blocks[5].options["isb_ifdrop"] == 2


@pytest.mark.parametrize("nano", [False, True])
@pytest.mark.parametrize("endianness", ["<", ">"])
def test_pcap_of_scapy_is_read(tmp_path: Path, nano: bool, endianness: str) -> None:
    path = str(tmp_path / "a.pcap")
    packets = [IP(udp(n)) for n in range(3)]
    for n, packet in enumerate(packets):
        packet.time = 1_700_000_000 + n
    wrpcap(path, packets, nano=nano, endianness=endianness, linktype=101)
    with open(path, "rb") as file:
        found = list(pcapng.read(file, path))
    assert [r.data for r in found] == [udp(n) for n in range(3)]
    assert [r.timestamp for r in found] == [(1_700_000_000 + n) * 10**9 for n in range(3)]


def test_pcapng_of_scapy_and_of_editcap_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    wrpcapng(str(path), [Ether(FRAME)])
    assert [r.data for r in records(path.read_bytes())] == [FRAME]
    ours, theirs = tmp_path / "b.pcapng", tmp_path / "c.pcapng"
    ours.write_bytes(written())
    run("editcap", str(ours), str(theirs))
    assert [r[:4] for r in records(theirs.read_bytes())] == [r[:4] for r in records(written())]


def test_a_pipe_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    path.write_bytes(written())
    with subprocess.Popen(["cat", str(path)], stdout=subprocess.PIPE, bufsize=0) as started:
        assert started.stdout is not None
        assert len(list(pcapng.read(started.stdout))) == 3


def big_endian() -> bytes:
    def block(kind: int, body: bytes) -> bytes:
        size = struct.pack(">I", len(body) + 12)
        return struct.pack(">I", kind) + size + body + size

    simple = struct.pack(">I", len(udp(1))) + udp(1)
    return (
        block(pcapng.SECTION, struct.pack(">IHHq", 0x1A2B3C4D, 1, 0, -1))
        + block(pcapng.INTERFACE, struct.pack(">HHIHHB3x", 101, 0, 0, 9, 1, 0x80 | 20))
        + block(0xBAD, bytes(8))
        + block(pcapng.SIMPLE, simple)
        + block(pcapng.ENHANCED, struct.pack(">IIIII", 0, 0, 3 << 20, 4, 4) + b"abcd")
    )


def test_other_byte_orders_blocks_and_units_of_time() -> None:
    simple, enhanced = records(big_endian())
    assert simple.data == udp(1)
    assert (enhanced.data, enhanced.timestamp) == (b"abcd", 3 * 10**9)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty, or no capture"),
        (b"abcdefgh", "neither pcap nor pcapng: it begins with 61626364"),
        (pcapng.section() + pcapng.interface("a", 113), "link type 113"),
        (pcapng.section() + pcapng.packet(0, 0, b"x"), "a packet's block"),
        (pcapng.section()[:10], "a section header"),
        (pcapng.section() + struct.pack("<III", 6, 8, 8), "a block of 8 bytes"),
        (struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 1, 101) + b"\xff" * 16, "a packet of"),
    ],
)
def test_what_is_damaged_is_told(data: bytes, says: str) -> None:
    with pytest.raises(CaptureError, match=says):
        records(data)


def test_a_file_that_is_cut_ends_there() -> None:
    whole = written()
    for size in range(200, len(whole)):
        assert records(whole[:size]) == [r for r in records(whole) if r.end <= size]


@given(st.data())
def test_hostile_files_end_or_are_told(data: st.DataObject) -> None:
    start = data.draw(st.sampled_from([written(), big_endian(), b""]))
    damaged = bytearray(start + data.draw(st.binary(max_size=60)))
    for _ in range(data.draw(st.integers(0, 4)) if damaged else 0):
        place = data.draw(st.integers(0, len(damaged) - 1))
        damaged[place] = data.draw(st.integers(0, 255))
    try:
        records(bytes(damaged))
    except CaptureError:
        return
