"""A value that survives the process."""

import os

import pytest

from tuncer.worker import crash_safe_value


def test_a_record_keeps_its_value() -> None:
    fd = crash_safe_value.create()
    assert crash_safe_value.load(fd) is None
    for value in ([1, "a"], {"b": None}, "x" * 1000):
        crash_safe_value.save(fd, value)
        assert crash_safe_value.load(fd) == value
    with pytest.raises(ValueError, match="at most"):
        crash_safe_value.save(fd, bytes(crash_safe_value.HALF))
    assert crash_safe_value.load(fd) == "x" * 1000
    os.close(fd)
