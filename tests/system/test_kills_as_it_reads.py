"""Workers are killed between the read of a packet and the store of its length: none is lost.

Beside UDP there are frames of which only the kernel's counters tell the length: of a protocol of
nobody's, and frames and packets that begin with zeros.
"""

import socket
import struct
import threading
from typing import Any

import killed_workers
import pytest
from devices import ADDRESS, OTHER, TAP, TUN, neighbour
from processes import PATIENCE, Run, eventually
from traffic import number_of, send_numbered

import tuncer
from supervisor import Supervisor
from tuncer import Flag

EXPERIMENTAL = 0x88B5  # an EtherType for local experiments, IEEE 802


class RawSender(threading.Thread):
    """Sends numbered frames that begin with zeros, of all lengths, to the device itself."""

    def __init__(self) -> None:
        super().__init__()
        self.over = threading.Event()
        self.sent = 0

    def run(self) -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
            sender.bind(("lab0", EXPERIMENTAL))
            while not self.over.wait(0.001):
                frame = bytes(12) + struct.pack("!HQ", EXPERIMENTAL, self.sent)
                sender.send(frame.ljust(40 + self.sent * 7 % 1400, b"\0"))
                self.sent += 1


def kills_as_it_reads(run: Run, kind: Flag, kills: int, rate: int, count: int) -> None:
    """Send so many packets, at a rate a second, until the worker was killed so often."""
    spec = killed_workers.spec(
        killed_workers.EachTimeAsItHasRead, flags=kind, log_packets=1 << 20, log_bytes=256 << 20
    )
    root: Any = Supervisor.start_link([spec])
    dev = tuncer.attach("lab0")
    dev.up(f"{ADDRESS}/24", link_local=False)
    if kind & Flag.TAP:
        neighbour(run)
    with dev.subscribe(batch=True) as subscription:
        raw, sender = RawSender(), send_numbered(OTHER, rate, count)
        raw.start()
        assert sender.wait(60) == 0
        assert sender.stdout is not None
        sender.stdout.close()
        raw.over.set()
        raw.join()
        eventually(lambda: dev.statistics()["packets_read"] + dropped(dev) >= count + raw.sent)
        counts = dev.statistics()
        assert counts["restarts"] >= kills
        assert counts["packets_read"] == counts["kernel_packets"]
        assert counts["bytes_read"] == counts["kernel_bytes"]
        numbers, raws = [], []
        while subscription.stats()["delivered"] < counts["packets_read"]:
            batch = subscription.recv(PATIENCE)
            assert batch.lost == 0
            for data in batch.payloads():
                if data[:12] == bytes(12):
                    (number,) = struct.unpack_from("!Q", data, 14)
                    assert len(data) == max(40 + number * 7 % 1400, 22)
                    raws.append(number)
                else:
                    numbers.append(number_of(data, bool(kind & Flag.TAP)))
    assert numbers == sorted(set(numbers))
    assert raws == sorted(set(raws))
    assert len(numbers) + len(raws) == count + raw.sent - dropped(dev)
    root.stop()


def dropped(dev: tuncer.Device) -> int:
    return int(dev.statistics()["dropped"])


@pytest.mark.parametrize("kind", [TUN, TAP], ids=["tun", "tap"])
def test_kills_as_it_reads_lose_nothing(run: Run, kind: Flag, capfd: Any) -> None:
    kills_as_it_reads(run, kind, 5, 30_000, 60_000)
    capfd.readouterr()
