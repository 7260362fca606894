"""A descriptor is handed to a worker that is about to start."""

import os
from pathlib import Path

import pytest

from tuncer.protocol import adoption, paths


def test_a_descriptor_is_taken_as_often_as_it_is_wanted(runtime_dir: Path) -> None:
    reader, writer = os.pipe()
    with adoption.offered(writer) as path:
        for _ in range(3):  # a worker that was killed is followed by another
            fd = adoption.taken(path)
            os.write(fd, b"x")
            os.close(fd)
    os.close(writer)
    assert os.read(reader, 10) == b"xxx"
    assert os.read(reader, 10) == b""  # nobody holds the other end any more
    os.close(reader)
    assert not path.exists()


def test_what_is_no_longer_offered_is_an_error(runtime_dir: Path) -> None:
    with adoption.offered(0) as path:
        pass
    with pytest.raises(OSError, match="a descriptor that is offered") as caught:
        adoption.taken(path)
    assert caught.value.filename == "a descriptor that is offered"


def test_an_offer_ends_with_an_error_of_its_block(runtime_dir: Path) -> None:
    with pytest.raises(LookupError), adoption.offered(0):
        raise LookupError
    assert not list(runtime_dir.glob("**/*.offer*"))
    assert not paths.offer().exists()
