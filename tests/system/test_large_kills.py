"""Workers are killed while packets of up to 64 KiB come, and the MTU changes: nothing is lost."""

import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from devices import ADDRESS, OTHER, TAP, TUN, kill_at_once, neighbour
from packets import problems
from processes import PATIENCE, Run, eventually
from traffic import UDP_SEGMENT

import tuncer
from tuncer import Device, Flag, Offload

EACH = 1200  # bytes of a segment
LAST = 2**64 - 1


class Sender(threading.Thread):
    """Sends numbered datagrams, one to fifty by one call, until it is told to stop."""

    def __init__(self) -> None:
        super().__init__()
        self.over = threading.Event()
        self.sent = 0

    def run(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.connect((OTHER, 9))
            sender.setsockopt(socket.SOL_UDP, UDP_SEGMENT, EACH)
            while not self.over.is_set():
                count = 1 + self.sent * 7 % 50
                numbers = range(self.sent, self.sent + count)
                sender.send(b"".join(struct.pack("!Q", n).ljust(EACH, b"x") for n in numbers))
                self.sent += count
                time.sleep(0.0005)  # the kernel queues 1,000 of them while no worker runs
            sender.send(struct.pack("!Q", LAST))


def follow(subscription: Any, before: int) -> list[int]:
    """Return the numbers in the ordinary packets that come, up to the last."""
    found: list[int] = []
    with subscription:
        expected = None
        while True:
            batch = subscription.recv(PATIENCE)
            assert batch.lost == 0
            assert expected is None or batch.seq in {expected, expected - 1}  # split in a large one
            expected = batch.seqs[-1] + 1
            for data in batch.payloads():
                (number,) = struct.unpack_from("!Q", data, before + 28)
                if number == LAST:
                    return found
                found.append(number)
            assert not problems(batch.payloads()[-1], before)


def kills_with_large_packets(run: Run, kind: Flag, kills: int) -> None:
    with tuncer.create("lab0", kind, offload=True, log_bytes=256 << 20) as dev:
        if not dev.offload() & Offload.USO4:
            pytest.skip("this kernel has no USO")
        dev.up(f"{ADDRESS}/24", link_local=False)
        if kind & Flag.TAP:
            neighbour(run)
        numbers = between_kills(dev, kind, kills)
        counts = dev.statistics()
        assert counts["restarts"] == kills
        assert counts["dropped"] == 0
        assert counts["packets_read"] == counts["kernel_packets"]
        # The kernel does not count the virtio_net_hdr.
        headers = 10 * counts["packets_read"]
        assert counts["bytes_read"] == counts["kernel_bytes"] + headers
        assert numbers[0] == numbers[1] == list(range(len(numbers[0])))


def between_kills(dev: Device, kind: Flag, kills: int) -> list[list[int]]:
    before = 14 if kind & Flag.TAP else 0
    subscriptions = [dev.subscribe(batch=True), dev.subscribe(batch=True, policy="lossless")]
    sender = Sender()
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(follow, one, before) for one in subscriptions]
        sender.start()
        try:
            for kill in range(kills):
                due = sender.sent + 200
                eventually(lambda due=due: sender.sent >= due)
                restarts = dev.statistics()["restarts"]
                kill_at_once(dev)
                eventually(lambda restarts=restarts: dev.statistics()["restarts"] > restarts)
                dev.mtu(1500 if kill % 2 else 9000)
        finally:
            sender.over.set()
            sender.join()
        found = [one.result(PATIENCE * 2) for one in running]
    assert sender.sent == len(found[0])
    return found


@pytest.mark.parametrize("kind", [TUN, TAP], ids=["tun", "tap"])
def test_kills_between_large_packets_lose_nothing(run: Run, kind: Flag, capfd: Any) -> None:
    kills_with_large_packets(run, kind, 15)
    capfd.readouterr()
