"""The device's own descriptor, read and written past the worker."""

import errno
import os
import time

import pytest
from devices import OTHER
from processes import PATIENCE
from traffic import send_one

import tuncer
from tuncer import Device


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


def test_a_descriptor_is_read_with_a_timeout(dev: Device) -> None:
    fd = dev.getfd()
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        tuncer.read(fd, timeout=0.05)
    assert time.monotonic() - began >= 0.05
    send_one(OTHER, b"one")
    assert tuncer.read(fd, timeout=PATIENCE)[28:] == b"one"
    os.close(fd)
