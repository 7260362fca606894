"""A subscription by ZeroMQ counts what it was too slow for."""

import socket

from devices import OTHER, TUN
from processes import Run

import tuncer
from tuncer.client.ring_subscription import RingSubscription


def test_counts_add_up_at_the_devices_end(run: Run) -> None:
    with tuncer.create("lab0", TUN) as dev:
        run("ip", "link", "set", "lab0", "addrgenmode", "none")
        dev.up("10.9.0.1/24")
        slow = dev.subscribe(transport="zmq")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.connect((OTHER, 9))
            while dev.statistics()["packets_read"] < 150_000:
                for _ in range(5_000):
                    sender.send(b"x" * 100)
        witness = dev.subscribe()
    # The log outlives the device in the witness's memory, and says how long it became at last.
    assert isinstance(witness, RingSubscription)
    assert witness._ring is not None
    read = witness._ring.control.head
    witness.close()
    packets = list(slow)
    assert slow.stats()["delivered"] == len(packets)
    assert slow.stats()["delivered"] + slow.stats()["lost"] == read
    slow.close()
