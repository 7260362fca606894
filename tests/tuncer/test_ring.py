"""The ring in memory: its size, and what is no ring."""

import os
import resource

import pytest
from processes import python

from tuncer.protocol import control_block, ring
from tuncer.protocol.ring_reader import RingReader


@pytest.mark.parametrize("packets", [0, 1, 64, 100, 129, 1 << 21])
def test_a_ring_of_no_sensible_number_of_packets_is_refused(packets: int) -> None:
    with pytest.raises(ValueError, match="log_packets is a power of two"):
        ring.create(packets)


@pytest.mark.parametrize("size", [0, 1 << 20, (2 << 20) + 1, 1 << 40])
def test_a_ring_of_no_sensible_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="log_bytes is a multiple of 4096"):
        ring.create(size=size)


@pytest.mark.parametrize("packets", [True, "128", 128.0, None])
def test_what_is_no_number_is_refused(packets: object) -> None:
    with pytest.raises(TypeError, match="log_packets is a number"):
        ring.create(packets)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="log_bytes is a number"):
        ring.create(size=packets)  # type: ignore[arg-type]


def test_what_is_no_ring_is_refused() -> None:
    fd = os.memfd_create("nonsense")
    os.ftruncate(fd, 8192)
    with pytest.raises(ValueError, match="no ring"):
        RingReader(fd)
    os.close(fd)


def test_a_ring_of_another_layout_is_refused() -> None:
    fd = ring.create()
    os.pwrite(fd, (1).to_bytes(8, "little"), 8 * control_block.LAYOUT)
    with pytest.raises(ValueError, match=r"the ring has layout 1, .* knows layout 4"):
        RingReader(fd)
    os.close(fd)


def test_nobody_cuts_it_short() -> None:
    fd = ring.create()
    for size in (0, 1 << 30):
        with pytest.raises(PermissionError):
            os.ftruncate(fd, size)
    os.close(fd)


def test_a_reader_cannot_write() -> None:
    fd = ring.create()
    reading = ring.for_reading(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.pwrite(reading, b"x", 0)
    os.close(reading)
    os.close(fd)


LIMITED = """
import resource
from tuncer.protocol import ring
from tuncer.protocol.ring_reader import RingReader
limit = getattr(resource, sys.argv[1])
fd = None if limit == resource.RLIMIT_FSIZE else ring.create(size=1 << 33)
resource.setrlimit(limit, (1 << 31, 1 << 31))
try:
    RingReader(fd) if fd else ring.create(size=1 << 33)
except OSError as error:
    print(error.strerror)
"""


@pytest.mark.parametrize(
    ("limit", "option"), [("RLIMIT_FSIZE", "ulimit -f"), ("RLIMIT_AS", "ulimit -v")]
)
def test_the_limit_that_it_is_over_is_told(limit: str, option: str) -> None:
    assert getattr(resource, limit) is not None
    said = python(LIMITED, limit)
    assert "a ring of 8193 MiB has more than" in said
    assert option in said
    assert "give less log_bytes=" in said
