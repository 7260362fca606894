"""A value that survives the process."""

import os

import pytest

from supervisor.actor import crash_safe_value
from supervisor.protocol import codec


def test_a_record_keeps_its_value() -> None:
    fd = crash_safe_value.create()
    assert crash_safe_value.load(fd) is None
    for value in ([1, "a"], {"b": None}, "x" * 1000):
        crash_safe_value.save(fd, value)
        assert crash_safe_value.load(fd) == value
    with pytest.raises(ValueError, match="over the limit"):
        crash_safe_value.save(fd, bytes(codec.LIMIT))
    assert crash_safe_value.load(fd) == "x" * 1000
    os.close(fd)
