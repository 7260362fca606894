"""The wire format of ZeroMQ messages."""

import zmq
from devices import OTHER
from processes import PATIENCE, eventually
from traffic import send_one

from tuncer import Device
from tuncer.protocol import wire_format


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
